"""ONNX encoders in less room: kernels as float16, or kernels and maps as int8."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.serving.runtime_sessions import package


def half_weights(model: Any) -> None:
    """Keep kernels as float16, each turned to float32 by a cast that ONNX Runtime computes once, on loading.

    Float16 arithmetic would be no gain: on CPUs ONNX Runtime has hardly any.

    Args:
        model: `onnx.ModelProto`, changed.
    """
    onnx = package("onnx")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2:
            name, value = tensor.name, onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), f"{name}/float16"))
            casts.append(
                onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT, name=name)
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantize(model: Any, path: Path, images: Sequence[np.ndarray]) -> None:
    """Write a model whose network computes in int8; what comes before and behind it stays float32.

    Kernels have a scale a channel, maps one each (quantise-dequantise nodes, which ONNX Runtime joins with
    what is between them).

    Args:
        model: `onnx.ModelProto` in float32.
        path: to write to.
        images: `(H, W, 3)` uint8, on which the ranges of the maps are found.
    """
    onnx, quantization = package("onnx"), package("onnxruntime.quantization")
    inside = _network(model.graph.node)
    outside = [node.name for node in model.graph.node if node.name not in inside]

    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "float32.onnx"
        onnx.save(model, str(given))
        quantization.quantize_static(
            str(given),
            str(path),
            _Images(model.graph.input[0].name, images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=outside,
        )


class _Images:
    """What ONNX Runtime calls a `CalibrationDataReader`: gives one image after another, then None."""

    def __init__(self, name: str, images: Sequence[np.ndarray]) -> None:
        self._name, self._rest = name, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._rest, None)
        return None if image is None else {self._name: image[None]}


def _network(nodes: Sequence[Any]) -> set[str]:
    """The names of the nodes from the first convolution to the last product with weights."""
    weighted = ("Conv", "MatMul", "Gemm")
    behind: set[str] = set()
    for node in nodes:  # in the order of their inputs
        if node.op_type in weighted or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in weighted or before.intersection(node.output):
            before.update(node.input)
    names = set()
    for node in nodes:
        inner = behind.intersection(node.input) and before.intersection(node.output)
        if node.op_type in weighted or inner:
            names.add(node.name)
    return names
