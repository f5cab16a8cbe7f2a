"""Any functional Keras model as a backbone: its four stages found, its last stride and input made ours."""

from __future__ import annotations

import copy
import math
import zlib
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.models.input_adapter import InputAdapter, Preprocessing, affine_of, from_normalized
from san_tf.models.layer_factory import LayerFactory, Tensor

STRIDES = (4, 8, 16, 32)
POOLINGS = ("MaxPooling2D", "AveragePooling2D")
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")


def keras_stages(
    image: Tensor,
    model: keras.Model,
    last_stride: int,
    preprocessing: Preprocessing | None,
    factory: LayerFactory,
    keep_weights: bool = True,
) -> list[Tensor]:
    """The four stage outputs of a copy of `model`, behind its own preprocessing, which is applied once.

    A stage is the last map at 1/4, 1/8, 1/16, 1/32 of the image that everything deeper is computed from (a
    network of KerasHub that names its `pyramid_outputs` is taken at its word). Layers that only rescale the
    input (`Rescaling`, `Normalization` at the model's start) are taken out and, together with
    `preprocessing`, become one layer from our normalisation to what the rest expects.

    Args:
        image: `(batch, height, width, 3)`, normalised as `san_tf.normalization` does; the size must be known.
        model: functional, without classifier; it is left as it is.
        last_stride: of the fourth stage; 1 sets the stride of the layers between stages 3 and 4 to 1.
        preprocessing: from RGB pixels of 0-255 to what `model` takes; None where it takes the pixels and
            rescales them itself.
        factory: gives the seed of new weights and the momentum of batch norms.
        keep_weights: False draws new weights from the seed.

    Raises:
        UserError: the model has no such stages, scales nothing itself and comes without `preprocessing`, or
            cannot be rebuilt with last stride 1.

    Example:
        >>> model = keras.applications.EfficientNetV2B0(include_top=False, weights=None)
        >>> image = keras.Input((256, 128, 3))
        >>> [stage.shape for stage in keras_stages(image, model, 1, None, LayerFactory())][-1]
        (None, 16, 8, 1280)
    """
    config = _config_of(model, tuple(image.shape[1:]), factory)
    rebuilt = _rebuild(model, config)
    start, preprocessing = _preprocessing_of(model, rebuilt, preprocessing, keep_weights)
    names = _pyramid_of(model) or _stage_names(rebuilt)
    if last_stride == 1:
        rebuilt = _rebuild(model, _with_last_stride_1(config, rebuilt))
    outputs = {operation.name: operation.output for operation in _operations(rebuilt)}
    stages = [outputs[name] for name in names]
    if last_stride == 1 and stages[3].shape[1:3] != stages[2].shape[1:3]:
        raise _no_last_stride_1(model)
    if keep_weights:
        rebuilt.set_weights(model.get_weights())

    network = keras.Model(outputs[start], stages, name="backbone")
    adapter = InputAdapter(*from_normalized(affine_of(preprocessing)), name="input_adapter")
    return list(network(adapter(image)))


# --- rebuilding ---


def _config_of(
    model: keras.Model, image_shape: tuple[int, int, int], factory: LayerFactory
) -> dict[str, Any]:
    """The graph of `model` as data, for images of another size, with the factory's momentum and seeds."""
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
    for layer in _layers_of(config, nested=True):
        settings = layer["config"]
        for key in ("batch_shape", "batch_input_shape"):
            if key in settings:
                # Inside a nested model the size follows from what it is called on.
                size = image_shape[:2] if layer in config["layers"] else (None, None)
                settings[key] = (None, *size, settings[key][-1])
        layer.pop("build_config", None)
        settings.pop("build_input_shape", None)
        if layer["class_name"] == "BatchNormalization":
            settings["momentum"] = factory.momentum
        _seed(settings, layer.get("name", settings.get("name", "")), factory)
    return config


def _layers_of(config: dict[str, Any], nested: bool = False) -> list[dict[str, Any]]:
    """The layers in a model's config; with `nested` also those of the models among them."""
    layers = []
    for layer in config["layers"]:
        layers.append(layer)
        if nested and isinstance(layer["config"].get("layers"), list):
            layers += _layers_of(layer["config"], nested)
    return layers


def _seed(settings: dict[str, Any], name: str, factory: LayerFactory, path: str = "") -> None:
    """Give every initialiser and dropout that has no seed one of its own, from the layer's name."""
    for key, value in settings.items():
        if key == "seed" and value is None and factory.seed is not None:
            # 31 bits: Keras takes no more for the state of a random generator.
            settings[key] = zlib.crc32(f"{factory.seed}:{name}:{path}".encode()) >> 1
        elif isinstance(value, dict):
            _seed(value, name, factory, f"{path}/{key}")


def _rebuild(model: keras.Model, config: dict[str, Any]) -> keras.Model:
    try:
        return keras.Model.from_config(copy.deepcopy(config))
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


