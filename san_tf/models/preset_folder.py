"""Presets as folders: `config.json`, weights in safetensors, and a model card as `README.md`.

File names are fixed. A preset never contains code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import keras

from san_tf.atomic import atomic_folder
from san_tf.checkpoints import NonFiniteError, restore, save, shapes
from san_tf.errors import UserError
from san_tf.models import preset_folder as hub
from san_tf.models.builder import arguments_of, arguments_taken, registered
from san_tf.models.model_card import ModelCard, normalization_config, render
from san_tf.models.presets import PRESETS
from san_tf.trusted import shipped_preset, shipped_presets
from san_tf.version import __version__

# Version 1 had no digest.
FORMAT, VERSION = "san_tf preset", 2
CONFIG = "config.json"
# Arguments that a config may not hold, such as paths of weights and functions.
_NOT_KEPT = ("weights", "seed", "preprocessing", "stage_shapes", "encoder", "decoder", "name")
# Largest number in a config: far above that of any network, far below what fills a machine's memory.
_LARGEST = 1_000_000
_PARTS = ("encoder", "decoder", "san")


@dataclasses.dataclass(frozen=True)
class PresetConfig:
    """Content of a preset's `config.json`.

    Attributes:
        encoder: arguments of `build_encoder`.
        decoder: arguments of `build_decoder`; None for a preset without decoder.
        san: arguments of `SAN`.
        card: the model card.
    """

    encoder: dict[str, Any]
    decoder: dict[str, Any] | None
    san: dict[str, Any]
    card: ModelCard

    def as_dict(self) -> dict[str, Any]:
        """Return the whole content of `config.json` as plain values."""
        parts = {"encoder": self.encoder, "decoder": self.decoder, "san": self.san}
        return {
            "format": FORMAT,
            "version": VERSION,
            "san_tf": __version__,
            **parts,
            "sha256": _digest(parts),
            "normalization": normalization_config(),
            "card": self.card.as_dict(),
        }


def plain_arguments(values: Mapping[str, Any], maker: str) -> dict[str, Any]:
    """Select the arguments that a config keeps, as JSON values (lists for tuples).

    Args:
        values: arguments by name.
        maker: "build_encoder", "build_decoder" or "SAN".
    """
    names = [name for name in arguments_taken(maker) if name not in _not_kept(maker)]
    kept: dict[str, Any] = json.loads(json.dumps({name: values[name] for name in names if name in values}))
    return kept


def _not_kept(maker: str) -> tuple[str, ...]:
    # SAN keeps its `seed`, which draws the triplets.
    return tuple(name for name in _NOT_KEPT if maker != "SAN" or name != "seed")


def read_config(folder: str | os.PathLike[str]) -> PresetConfig:
    """Read and check a preset's config.

    Raises:
        UserError: the config is missing, damaged, of a newer version, or has an impossible value.
    """
    path = Path(folder) / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a preset: it has no {CONFIG}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy the preset again.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{path} is not the config of a preset of san_tf.")
    version = values.get("version")
    if type(version) is not int or version < 1:
        raise UserError(f"{path} names no format version; copy the preset again.")
    if version > VERSION:
        raise UserError(
            f"{path} is of format version {version}, and this san_tf reads up to {VERSION}; upgrade san_tf."
        )
    known = {"format", "version", "san_tf", "encoder", "decoder", "san", "sha256", "normalization", "card"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"{path} has an unknown entry {unknown[0]!r}.")
    if values.get("normalization") != normalization_config():
        raise UserError(
            f"{path} names another normalisation of images than san_tf's (RGB, ImageNet's mean and "
            "deviation); it was not written by this package."
        )
    decoder = values.get("decoder")
    config = PresetConfig(
        _checked(values.get("encoder"), "build_encoder", f"{path}: encoder"),
        None if decoder is None else _checked(decoder, "build_decoder", f"{path}: decoder"),
        _checked(_renamed(values.get("san", {})), "SAN", f"{path}: san"),
        ModelCard.of(_mapping(values.get("card", {}), f"{path}: card"), f"{path}: card"),
    )
    parts = {name: values.get(name) for name in _PARTS}
    if "sha256" in values and values["sha256"] != _digest(parts):
        raise UserError(
            f"{path} is damaged or was changed: {', '.join(_PARTS)} are not as they were saved; copy the "
            "preset again, or remove the entry sha256 if the change is yours."
        )
    return config


def _renamed(san: Any) -> Any:
    """Rename SAN's argument `weights` of older versions to `loss_weights`."""
    if not isinstance(san, dict) or "weights" not in san or "loss_weights" in san:
        return san
    return {"loss_weights" if name == "weights" else name: value for name, value in san.items()}


