"""Networks from presets: a name, a folder of `save_to_preset`, or an address on the hub."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras

from san_tf.errors import UserError
from san_tf.models import hub
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.preset_config import read_config
from san_tf.models.preset_folder import check_sizes, load_part
from san_tf.models.presets import PRESETS
from san_tf.models.san import SAN

# What may be another with the same weights: what is asked for on purpose, or matters in training alone.
_FREE = ("num_classes", "input_shape", "batch_norm_momentum", "seed")


def encoder_from_preset(
    preset: str,
    num_classes: int | None = None,
    *,
    load_weights: bool = True,
    seed: int | None = None,
    **overrides: Any,
) -> keras.Model:
    """Build a preset's encoder; also spelt `build_encoder.from_preset`.

    Args:
        preset: a name of `san_tf.models.presets.PRESETS`, a folder written by `save_to_preset`, or
            `hf://user/name` (wants the extra `san-tf[hub]`).
        num_classes: training identities; None takes the preset's. Another number than a folder's gives a new
            classifier, drawn from `seed`, on weights that are kept.
        load_weights: False starts from random weights.
        seed: of what is not loaded.
        overrides: other arguments of `build_encoder`. With a folder's weights these are `input_shape` and
            `batch_norm_momentum`; with a name, or without weights, all of them.

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
) -> SAN:
    """Build a preset's SAN, ready to be compiled; also spelt `SAN.from_preset`.

    Arguments and errors are those of `encoder_from_preset`. A folder that holds an encoder alone gives a SAN
    without decoder, the baseline.
    """
    if preset in PRESETS:
        encoder = _named_encoder(preset, num_classes, load_weights, seed, overrides)
        return SAN(encoder, _decoder(encoder, PRESETS[preset]["decoder"], seed))
    folder = _folder_of(preset)
    config = read_config(folder)
    if config.decoder is not None:
        check_sizes(folder, "decoder", config.decoder, config.encoder)
    encoder = _encoder(folder, config.encoder, overrides, num_classes, load_weights, seed)
    if config.decoder is None:
        return SAN(encoder, None, **config.san)
    decoder = _decoder(encoder, config.decoder, seed)
    if load_weights:
        load_part(folder, "decoder", decoder, resized="input_shape" in overrides)
    return SAN(encoder, decoder, **config.san)


def _folder_of(preset: str) -> Path:
    if str(preset).startswith(hub.PREFIX):
        return hub.download(str(preset))
    folder = Path(preset)
    if not folder.is_dir():
        raise UserError(
            f"There is no preset {str(preset)!r}: no folder of that name, and the named ones are "
            f"{', '.join(PRESETS)}; one on the hub is written hf://user/name."
        )
    return folder


def _named_encoder(
    name: str, num_classes: int | None, load_weights: bool, seed: int | None, overrides: dict[str, Any]
) -> keras.Model:
    arguments = dict(PRESETS[name]["encoder"])
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if not load_weights:
        arguments["weights"] = None
    return build_encoder(**(arguments | {"seed": seed} | overrides))


def _encoder(
    folder: Path,
    own: dict[str, Any],
    overrides: dict[str, Any],
    num_classes: int | None,
    load_weights: bool,
    seed: int | None,
) -> keras.Model:
    """The encoder that a config describes, with its weights, and with another classifier if asked for."""
    check_sizes(folder, "encoder", own)
    overrides = {name: tuple(v) if isinstance(v, list) else v for name, v in overrides.items()}
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    stored = own | {"weights": None, "seed": seed}
    wanted = stored | overrides
    if not load_weights:
        return build_encoder(**wanted)
    usual = {name: one.default for name, one in inspect.signature(build_encoder).parameters.items()}
    for name, value in overrides.items():
        trained = stored.get(name, usual.get(name))
        if name not in _FREE and trained != value:
            raise UserError(
                f"{folder} holds the weights of an encoder with {name}={trained!r}, not {value!r}; leave "
                f"{name} out, or build without its weights (load_weights=False)."
            )
    encoder = build_encoder(**stored)
    load_part(folder, "encoder", encoder)
    if wanted == stored:
        return encoder
    other = build_encoder(**wanted)
    for source, target in zip(encoder.layers, other.layers, strict=True):
        if target.name != "classifier" or wanted["num_classes"] == own["num_classes"]:
            target.set_weights(source.get_weights())
    return other


def _decoder(encoder: keras.Model, arguments: dict[str, Any], seed: int | None) -> keras.Model:
    shapes = [stage.shape for stage in encoder.output["stages"]]
    return build_decoder(shapes, seed=seed, **arguments)