# --- stages ---


def _operations(model: keras.Model) -> list[Any]:
    """Layers and bare operations, each behind those it takes its input from."""
    return list(getattr(model, "operations", model.layers))


class _Step(NamedTuple):
    """An operation with one output, its place, and the last place that uses the output."""

    name: str
    shape: tuple[int | None, ...]
    place: int
    last_use: int


def _steps(model: keras.Model) -> list[_Step]:
    operations = _operations(model)
    place = {}
    last_use = list(range(len(operations)))
    try:
        for index, operation in enumerate(operations):
            for tensor in tf.nest.flatten(operation.input):
                if id(tensor) in place:
                    last_use[place[id(tensor)]] = index
            for tensor in tf.nest.flatten(operation.output):
                place[id(tensor)] = index
    except (AttributeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"A layer of {model.name} is used more than once; such a model cannot be a backbone."
        ) from error
    return [
        _Step(operation.name, tuple(operation.output.shape), index, last_use[index])
        for index, operation in enumerate(operations)
        if not isinstance(operation.output, (list, tuple, dict))
    ]


def _bottlenecks(model: keras.Model) -> list[_Step]:
    """The steps that no connection bypasses: all that is deeper is computed from each of them."""
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
    """The four stages of a KerasHub backbone, by its own account; None for other models."""
    pyramid = getattr(model, "pyramid_outputs", None)
    if not isinstance(pyramid, dict) or not {"P2", "P3", "P4", "P5"} <= set(pyramid):
        return None
    names = {id(operation.output): operation.name for operation in _operations(model)}
    return [names[id(pyramid[level])] for level in ("P2", "P3", "P4", "P5")]


# --- last stride ---


def _no_last_stride_1(model: keras.Model) -> UserError:
    return UserError(
        f"{model.name} cannot be rebuilt with last_stride 1, because its last halving is not done by plain "
        "convolutions or poolings; use last_stride=2, the model's own."
    )


def _with_last_stride_1(config: dict[str, Any], model: keras.Model) -> dict[str, Any]:
    """The config with stride 1 in the layers that lead from 1/16 to 1/32 of the image."""
    config = copy.deepcopy(config)
    layers = {layer.get("name", layer["config"].get("name")): layer for layer in config["layers"]}
    size = tuple(math.ceil(side / 32) for side in model.inputs[0].shape[1:3])
    pads: dict[str, str] = {}
    for operation in _operations(model)[1:]:
        source, output = operation.input, operation.output
        if isinstance(source, (list, tuple, dict)) or isinstance(output, (list, tuple, dict)):
            continue
        if len(source.shape) != 4 or len(output.shape) != 4:
            continue
        if type(operation).__name__ == "ZeroPadding2D":
            pads[operation.name] = operation.name
        elif output.shape[1:3] == size and source.shape[1:3] != size:
            before = _producer(model, source)
            _unstride(model, layers[operation.name], layers.get(before) if before in pads else None)
    return config


def _producer(model: keras.Model, tensor: Tensor) -> str:
    return next((o.name for o in _operations(model) if o.output is tensor), "")


def _unstride(model: keras.Model, layer: dict[str, Any], padding: dict[str, Any] | None) -> None:
    """Set a layer's stride to 1 and its padding so that it keeps the map's size."""
    settings = layer["config"]
    if layer["class_name"] == "Sequential":
        strided = [inner for inner in settings["layers"] if _stride_of(inner) != 1]
        if len(strided) != 1:
            raise _no_last_stride_1(model)
        _unstride(model, strided[0], None)
        return
    if layer["class_name"] not in (*CONVOLUTIONS, *POOLINGS):
        raise _no_last_stride_1(model)
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


# --- preprocessing ---


def _preprocessing_of(
    model: keras.Model, rebuilt: keras.Model, preprocessing: Preprocessing | None, keep_weights: bool
) -> tuple[str, Preprocessing]:
    """Where the network proper starts, and all that is done to pixels before."""
    start, names = rebuilt.layers[0].name, []
    for layer in rebuilt.layers[1:]:
        if type(layer).__name__ not in ("Rescaling", "Normalization"):
            break
        names.append(layer.name)
    if not names and preprocessing is None:
        raise UserError(
            f"{model.name} holds no layers that scale its input, so it must be said what it expects: pass "
            "preprocessing, a function of RGB pixels of 0-255 such as "
            "keras.applications.resnet.preprocess_input, or san_tf.normalization.normalize for our own."
        )
    source = model if keep_weights else rebuilt
    scaling = [source.get_layer(name) for name in names]

    def both(pixels):  # type: ignore[no-untyped-def]
        pixels = pixels if preprocessing is None else preprocessing(pixels)
        for layer in scaling:
            pixels = layer(pixels)
        return pixels

    return names[-1] if names else start, both