def _digest(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the builders' arguments; users may edit the card."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


def _mapping(values: Any, source: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{source} must hold named values, not {values!r}.")
    return values


def _checked(values: Any, maker: str, source: str) -> dict[str, Any]:
    """Check named values against the names and types of the arguments of a builder or `SAN`."""
    parameters = arguments_taken(maker)
    checked = {}
    for name, value in _mapping(values, source).items():
        if name not in parameters or name in _not_kept(maker):
            raise UserError(f"{source} has no {name!r}.")
        default = parameters[name].default
        if isinstance(default, tuple):
            kinds = (int,) if all(isinstance(item, int) for item in default) else (int, float)
            fits = isinstance(value, list) and len(value) == len(default)
            fits = fits and all(_is_number(item, kinds) for item in value)
        elif isinstance(default, (bool, str)):
            fits = type(value) is type(default)
        else:
            # A number, or None where None is the default.
            kinds = (int, float) if isinstance(default, float) else (int,)
            fits = _is_number(value, kinds) or (value is None and default is None)
        if not fits:
            raise UserError(f"{source}: {name} must be a value like {default!r}, not {value!r}.")
        checked[name] = tuple(value) if isinstance(value, list) else value
    return checked


def _is_number(value: Any, kinds: tuple[type, ...]) -> bool:
    return type(value) in kinds and abs(value) <= _LARGEST


PREFIX = "hf://"
# The files of a preset; only these are downloaded.
FILES = ("config.json", "encoder.safetensors", "decoder.safetensors", "README.md")
_ADDRESS = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w.-]*))?")


