"""A network as a folder: `config.json`, weights in safetensors, and a model card as `README.md`.

Files have fixed names, and nothing in the folder is ever run.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from san_tf.atomic import atomic_folder
from san_tf.errors import UserError
from san_tf.models.builder import arguments_of
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.model_card import ModelCard, render
from san_tf.models.preset_config import CONFIG, PresetConfig, plain_arguments
from san_tf.models.san import SAN
from san_tf.training.checkpoints import NonFiniteError, restore, save, shapes

CARD = "README.md"


def save_to_preset(
    model: keras.Model, folder: str | os.PathLike[str], card: ModelCard | Mapping[str, Any] | None = None
) -> Path:
    """Write a network as a preset folder, whole or not at all; a preset that stood there is replaced.

    Args:
        model: a `SAN`, or an encoder from `build_encoder`.
        folder: where; its name is the card's title.
        card: what to say of the weights; without it the card says that nothing is known of them.

    Returns:
        The folder.

    Raises:
        UserError: the network was not built by `build_encoder` and `build_decoder` in this process, its
            backbone was given as an object, a weight is not finite, something else stands at `folder`, or it
            cannot be written.

    Example:
        >>> save_to_preset(san, "presets/mine", {"description": "...", "weights": "Trained on ...", ...})
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds something that is no preset; choose another folder.")
    if not isinstance(card, ModelCard):
        unknown = {"licence": "unknown", "weights": "Not described.", "training_data": "Not described."}
        card = ModelCard.of(unknown | dict(card or {}), "card")
    encoder, decoder, san = model, None, {}
    if isinstance(model, SAN):
        encoder, decoder = model.encoder, model.decoder
        san = plain_arguments(model.get_config(), SAN.__init__)
        # Of the batches it was trained on, which others need not have.
        san.pop("pairs", None)
    config = PresetConfig(
        _arguments(encoder, build_encoder.function),
        None if decoder is None else _arguments(decoder, build_decoder.function),
        san,
        card,
    )
    with atomic_folder(folder) as temporary:
        for part, network in (("encoder", encoder), ("decoder", decoder)):
            if network is not None:
                _save_weights(network, temporary / f"{part}.safetensors")
        (temporary / CONFIG).write_text(json.dumps(config.as_dict(), indent=2) + "\n")
        (temporary / CARD).write_text(
            render(folder.resolve().name, card, config.encoder, config.decoder is not None)
        )
    return folder


def _save_weights(network: keras.Model, path: Path) -> None:
    try:
        save(path, network, None, step=0)
    except NonFiniteError as error:
        raise UserError(f"The weight {error} is not finite; a preset of it would be of no use.") from error


def _arguments(network: keras.Model, function: Callable[..., Any]) -> dict[str, Any]:
    arguments = arguments_of(network)
    if arguments is None:
        raise UserError(
            f"{network.name} was not built by {function.__name__} in this process, so a preset could not say "
            "how to build it again; build it so and load its weights."
        )
    if isinstance(arguments.get("backbone"), keras.Model):
        raise UserError(
            f"The backbone of {network.name} was given as an object, which a preset cannot hold; name it, "
            "such as 'keras:EfficientNetV2B0', or save the model with Keras."
        )
    return plain_arguments(arguments, function)


def check_sizes(
    folder: Path, part: str, arguments: Mapping[str, Any], encoder: Mapping[str, Any] | None = None
) -> None:
    """Hold the sizes in a preset's config to the shapes in its weights' header, before anything is built.

    A config is a few bytes, and a network of the million classes that it may name takes gigabytes.

    Args:
        folder: the preset.
        part: `encoder` or `decoder`.
        arguments: of the part's builder, from the config.
        encoder: arguments of the encoder's, for a decoder.

    Raises:
        UserError: the file of weights is missing or damaged, or they disagree.
    """
    path = _weights_of(folder, part)
    try:
        found = {name.removeprefix("model/"): shape for name, shape in shapes(path).items()}
    except UserError as error:
        raise _misfit(path, part, error) from error
    function = build_encoder.function if part == "encoder" else build_decoder.function
    defaults = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    for layer, axis, what, wanted in _sizes(part, defaults | dict(arguments), encoder or {}):
        shape = found.get(f"{layer}/kernel", ())
        if len(shape) <= axis or shape[axis] != wanted:
            raise _misfit(path, part, f"{what} would make {wanted} of {layer}, which is of shape {shape}.")


def _sizes(
    part: str, arguments: Mapping[str, Any], encoder: Mapping[str, Any]
) -> Iterator[tuple[str, int, str, int]]:
    """Layer, axis of its kernel, argument, and the size that the argument asks for there."""
    if part == "encoder":
        yield "classifier", 1, "num_classes", arguments["num_classes"]
        return
    for layer, width in zip(
        ("reduce_conv", "up1_conv", "up2_conv", "up3_conv", "up4_conv"), arguments["widths"], strict=True
    ):
        yield layer, 3, "widths", width
    yield "final_conv", 0, "final_kernel", arguments["final_kernel"]
    yield "final_conv", 3, "palette", arguments["palette"] or 3
    if arguments["sketch"]:
        yield "sketch_hidden", 1, "sketch", arguments["sketch"]
        stride = 16 * encoder.get("last_stride", 1)
        height, width = (side // stride for side in encoder["input_shape"][:2])
        yield "sketch_hidden", 0, "input_shape", 16 * height * width


def load_part(folder: Path, part: str, network: keras.Model, resized: bool = False) -> None:
    """Read the weights of a preset's `encoder` or `decoder`.

    Args:
        folder: the preset.
        part: `encoder` or `decoder`.
        network: built as its config says.
        resized: it was built for images of another size on purpose.

    Raises:
        UserError: the file is missing, damaged, or of another architecture or form.
    """
    path = _weights_of(folder, part)
    try:
        restore(path, network, start=resized)
    except UserError as error:
        raise _misfit(path, part, error) from error


def _weights_of(folder: Path, part: str) -> Path:
    path = folder / f"{part}.safetensors"
    if not path.is_file():
        raise UserError(f"{folder} lacks {path.name}; copy the preset again.")
    return path


def _misfit(path: Path, part: str, reason: object) -> UserError:
    return UserError(f"{path} does not hold the weights of the {part} that {CONFIG} describes: {reason}")
