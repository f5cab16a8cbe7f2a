"""Pairs of Keras variables and PyTorch parameters, and copying between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import keras
import numpy as np

from san_tf.errors import UserError
from san_tf.models.layer_factory import GeneralizedMeanPooling2D
from san_tf.torch_files.state_dict import Tensors

NORM = ("weight", "bias", "running_mean", "running_var")
# A PyTorch kernel's axes in Keras's order. Convolution: out, in, h, w -> h, w, in, out; depthwise:
# c, 1, h, w -> h, w, c, 1; dense: out, in -> in, out.
CONV, DEPTHWISE, DENSE = (2, 3, 1, 0), (2, 3, 0, 1), (1, 0)
# A message lists at most this many names.
LISTED = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Counterpart:
    """A Keras variable and the PyTorch parameter that corresponds to it.

    Args:
        variable: the Keras variable.
        name: name of the PyTorch parameter.
        axes: the parameter's axes in Keras's order; None if the order is the same.
    """

    variable: keras.Variable
    name: str
    axes: tuple[int, ...] | None = None

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of the PyTorch parameter."""
        shape = tuple(self.variable.shape)
        return shape if self.axes is None else tuple(shape[i] for i in np.argsort(self.axes))

    def to_keras(self, values: np.ndarray) -> np.ndarray:
        """Return the parameter's values in the variable's layout, float32."""
        values = values if self.axes is None else values.transpose(self.axes)
        return np.ascontiguousarray(values, np.float32)

    def to_torch(self) -> np.ndarray:
        """Return the variable's values in the parameter's layout."""
        values = self.variable.numpy()
        return np.ascontiguousarray(values if self.axes is None else values.transpose(np.argsort(self.axes)))


def counterparts_of(model: keras.Model, names: Mapping[str, str]) -> list[Counterpart]:
    """Return the counterparts of a model, in the order of `names`.

    Args:
        model: encoder or decoder.
        names: name of each Keras layer with weights -> PyTorch's name before ".weight" and ".bias".

    Raises:
        KeyError: the layers of the model and of the table differ.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    if layers.keys() != names.keys():
        raise KeyError(f"no correspondence for {sorted(layers.keys() ^ names.keys())}")
    return [one for layer, prefix in names.items() for one in _of_layer(layers[layer], prefix)]


def _of_layer(layer: keras.layers.Layer, prefix: str) -> list[Counterpart]:
    if isinstance(layer, GeneralizedMeanPooling2D):
        return [Counterpart(layer.weights[0], f"{prefix}.p")]
    axes: tuple[int, ...] | None = None
    if not isinstance(layer, keras.layers.BatchNormalization | keras.layers.GroupNormalization):
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        axes = DEPTHWISE if depthwise else DENSE if isinstance(layer, keras.layers.Dense) else CONV
    # Keras lists kernel, bias; gamma, beta, moving mean, moving variance.
    return [
        Counterpart(variable, f"{prefix}.{suffix}", axes if index == 0 else None)
        for index, (variable, suffix) in enumerate(zip(layer.weights, NORM, strict=False))
    ]


def assign(
    counterparts: list[Counterpart], tensors: Tensors, path: str | Path, dropped: Collection[str] = ()
) -> None:
    """Copy a state dict into a model, completely or not at all.

    Args:
        counterparts: from `counterparts_of`.
        tensors: the state dict.
        path: path of its file, for messages.
        dropped: names that are not copied; the model keeps its values there.

    Raises:
        UserError: parameters are unknown, missing, of another shape or not finite; the message lists them.
    """
    wanted = {one.name: one for one in counterparts if one.name not in dropped}
    faults = []
    unknown = [name for name in tensors if name not in wanted and name not in dropped]
    if unknown:
        faults.append(f"without a place: {_list(unknown)}")
    missing = [name for name in wanted if name not in tensors]
    if missing:
        faults.append(f"missing: {_list(missing)}")
    shapes = [
        f"{name} is {tensors[name].shape} instead of {one.torch_shape}"
        for name, one in wanted.items()
        if name in tensors and tensors[name].shape != one.torch_shape
    ]
    if shapes:
        faults.append(f"of another shape: {_list(shapes)}")
    if faults:
        raise UserError(f"{path} does not match: parameters {'; '.join(faults)}.")
    values = {name: one.to_keras(tensors[name].array()) for name, one in wanted.items()}
    broken = [name for name, value in values.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{path} has parameters that are not finite: {_list(broken)}; use an earlier checkpoint."
        )
    for name, one in wanted.items():
        one.variable.assign(values[name])


def _list(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