def download(address: str) -> Path:
    """Download a preset's files from the hub, or find them in its cache.

    Args:
        address: `hf://user/name`, optionally followed by `@branch`, `@tag` or `@commit`.

    Returns:
        The folder of the files.

    Raises:
        UserError: the address is invalid, `huggingface_hub` is not installed, or the download fails.

    Example:
        >>> download("hf://user/name@main")
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise UserError(
            f"{address!r} is not an address on the hub; write hf://user/name or hf://user/name@revision."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{address} is fetched with huggingface_hub, which is not installed: pip install 'san-tf[hub]', "
            "or download the folder yourself and pass its path."
        ) from error
    name, revision = match.groups()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # raised by the hub's library, its HTTP client or the disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{address} could not be fetched ({reason}); check the name and the connection, or download the "
            "folder elsewhere and pass its path."
        ) from error


CARD = "README.md"


def save_to_preset(
    model: keras.Model,
    folder: str | os.PathLike[str],
    card: ModelCard | Mapping[str, Any] | None = None,
    *,
    weights: Literal["float32", "float16"] = "float32",
    classifier: bool = True,
) -> Path:
    """Write a network as a preset folder, whole or not at all; replaces an existing preset.

    Args:
        model: a `SAN`, or an encoder from `build_encoder`.
        folder: folder to write; its name is the card's title.
        card: statements about the weights; without it the card says that nothing is known about them.
        weights: "float16" halves the size of kernels. They are float32 again, rounded, once loaded.
        classifier: False leaves out the classifier of the training identities, which training with other
            identities does not need; `num_classes` is then 1.

    Returns:
        The folder.

    Raises:
        UserError: the network was not built by `build_encoder` and `build_decoder` in this process, its
            backbone was given as an object, a weight is not finite, `folder` holds something else, or it
            cannot be written.

    Example:
        >>> save_to_preset(san, "presets/mine", {"description": "...", "weights": "Trained on ...", ...})
    """
    if weights not in ("float32", "float16"):
        raise UserError(f"A preset's weights are float32 or float16, not {weights!r}; choose one of them.")
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds files that are not a preset; choose another folder.")
    if not isinstance(card, ModelCard):
        unknown = {"licence": "unknown", "weights": "Not described.", "training_data": "Not described."}
        card = ModelCard.of(unknown | dict(card or {}), "card")
    encoder, decoder, san = model, None, {}
    if isinstance(model, registered("SAN")):
        encoder, decoder = model.encoder, model.decoder
        san = plain_arguments(model.get_config(), "SAN")
        # It describes the batches of its training; those of others may differ.
        san.pop("pairs", None)
    if not classifier:
        encoder = _without_classifier(encoder)
    config = PresetConfig(
        _arguments(encoder, "build_encoder"),
        None if decoder is None else _arguments(decoder, "build_decoder"),
        san,
        card,
    )
    with atomic_folder(folder) as temporary:
        for part, network in (("encoder", encoder), ("decoder", decoder)):
            if network is not None:
                _save_weights(network, temporary / f"{part}.safetensors", weights == "float16")
        (temporary / CONFIG).write_text(json.dumps(config.as_dict(), indent=2) + "\n")
        (temporary / CARD).write_text(
            render(folder.resolve().name, card, config.encoder, config.decoder is not None)
        )
    return folder


def _without_classifier(encoder: keras.Model) -> keras.Model:
    """A copy of an encoder whose classifier has one class and was not trained."""
    arguments = _arguments(encoder, "build_encoder") | {"num_classes": 1, "weights": None, "seed": 0}
    body: keras.Model = registered("build_encoder")(**arguments)
    for source, target in zip(encoder.layers, body.layers, strict=True):
        if target.name != "classifier":
            target.set_weights(source.get_weights())
    return body


def _save_weights(network: keras.Model, path: Path, half: bool) -> None:
    try:
        save(path, network, None, step=0, half=half)
    except NonFiniteError as error:
        raise UserError(
            f"The weight {error} is not finite{', or too large for float16' if half else ''}; a preset with "
            "it would be useless."
        ) from error


def _arguments(network: keras.Model, builder: str) -> dict[str, Any]:
    arguments = arguments_of(network)
    if arguments is None:
        raise UserError(
            f"{network.name} was not built by {builder} in this process, so a preset could not say "
            f"how to build it again; build it with {builder} and load its weights."
        )
    if isinstance(arguments.get("backbone"), keras.Model):
        raise UserError(
            f"The backbone of {network.name} was given as an object, which a preset cannot hold; name it, "
            "such as 'keras:EfficientNetV2B0', or save the model with Keras."
        )
    return plain_arguments(arguments, builder)


def check_sizes(
    folder: Path, part: str, arguments: Mapping[str, Any], encoder: Mapping[str, Any] | None = None
) -> None:
    """Check the sizes in a preset's config against the shapes of its weights, before building anything.

    A damaged config of a few bytes could otherwise ask for a million classes, a network of gigabytes.

    Args:
        folder: folder of the preset.
        part: `encoder` or `decoder`.
        arguments: arguments of the part's builder, from the config.
        encoder: for a decoder, arguments of the encoder's builder.

    Raises:
        UserError: the weights file is missing or damaged, or does not fit the config.
    """
    path = _weights_of(folder, part)
    try:
        found = {name.removeprefix("model/"): shape for name, shape in shapes(path).items()}
    except UserError as error:
        raise _misfit(path, part, error) from error
    defaults = {name: one.default for name, one in arguments_taken(f"build_{part}").items()}
    for layer, axis, what, wanted in _sizes(part, defaults | dict(arguments), encoder or {}):
        shape = found.get(f"{layer}/kernel", ())
        if len(shape) <= axis or shape[axis] != wanted:
            reason = f"{what} asks for size {wanted} of {layer}, whose kernel has the shape {shape}."
            raise _misfit(path, part, reason)


def _sizes(
    part: str, arguments: Mapping[str, Any], encoder: Mapping[str, Any]
) -> Iterator[tuple[str, int, str, int]]:
    """Yield layer, axis of its kernel, argument, and the size that the argument demands there."""
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
    """Load the weights of a preset's `encoder` or `decoder`.

    Args:
        folder: folder of the preset.
        part: `encoder` or `decoder`.
        network: network built from the preset's config.
        resized: whether it was built for another image size on purpose.

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


# Arguments that may change although the weights stay: set on purpose, or only used in training.
_FREE = ("num_classes", "input_shape", "batch_norm_momentum", "seed")


def encoder_from_preset(
    preset: str,
    num_classes: int | None = None,
    *,
    load_weights: bool = True,
    seed: int | None = None,
    **overrides: Any,
) -> keras.Model:
    """Build a preset's encoder; also available as `build_encoder.from_preset`.

    Args:
        preset: a name in `san_tf.models.presets.PRESETS`; "people" or "people_scratch", the trained encoders
            that come along; a folder written by `save_to_preset`; or `hf://user/name` (needs the extra
            `san-tf[hub]`).
        num_classes: number of training identities. None takes the folder's, or with a name 751 (Market-1501)
            and a warning. If it differs from the folder's, the classifier is new, drawn from `seed`; the
            other weights are loaded.
        load_weights: False starts from random weights.
        seed: seed of the weights that are not loaded.
        overrides: other arguments of `build_encoder`. With a folder's weights only `input_shape` and
            `batch_norm_momentum` may differ; with a name, or without weights, all may.

    Returns:
        The encoder, see `build_encoder`.

    Raises:
        UserError: there is no such preset, its files are damaged or do not fit, or see `build_encoder`.

    Example:
        >>> encoder = build_encoder.from_preset("san_light", num_classes=100)
        >>> encoder = build_encoder.from_preset("presets/mine")
    """
    if preset in PRESETS:
        return _named_encoder(preset, num_classes, load_weights, seed, overrides)
    folder = _folder_of(preset)
    config = read_config(folder)
    return _encoder(folder, config.encoder, overrides, num_classes, load_weights, seed)


