"""Folds batch norms into the convolutions before them, for faster inference.

In inference a batch norm computes y = s x + t with constants s and t per channel. A convolution is linear, so
with kernels s k and bias t it gives y itself (Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2). TensorFlow, LiteRT, ONNX Runtime and
OpenVINO run a convolution with its bias, a shortcut and a ReLU in one kernel.

It works on TensorFlow's graph, not on Keras layers, so it supports any backbone, and SavedModels too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

_LINEAR = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


class FrozenGraph(NamedTuple):
    """A function as a graph whose weights are constants.

    Attributes:
        graph_def: the graph, without functions.
        source: name of the input tensor.
        targets: names of the output tensors, by output.
    """

    graph_def: tf.compat.v1.GraphDef
    source: str
    targets: dict[str, str]

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute the outputs, in eager mode or inside a `tf.function`."""
        return dict(tf.function(self.part, autograph=False)(images))

    def part(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute the outputs, only inside a `tf.function`."""
        body = tf.compat.v1.GraphDef(versions=self.graph_def.versions)
        body.node.extend(node for node in self.graph_def.node if node.op != "Placeholder")
        found = tf.import_graph_def(body, {self.source: images}, list(self.targets.values()), name="")
        return dict(zip(self.targets, found, strict=True))


def fold(function: Any, norms: bool = True) -> FrozenGraph:
    """Freeze a concrete function of one tensor and fold its batch norms.

    It folds every factor or summand per channel that follows a convolution, a depthwise convolution or a
    matrix product. Batch norms may be those of Keras 3 (products and sums) or of Keras 2 (fused).

    Args:
        function: a concrete function, for example a signature of a loaded SavedModel.
        norms: False only freezes the function.

    Returns:
        The graph; it computes the same function up to rounding.

    Example:
        >>> served = tf.saved_model.load("saved_models/market/1").signatures["serving_default"]
        >>> fold(served)(images)["embedding"].shape
        TensorShape([4, 2048])
    """
    frozen = convert_variables_to_constants_v2(function)
    (source,) = (tensor.name for tensor in frozen.inputs)
    names = sorted(function.structured_outputs)
    targets = dict(zip(names, (tensor.name for tensor in frozen.outputs), strict=True))
    graph_def = frozen.graph.as_graph_def()
    graph_def = _computed_in_advance(graph_def, [node_of(target) for target in targets.values()])
    if norms:
        graph_def = _folded(graph_def, [node_of(target) for target in targets.values()])
    return FrozenGraph(graph_def, source, targets)


def node_of(tensor: str) -> str:
    """Name of the node in a tensor's name or a node's input."""
    return tensor.lstrip("^").partition(":")[0]


def _constant(name: str, value: np.ndarray) -> tf.compat.v1.NodeDef:
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    return node


def _computed_in_advance(graph_def: tf.compat.v1.GraphDef, outputs: Collection[str]) -> tf.compat.v1.GraphDef:
    """The graph with everything that depends only on constants replaced by its value."""
    graph_def = _bridged(graph_def, outputs)
    fixed: set[str] = set()
    for node in graph_def.node:  # in the order of their inputs
        if node.op == "Const" or (node.input and all(node_of(i) in fixed for i in node.input)):
            fixed.add(node.name)
    computed = {node.name for node in graph_def.node if node.name in fixed and node.op != "Const"}
    wanted = sorted(
        {i for n in graph_def.node if n.name not in fixed for i in n.input if node_of(i) in computed}
    )
    if any(":" in name for name in wanted) or not wanted:
        return graph_def  # none of a norm's operations has several outputs
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        values = dict(zip(wanted, session.run([f"{name}:0" for name in wanted]), strict=True))
    result = tf.compat.v1.GraphDef(versions=graph_def.versions)
    for node in graph_def.node:
        known = node.name in values
        result.node.append(_constant(node.name, np.asarray(values[node.name])) if known else node)
    return needed(result, outputs)


def _bridged(graph_def: tf.compat.v1.GraphDef, outputs: Collection[str]) -> tf.compat.v1.GraphDef:
    """The graph without identities and control edges; a frozen graph has no state."""
    bridge = {
        node.name: node.input[0]
        for node in graph_def.node
        if node.op in ("Identity", "ReadVariableOp") and node.name not in outputs
    }

    def across(name: str) -> str:
        while name in bridge:
            name = bridge[name]
        return name

    result = tf.compat.v1.GraphDef(versions=graph_def.versions)
    for node in graph_def.node:
        if node.name not in bridge:
            inputs = [across(name) for name in node.input if not name.startswith("^")]
            copy = result.node.add()
            copy.CopyFrom(node)
            del copy.input[:]
            copy.input.extend(inputs)
    return needed(result, outputs)


def needed(graph_def: tf.compat.v1.GraphDef, outputs: Collection[str]) -> tf.compat.v1.GraphDef:
    """The nodes of an acyclic graph that the outputs need, each after its inputs."""
    nodes = {node.name: node for node in graph_def.node}
    result = tf.compat.v1.GraphDef(versions=graph_def.versions)
    placed: set[str] = set()
    waiting = list(outputs)
    while waiting:  # not recursive: deep networks exceed Python's stack
        missing = [i for i in map(node_of, nodes[waiting[-1]].input) if i not in placed]
        if missing:
            waiting.extend(missing)
            continue
        name = waiting.pop()
        if name not in placed:
            placed.add(name)
            result.node.append(nodes[name])
    return result


def _folded(graph_def: tf.compat.v1.GraphDef, outputs: Collection[str]) -> tf.compat.v1.GraphDef:
    nodes = {node.name: node for node in graph_def.node}
    users: dict[str, list[str]] = {}
    for node in graph_def.node:
        for name in node.input:
            users.setdefault(node_of(name), []).append(node.name)
    replaced: dict[str, list[tf.compat.v1.NodeDef]] = {}
    absorbed: set[str] = set()
    for node in graph_def.node:
        kernel = nodes[node.input[1]] if node.op in _LINEAR and node_of(node.input[1]) in nodes else None
        if kernel is None or kernel.op != "Const" or not _folds(node):
            continue
        value = tf.make_ndarray(kernel.attr["value"].tensor)
        channels = value.shape[-1] * (value.shape[-2] if node.op == "DepthwiseConv2dNative" else 1)
        scale, shift, chain = np.ones(channels), np.zeros(channels), [node.name]
        while chain[-1] not in outputs and len(users.get(chain[-1], ())) == 1:
            user = nodes[users[chain[-1]][0]]
            affine = _affine(user, chain[-1], nodes, channels)
            if affine is None:
                break
            scale, shift = scale * affine[0], shift * affine[0] + affine[1]
            chain.append(user.name)
        if len(chain) == 1:
            continue
        scaled = value * (scale.reshape(value.shape[-2:]) if channels != value.shape[-1] else scale)
        last, linear = chain[-1], tf.compat.v1.NodeDef()
        linear.CopyFrom(node)
        linear.input[1] = f"{node.name}/folded_kernel"
        bias = tf.compat.v1.NodeDef(name=last, op="BiasAdd", input=[node.name, f"{last}/folded_bias"])
        bias.attr["T"].type = tf.float32.as_datatype_enum
        bias.attr["data_format"].s = b"NHWC"
        replaced[node.name] = [_constant(linear.input[1], scaled.astype(np.float32)), linear]
        replaced[last] = [_constant(bias.input[1], shift.astype(np.float32)), bias]
        absorbed.update(chain[1:-1])
    result = tf.compat.v1.GraphDef(versions=graph_def.versions)
    for node in graph_def.node:
        if node.name not in absorbed:
            result.node.extend(replaced.get(node.name, [node]))
    return needed(result, outputs)


def _folds(node: tf.compat.v1.NodeDef) -> bool:
    if _attribute(node, "T").type != tf.float32.as_datatype_enum or _attribute(node, "transpose_b").b:
        return False
    return node.op == "MatMul" or _attribute(node, "data_format").s in (b"NHWC", b"")


def _attribute(node: tf.compat.v1.NodeDef, name: str) -> Any:
    """An attribute, or an empty one; `node.attr[name]` itself would create a missing one."""
    return node.attr[name] if name in node.attr else tf.compat.v1.AttrValue()


def _affine(
    user: tf.compat.v1.NodeDef, given: str, nodes: dict[str, Any], channels: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and summand per channel that `user` applies to the tensor `given`; None if it does not."""
    others = _values([i for i in user.input if i != given], nodes)
    if others is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if user.op in _NORMS:
        training, layout = _attribute(user, "is_training").b, _attribute(user, "data_format").s
        if training or user.input[0] != given or layout == b"NCHW":
            return None
        gamma, beta, mean, variance = others
        scale = gamma / np.sqrt(variance + _attribute(user, "epsilon").f)
        return scale, beta - mean * scale
    if len(others) != 1 or not _a_channel(others[0], channels):
        return None
    value = others[0].reshape(-1) * one
    if user.op == "Mul":
        return value, zero
    if user.op in ("AddV2", "Add", "BiasAdd"):
        return one, value
    if user.op == "Sub" and user.input[0] == given:
        return one, -value
    return None


def _a_channel(value: np.ndarray, channels: int) -> bool:
    """Whether a constant broadcasts to `(..., channels)` as one value, or one per channel."""
    return value.size == 1 or (value.size == channels and value.shape[-1] == channels)


def _values(names: Iterable[str], nodes: dict[str, Any]) -> list[np.ndarray] | None:
    """The values of constants in float64; None if one of the names is not a constant."""
    found = [nodes.get(name) for name in names]
    if any(node is None or node.op != "Const" for node in found):
        return None
    arrays = [tf.make_ndarray(node.attr["value"].tensor) for node in found if node is not None]
    if any(array.dtype.kind != "f" for array in arrays):
        return None
    return [array.astype(np.float64) for array in arrays]
