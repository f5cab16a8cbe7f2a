"""Any functional Keras model as a backbone: finds its stages, adapts its last stride and input."""

from __future__ import annotations

import copy
import inspect
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.keras_compat import classes_to_name, input_of, output_of
from san_tf.models.input_adapter import InputAdapter, Preprocessing, affine_of, from_normalized
from san_tf.models.layer_factory import LayerFactory, Tensor

PREFIX = "keras:"


def application_names() -> list[str]:
    """List the networks of the installed version of Keras."""
    members = inspect.getmembers(keras.applications, inspect.isfunction)
    return [name for name, _ in members if name[0].isupper()]


def is_application(backbone: object) -> bool:
    """Whether a backbone is the name of a network of `keras.applications`, with the prefix `keras:`."""
    return isinstance(backbone, str) and backbone.startswith(PREFIX)


def check_application(backbone: str) -> str:
    """Check that the network exists and return its name without the prefix.

    Raises:
        UserError: there is no such network.
    """
    name, names = backbone.removeprefix(PREFIX), application_names()
    if name not in names:
        raise UserError(f"keras.applications has no {name!r}; it has {', '.join(names)}.")
    return name


def build_application(
    backbone: str, input_shape: tuple[int, int, int], weights: str | os.PathLike[str] | None
) -> tuple[keras.Model, Preprocessing]:
    """Build a network of `keras.applications` without its classifier.

    Args:
        backbone: `keras:` and a name of `application_names`.
        input_shape: `(height, width, 3)`.
        weights: "imagenet", downloaded by Keras once, a file that Keras downloaded ("..._notop.h5"), or None.

    Returns:
        The network, and its preprocessing function from RGB pixels of 0-255 to its input.

    Raises:
        UserError: there is no such network, its weights are not available, or it cannot take this size.

    Example:
        >>> model, preprocessing = build_application("keras:ResNet50", (256, 128, 3), None)
    """
    name = check_application(backbone)
    build = getattr(keras.applications, name)
    weights = None if weights is None else str(weights)
    try:
        model = build(include_top=False, weights=weights, input_shape=input_shape)
    except Exception as error:  # Keras raises bare Exception when an address cannot be reached
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        address = re.search(r"https?://\S+?\.h5", str(error))
        if weights == "imagenet" and address is not None:
            raise UserError(
                f"The ImageNet weights of {name} could not be downloaded; put {address[0]} into "
                f"{Path(os.environ.get('KERAS_HOME', '~/.keras')).expanduser() / 'models'}, or pass the "
                "file's path as weights, or train from scratch with weights=None."
            ) from error
        raise UserError(f"{name} of keras.applications cannot be built: {reason}") from error
    return model, sys.modules[build.__module__].preprocess_input


POOLINGS = ("MaxPooling2D", "AveragePooling2D")
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")


def operations_of(model: keras.Model) -> list[Any]:
    """List layers and bare operations; each comes after those that it takes its input from."""
    return list(getattr(model, "operations", model.layers))


