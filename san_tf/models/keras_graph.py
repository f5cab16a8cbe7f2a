"""The graph of a functional Keras model as data: rebuilt for another image size, or another last stride."""

from __future__ import annotations

import copy
import math
from typing import Any

import keras

from san_tf.errors import UserError
from san_tf.keras_compat import classes_to_name, input_of, output_of
from san_tf.models.layer_factory import LayerFactory

POOLINGS = ("MaxPooling2D", "AveragePooling2D")
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")


def operations_of(model: keras.Model) -> list[Any]:
    """Layers and bare operations, each behind those it takes its input from."""
    return list(getattr(model, "operations", model.layers))


def config_of(model: keras.Model, image_shape: tuple[int, int, int], factory: LayerFactory) -> dict[str, Any]:
    """The graph of `model` as data, for images of another size, with the factory's momentum and seeds.

    Args:
        model: functional, of one input; a subclass is reduced to its graph.
        image_shape: `(height, width, 3)`.
        factory: its momentum goes into every batch norm, seeds derived from its seed into every initialiser
            and dropout that has none.

    Raises:
        UserError: the model is no such one.
    """
    try:
        # A subclass, such as KerasHub's, describes its arguments; the bare graph describes its layers.
        graph = keras.Model(model.inputs, model.outputs, name=model.name)
        config = copy.deepcopy(graph.get_config())
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise UserError(
            f"A backbone must be a functional Keras model with one input; {model.name} is none."
        ) from error
    if (
        len(model.inputs) != 1
        or len(model.inputs[0].shape) != 4
        or model.inputs[0].shape[-1] not in (None, 3)
    ):
        raise UserError(
            f"A backbone takes one batch of RGB images (batch, height, width, 3); {model.name} takes "
            f"{[tuple(x.shape) for x in model.inputs]}."
        )
    _prepare(config, image_shape[:2], factory, "")
    return config


def _prepare(
    config: dict[str, Any], size: tuple[int | None, int | None], factory: LayerFactory, place: str
) -> None:
    """Set size, momentum and seeds in the layers of a config and of the models nested in it."""
    for index, layer in enumerate(config["layers"]):
        settings = layer["config"]
        for key in ("batch_shape", "batch_input_shape"):
            if key in settings:
                settings[key] = (None, *size, settings[key][-1])
        # Notes of the shapes that layers were built for; they are built again when they are called.
        layer.pop("build_config", None)
        settings.pop("build_input_shape", None)
        if layer["class_name"] == "BatchNormalization":
            settings["momentum"] = factory.momentum
        if isinstance(settings.get("layers"), list):
            # Inside a nested model the size follows from what it is called on.
            _prepare(settings, (None, None), factory, f"{place}{index}.")
        # By place, not by name: Keras numbers the layers without a name by what the process made before.
        _set_seeds(settings, factory, f"{place}{index}")


def _set_seeds(settings: dict[str, Any], factory: LayerFactory, place: str) -> None:
    """Give every initialiser and dropout that has no seed one of its own."""
    for key, value in settings.items():
        if key == "seed" and value is None and factory.seed is not None:
            settings[key] = factory.seed_of(place)
        elif isinstance(value, dict):
            _set_seeds(value, factory, f"{place}/{key}")


def rebuild(model: keras.Model, config: dict[str, Any]) -> keras.Model:
    """Build the graph that `config` describes, with new weights.

    Raises:
        UserError: its layers do not fit the size; the sentence names `model`.
    """
    try:
        return keras.Model.from_config(copy.deepcopy(config), custom_objects=classes_to_name(model))
    except Exception as error:  # whatever a layer that does not know the new size may raise
        shape = next(
            settings[key]
            for settings in (layer["config"] for layer in config["layers"])
            for key in ("batch_shape", "batch_input_shape")
            if key in settings
        )
        raise UserError(
            f"{model.name} cannot be rebuilt for images of {shape[1]}x{shape[2]} pixels "
            f"({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error


def no_last_stride_1(model: keras.Model) -> UserError:
    """The error that says so."""
    return UserError(
        f"{model.name} cannot be rebuilt with last_stride 1, because its last halving is not done by plain "
        "convolutions or poolings; use last_stride=2, the model's own."
    )


def with_last_stride_1(config: dict[str, Any], model: keras.Model) -> dict[str, Any]:
    """The config with stride 1 in the layers that lead from 1/16 to 1/32 of the image.

    Args:
        config: from `config_of`; it is left as it is.
        model: what `rebuild` makes of it.

    Raises:
        UserError: such a layer is neither a convolution nor a pooling.
    """
    config = copy.deepcopy(config)
    layers = {layer.get("name", layer["config"].get("name")): layer for layer in config["layers"]}
    size = tuple(math.ceil(side / 32) for side in model.inputs[0].shape[1:3])
    pads: dict[int, str] = {}
    for operation in operations_of(model)[1:]:
        source, output = input_of(operation), output_of(operation)
        if isinstance(source, (list, tuple, dict)) or isinstance(output, (list, tuple, dict)):
            continue
        if len(source.shape) != 4 or len(output.shape) != 4:
            continue
        if type(operation).__name__.startswith("Global"):
            # Squeeze-and-excitation, whose single place is as large as the last map of a tiny image.
            continue
        if type(operation).__name__ == "ZeroPadding2D":
            pads[id(output)] = operation.name
        elif output.shape[1:3] == size and source.shape[1:3] != size:
            _unstride(model, layers.get(operation.name), layers.get(pads.get(id(source), "")))
    return config


def _unstride(model: keras.Model, layer: dict[str, Any] | None, padding: dict[str, Any] | None) -> None:
    """Set a layer's stride to 1 and its padding, or the padding before it, so that the map keeps its size."""
    if layer is None:
        raise no_last_stride_1(model)
    settings = layer["config"]
    if layer["class_name"] == "Sequential":
        strided = [inner for inner in settings["layers"] if _stride_of(inner) != 1]
        if len(strided) != 1:
            raise no_last_stride_1(model)
        _unstride(model, strided[0], None)
        return
    if layer["class_name"] not in (*CONVOLUTIONS, *POOLINGS):
        raise no_last_stride_1(model)
    settings["strides"] = [1, 1]
    sides = settings["pool_size" if layer["class_name"] in POOLINGS else "kernel_size"]
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    if padding is not None:
        # What was padded for stride 2, often on two sides only, is padded for stride 1, on all.
        padding["config"]["padding"] = [[side // 2, side // 2] for side in sides]
    elif sides != (1, 1):
        settings["padding"] = "same"


def _stride_of(layer: dict[str, Any]) -> int:
    strides = layer["config"].get("strides", 1)
    return max(strides) if isinstance(strides, (list, tuple)) else strides or 1
