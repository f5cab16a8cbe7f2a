"""A folded network with its weights in variables, as a SavedModel keeps them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.serving.folding import FrozenGraph, needed, node_of


class Network:
    """A graph whose weights are variables, which all functions it is called in share.

    As constants they would be in the graph itself: 94 MB of it for a ResNet-50, which every loader parses and
    optimises first (1.9 s in place of 0.6 until the first answer), and no more than 2 GB in all.

    Args:
        graph: from normalised images to the outputs.
        half: keep kernels as float16; they are turned to float32 whenever they are used. Biases stay as they
            are: they weigh next to nothing.

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
        """One output of the network, inside a `tf.function`; what only others need is left out.

        Args:
            images: `(N, H, W, 3)` float32.
            output: its name.
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