def san_from_preset(
    preset: str,
    num_classes: int | None = None,
    *,
    load_weights: bool = True,
    seed: int | None = None,
    **overrides: Any,
) -> keras.Model:
    """Build a preset's SAN, ready to be compiled; also available as `SAN.from_preset`.

    Arguments and errors are those of `encoder_from_preset`. A folder without decoder gives a SAN without
    decoder, the baseline.
    """
    san = registered("SAN")
    if preset in PRESETS:
        encoder = _named_encoder(preset, num_classes, load_weights, seed, overrides)
        return san(encoder, _decoder(encoder, PRESETS[preset]["decoder"], seed))
    folder = _folder_of(preset)
    config = read_config(folder)
    if config.decoder is not None:
        check_sizes(folder, "decoder", config.decoder, config.encoder)
    encoder = _encoder(folder, config.encoder, overrides, num_classes, load_weights, seed)
    if config.decoder is None:
        return san(encoder, None, **config.san)
    decoder = _decoder(encoder, config.decoder, seed)
    if load_weights:
        load_part(folder, "decoder", decoder, resized="input_shape" in overrides)
    return san(encoder, decoder, **config.san)


def _folder_of(preset: str) -> Path:
    if str(preset).startswith(hub.PREFIX):
        return hub.download(str(preset))
    folder = Path(preset)
    if folder.is_dir():
        return folder
    shipped = shipped_preset(preset)
    if shipped is None:
        raise UserError(
            f"There is no preset {str(preset)!r}: no folder of that name, and the named ones are "
            f"{', '.join([*PRESETS, *shipped_presets()])}; one on the hub is written hf://user/name."
        )
    return shipped


def _named_encoder(
    name: str, num_classes: int | None, load_weights: bool, seed: int | None, overrides: dict[str, Any]
) -> keras.Model:
    arguments = dict(PRESETS[name]["encoder"])
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    elif "num_classes" not in overrides:
        usual = arguments_taken("build_encoder")["num_classes"].default
        warnings.warn(
            f"The preset {name} was built without num_classes, so its classifier has {usual} identities,"
            f" those of Market-1501; give num_classes to train on others.",
            stacklevel=4,
        )
    if not load_weights:
        arguments["weights"] = None
    return registered("build_encoder")(**(arguments | {"seed": seed} | overrides))


def _encoder(
    folder: Path,
    own: dict[str, Any],
    overrides: dict[str, Any],
    num_classes: int | None,
    load_weights: bool,
    seed: int | None,
) -> keras.Model:
    """Build the encoder of a config with its weights, and with another classifier if requested."""
    check_sizes(folder, "encoder", own)
    build = registered("build_encoder")
    overrides = {name: tuple(v) if isinstance(v, list) else v for name, v in overrides.items()}
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    stored = own | {"weights": None, "seed": seed}
    wanted = stored | overrides
    if not load_weights:
        return build(**wanted)
    usual = {name: one.default for name, one in arguments_taken("build_encoder").items()}
    for name, value in overrides.items():
        trained = stored.get(name, usual.get(name))
        if name not in _FREE and trained != value:
            raise UserError(
                f"{folder} holds the weights of an encoder with {name}={trained!r}, not {value!r}; leave "
                f"{name} out, or build without its weights (load_weights=False)."
            )
    encoder = build(**stored)
    load_part(folder, "encoder", encoder)
    if wanted == stored:
        return encoder
    other = build(**wanted)
    for source, target in zip(encoder.layers, other.layers, strict=True):
        if target.name != "classifier" or wanted["num_classes"] == own["num_classes"]:
            target.set_weights(source.get_weights())
    return other


def _decoder(encoder: keras.Model, arguments: dict[str, Any], seed: int | None) -> keras.Model:
    shapes = [stage.shape for stage in encoder.output["stages"]]
    decoder: keras.Model = registered("build_decoder")(shapes, seed=seed, **arguments)
    return decoder
