"""Reads and checks a preset's `config.json`: known keys of known types, no code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from san_tf.errors import UserError
from san_tf.models.builder import arguments_taken
from san_tf.models.model_card import ModelCard, normalization_config
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
