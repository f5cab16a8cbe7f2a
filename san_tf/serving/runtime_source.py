"""The graph of an export's `serving_default`, in a form that other runtimes can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.serving.encoder_export import read_metadata
from san_tf.serving.fingerprint import verify_export
from san_tf.serving.folding import FrozenGraph, fold


class Source(NamedTuple):
    """An export to write for other runtimes.

    Attributes:
        loaded: the SavedModel; keeps its variables alive.
        graph: graph of its signature `serving_default`, from `(N, h, w, 3)` uint8 to `embedding`.
        metadata: see `serving.read_metadata`.
    """

    loaded: Any
    graph: FrozenGraph
    metadata: dict[str, Any]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        height, width = self.metadata["image_size"]
        return height, width

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings of the SavedModel itself."""
        served = self.loaded.signatures["serving_default"]
        answer: np.ndarray = served(images=tf.constant(images))["embedding"].numpy()
        return answer

    def function(self) -> Any:
        """The graph as a `tf.function` of `images`."""
        spec = tf.TensorSpec((None, None, None, 3), tf.uint8, "images")

        def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.graph.part(images)

        return tf.function(embed, input_signature=[spec], autograph=False)


def read_source(folder: str | os.PathLike[str]) -> Source:
    """Load a version of an export and fold its graph.

    Args:
        folder: `<path>/<version>` as `export_encoder` returned it.

    Raises:
        UserError: the folder is not an export of this package, or cannot be loaded.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    verify_export(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
        graph = fold(loaded.signatures["serving_default"])
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{folder} cannot be loaded ({reason}); export it again.") from error
    return Source(loaded, graph._replace(graph_def=_resizing_floats(graph.graph_def)), metadata)


def _resizing_floats(graph_def: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """The same graph with images cast to float32 before they are resized.

    Exports of earlier versions resize uint8 to float32 in one operation, which LiteRT and ONNX lack.
    """
    result = tf.compat.v1.GraphDef(versions=graph_def.versions)
    floating, small = tf.float32.as_datatype_enum, tf.uint8.as_datatype_enum
    for node in graph_def.node:
        copy = tf.compat.v1.NodeDef()
        copy.CopyFrom(node)
        if node.op == "ResizeBilinear" and node.attr["T"].type == small:
            cast = result.node.add(name=f"{node.name}/cast", op="Cast", input=[node.input[0]])
            cast.attr["SrcT"].type, cast.attr["DstT"].type = small, floating
            copy.input[0], copy.attr["T"].type = cast.name, floating
        result.node.append(copy)
    return result
