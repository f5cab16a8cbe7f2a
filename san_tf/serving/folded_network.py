"""A folded network with its weights in variables, for a SavedModel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.serving.folding import FrozenGraph, needed, node_of


class Network:
    """A graph whose weights are variables, shared by all functions that call it.

    Constant weights would be part of the graph. A ResNet-50 would have a graph of 94 MB, which every loader
    must parse and optimise (1.9 s instead of 0.6 s until the first answer); the limit is 2 GB.

    Args:
        graph: graph from normalised images to the outputs.
        half: keep kernels as float16 and cast them to float32 for each use. Biases stay float32, because they
            are small.

    Raises:
        UserError: a kernel has a value beyond float16.

    Example:
        >>> network = Network(fold(function))
        >>> tf.function(lambda images: network(images, "embedding"))(images).shape
        TensorShape([4, 2048])
    """

    def __init__(self, graph: FrozenGraph, half: bool = False) -> None:
        self._graph = graph
        self._variables: dict[str, tf.Variable] = {}
        for node in graph.graph_def.node:
            if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum:
                value = tf.make_ndarray(node.attr["value"].tensor)
                if value.size > 1:
                    self._variables[node.name] = tf.Variable(_kept(value, half), trainable=False)

    def __call__(self, images: tf.Tensor, output: str) -> tf.Tensor:
        """Compute one output of the network, inside a `tf.function`.

        Args:
            images: `(N, H, W, 3)` float32.
            output: name of the output; parts of the graph that it does not need are left out.
        """
        target = self._graph.targets[output]
        body = needed(self._graph.graph_def, [node_of(target)])
        given: Mapping[str, tf.Tensor] = {
            f"{node.name}:0": tf.cast(tf.convert_to_tensor(self._variables[node.name]), tf.float32)
            for node in body.node
            if node.name in self._variables
        }
        part = tf.compat.v1.GraphDef(versions=body.versions)
        part.node.extend(n for n in body.node if n.op != "Placeholder" and f"{n.name}:0" not in given)
        (found,) = tf.import_graph_def(part, {**given, self._graph.source: images}, [target], name="")
        return found


def _kept(value: np.ndarray, half: bool) -> np.ndarray:
    if not half or value.ndim < 2:
        return value
    if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
        raise UserError("A weight of this encoder is beyond float16; export it in float32.")
    return value.astype(np.float16)