def config_of(model: keras.Model, image_shape: tuple[int, int, int], factory: LayerFactory) -> dict[str, Any]:
    """Return the config of `model`'s graph for another image size, with the factory's momentum and seeds.

    Args:
        model: functional model with one input; a subclass is reduced to its graph.
        image_shape: `(height, width, 3)`.
        factory: every batch norm gets its momentum, and every initialiser and dropout without a seed gets one
            derived from its seed.

    Raises:
        UserError: the model is not functional or does not take one batch of RGB images.
    """
    try:
        # The config of a subclass, such as KerasHub's, holds its arguments; that of the graph, its layers.
        graph = keras.Model(model.inputs, model.outputs, name=model.name)
        config = copy.deepcopy(graph.get_config())
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise UserError(
            f"A backbone must be a functional Keras model with one input; {model.name} is not one."
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
        # The shapes that layers were built for; the layers are built again when they are called.
        layer.pop("build_config", None)
        settings.pop("build_input_shape", None)
        if layer["class_name"] == "BatchNormalization":
            settings["momentum"] = factory.momentum
        if isinstance(settings.get("layers"), list):
            # The size inside a nested model follows from its input.
            _prepare(settings, (None, None), factory, f"{place}{index}.")
        # By place, not by name: Keras counts unnamed layers across the process, so their names vary.
        _set_seeds(settings, factory, f"{place}{index}")


def _set_seeds(settings: dict[str, Any], factory: LayerFactory, place: str) -> None:
    """Give every initialiser and dropout without a seed its own seed."""
    for key, value in settings.items():
        if key == "seed" and value is None and factory.seed is not None:
            settings[key] = factory.seed_of(place)
        elif isinstance(value, dict):
            _set_seeds(value, factory, f"{place}/{key}")


def rebuild(model: keras.Model, config: dict[str, Any]) -> keras.Model:
    """Build the graph that `config` describes, with new weights.

    Raises:
        UserError: the layers of `model` do not fit the size.
    """
    try:
        return keras.Model.from_config(copy.deepcopy(config), custom_objects=classes_to_name(model))
    except Exception as error:  # a layer that does not fit the new size may raise anything
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
    """Return the error for a model that cannot be rebuilt with last stride 1."""
    return UserError(
        f"{model.name} cannot be rebuilt with last_stride 1, because its last halving is not done by plain "
        "convolutions or poolings; use last_stride=2, the model's own."
    )


def with_last_stride_1(config: dict[str, Any], model: keras.Model) -> dict[str, Any]:
    """Return the config with stride 1 where maps shrink to 1/32 of the image.

    Args:
        config: config of `config_of`; it is not changed.
        model: model that `rebuild` built from it.

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
            # Squeeze-and-excitation: its 1x1 map would be taken for the last map of a tiny image.
            continue
        if type(operation).__name__ == "ZeroPadding2D":
            pads[id(output)] = operation.name
        elif output.shape[1:3] == size and source.shape[1:3] != size:
            _unstride(model, layers.get(operation.name), layers.get(pads.get(id(source), "")))
    return config


def _unstride(model: keras.Model, layer: dict[str, Any] | None, padding: dict[str, Any] | None) -> None:
    """Set a layer's stride to 1 and adapt its padding, or that before it, to keep the map's size."""
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
        # Padding for stride 2 is often on two sides only; stride 1 needs it on all four.
        padding["config"]["padding"] = [[side // 2, side // 2] for side in sides]
    elif sides != (1, 1):
        settings["padding"] = "same"


def _stride_of(layer: dict[str, Any]) -> int:
    strides = layer["config"].get("strides", 1)
    return max(strides) if isinstance(strides, (list, tuple)) else strides or 1


STRIDES = (4, 8, 16, 32)


def keras_stages(
    image: Tensor,
    model: keras.Model,
    last_stride: int,
    preprocessing: Preprocessing | None,
    factory: LayerFactory,
    keep_weights: bool = True,
) -> list[Tensor]:
    """Return the four stage outputs of a copy of `model`, with its preprocessing in front.

    A stage is the last map at 1/4, 1/8, 1/16 or 1/32 of the image from which everything deeper is computed.
    Networks of KerasHub name their stages as `pyramid_outputs`. Layers at the model's start that only rescale
    the input (`Rescaling`, `Normalization`) are removed. Together with `preprocessing` they become one layer,
    which converts our normalised images to the input of the remaining network.

    Args:
        image: `(batch, height, width, 3)` of known size, normalised as by `san_tf.normalization`.
        model: functional model without classifier; it is not changed.
        last_stride: stride of the fourth stage; 1 sets the stride of the layers between stages 3 and 4 to 1.
        preprocessing: function from RGB pixels of 0-255 to the input of `model`; None for a model that takes
            the pixels and rescales them itself.
        factory: gives the seed of new weights and the momentum of batch norms.
        keep_weights: False draws new weights from the seed.

    Returns:
        The four maps, at 1/4, 1/8, 1/16 and 1/16 (1/32 at last stride 2) of the image.

    Raises:
        UserError: the model lacks such a stage, neither scales its input nor comes with `preprocessing`, or
            cannot be rebuilt with last stride 1.

    Example:
        >>> model = keras.applications.EfficientNetV2B0(include_top=False, weights=None)
        >>> image = keras.Input((256, 128, 3))
        >>> [stage.shape for stage in keras_stages(image, model, 1, None, LayerFactory())][-1]
        (None, 16, 8, 1280)
    """
    config = config_of(model, tuple(image.shape[1:]), factory)
    rebuilt = rebuild(model, config)
    start, preprocessing = _preprocessing_of(model, rebuilt, preprocessing, keep_weights)
    names = _pyramid_of(model) or _stage_names(rebuilt)
    if last_stride == 1:
        dense = with_last_stride_1(config, rebuilt)
        try:
            rebuilt = rebuild(model, dense)
        except UserError as error:
            raise no_last_stride_1(model) from error
    outputs = {operation.name: output_of(operation) for operation in operations_of(rebuilt)}
    stages = [outputs[name] for name in names]
    if last_stride == 1 and stages[3].shape[1:3] != stages[2].shape[1:3]:
        raise no_last_stride_1(model)
    if keep_weights:
        rebuilt.set_weights(model.get_weights())

    network = keras.Model(outputs[start], stages, name="backbone")
    adapter = InputAdapter(*from_normalized(affine_of(preprocessing)), name="input_adapter")
    return list(network(adapter(image)))


# --- stages ---


class _Step(NamedTuple):
    """An operation with one output, its index, and the index of the last operation that uses the output."""

    name: str
    shape: tuple[int | None, ...]
    place: int
    last_use: int


def _steps(model: keras.Model) -> list[_Step]:
    operations = operations_of(model)
    place: dict[int, int] = {}
    last_use = list(range(len(operations)))
    for index, operation in enumerate(operations):
        if len(operation._inbound_nodes) > 1:
            raise UserError(
                f"{operation.name} of {model.name} is used more than once; such a model cannot be a backbone."
            )
        for tensor in tf.nest.flatten(input_of(operation)):
            if id(tensor) in place:
                last_use[place[id(tensor)]] = index
        for tensor in tf.nest.flatten(output_of(operation)):
            place[id(tensor)] = index
    return [
        _Step(operation.name, tuple(output_of(operation).shape), index, last_use[index])
        for index, operation in enumerate(operations)
        if not isinstance(output_of(operation), (list, tuple, dict))
    ]


def _bottlenecks(model: keras.Model) -> list[_Step]:
    """Steps that no connection bypasses, so that everything deeper is computed from each of them."""
    found = []
    reach = 0
    for step in _steps(model):
        if reach <= step.place:
            found.append(step)
        reach = max(reach, step.last_use)
    return found


def _stage_names(model: keras.Model) -> list[str]:
    """Names of the last bottleneck at each of the four strides."""
    height, width = model.inputs[0].shape[1:3]
    names = {}
    for step in _bottlenecks(model):
        for stride in STRIDES:
            if len(step.shape) == 4 and step.shape[1:3] == (height // stride, width // stride):
                names[stride] = step.name
    missing = [stride for stride in STRIDES if stride not in names]
    if missing:
        raise UserError(
            f"A backbone needs maps at 1/4, 1/8, 1/16 and 1/32 of the image; {model.name} has none at "
            f"{' and '.join(f'1/{stride}' for stride in missing)} of {height}x{width} pixels. Use a network "
            "without classifier that halves the map with padding."
        )
    return [names[stride] for stride in STRIDES]


def _pyramid_of(model: keras.Model) -> list[str] | None:
    """Names of the four stages that a KerasHub backbone declares; None for other models."""
    pyramid = getattr(model, "pyramid_outputs", None)
    if not isinstance(pyramid, dict) or not {"P2", "P3", "P4", "P5"} <= set(pyramid):
        return None
    names = {id(output_of(operation)): operation.name for operation in operations_of(model)}
    return [names[id(pyramid[level])] for level in ("P2", "P3", "P4", "P5")]


# --- preprocessing ---


def _preprocessing_of(
    model: keras.Model, rebuilt: keras.Model, preprocessing: Preprocessing | None, keep_weights: bool
) -> tuple[str, Preprocessing]:
    """The last operation before the network itself, and the whole preprocessing of pixels up to it."""
    # The scaling layers must follow each other, and no other layer may use the unscaled image.
    path = {step.name for step in _bottlenecks(rebuilt)}
    start, names = rebuilt.layers[0].name, []
    for layer in rebuilt.layers[1:]:
        if type(layer).__name__ not in ("Rescaling", "Normalization") or layer.name not in path:
            break
        names.append(layer.name)
    if not names and preprocessing is None:
        raise UserError(
            f"{model.name} has no layers that scale its input, so the input it expects is unknown: pass "
            "preprocessing, a function of RGB pixels of 0-255 such as "
            "keras.applications.resnet.preprocess_input or, for our own, san_tf.normalization.normalize."
        )
    source = model if keep_weights else rebuilt
    scaling = [source.get_layer(name) for name in names]

    def both(pixels):  # type: ignore[no-untyped-def]
        pixels = pixels if preprocessing is None else preprocessing(pixels)
        for layer in scaling:
            pixels = layer(pixels)
        return pixels

    return names[-1] if names else start, both
