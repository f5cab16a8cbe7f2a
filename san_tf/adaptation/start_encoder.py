"""Finds an encoder that can be trained: of a preset, a run, an export that carries it, or a weights file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras

from san_tf.errors import UserError
from san_tf.forms import Form, form_of
from san_tf.models.backbones import BACKBONES
from san_tf.models.encoder import build_encoder
from san_tf.models.preset_folder import CONFIG, PREFIX
from san_tf.models.presets import PRESETS
from san_tf.models.pretrained import PAINTING, load_body
from san_tf.models.weights_file import SUFFIX, read_record
from san_tf.serving.servable import newest_export
from san_tf.trusted import PRESET_FOLDER, model_path

_RECIPE = "recipe.yaml"
# Layers after the backbone; a file of a backbone alone has none of them.
_HEADS = {"pool", "fc", "fc_bn", "fc_relu", "neck_bn", "classifier"}
_GIVE = (
    "give a preset folder (`SAN.save_to_preset`), a run directory, a .weights.h5 file of an encoder, or "
    f"'{PAINTING}'"
)


def trainable_encoder(model: str | os.PathLike[str] | keras.Model) -> keras.Model:
    """Build an encoder with trained weights that can be trained further.

    Args:
        model: one of: an encoder from `build_encoder`, or a `SAN`; a preset's folder, name or
            `hf://user/name`; the directory of a run, `runs/market`; an export that was written with
            `trainable=True`, `saved_models/mine/1`; a `.weights.h5` file of an encoder; "painting", the
            backbone that comes along.

    Returns:
        The encoder. Its classifier may be new.

    Raises:
        UserError: the model does not exist, is damaged, or cannot be trained further.

    Example:
        >>> encoder = trainable_encoder("runs/market")
    """
    if isinstance(model, keras.Model):
        return getattr(model, "encoder", model)
    text = os.fspath(model)
    if text == PAINTING:
        return build_encoder("thin_resnet", (128, 64, 3), 1, "bnneck", weights=PAINTING, seed=0)
    if text in PRESETS or text.startswith(PREFIX):
        return build_encoder.from_preset(text, 1 if text in PRESETS else None)
    path = model_path(text)
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise UserError(f"There is no encoder {text}; {_GIVE}.")
    if (path / CONFIG).is_file():
        return build_encoder.from_preset(str(path))
    if (path / _RECIPE).is_file():
        return _of_run(path, _weights_of_run(path))
    return _of_export(path)


def _of_export(path: Path) -> keras.Model:
    try:
        folder = newest_export(path)
    except UserError as error:
        raise UserError(f"{path} is not an encoder; {_GIVE}.") from error
    preset = folder / PRESET_FOLDER
    if not preset.is_dir():
        raise UserError(
            f"{folder} is an export, whose folded weights cannot be trained further; {_GIVE}, or export it "
            "again with --export_trainable (`trainable=True`)."
        )
    return build_encoder.from_preset(str(preset))


def _weights_of_run(run: Path) -> Path:
    """The encoder that a run exports: SAN's, else the baseline's, else the only one."""
    found = sorted((run / "weights").glob(f"*_encoder{SUFFIX}"))
    for name in ("san", "baseline"):
        if (path := run / "weights" / f"{name}_encoder{SUFFIX}") in found:
            return path
    if len(found) != 1:
        what = "no encoder yet" if not found else f"{len(found)} encoders"
        raise UserError(f"The run {run} has {what} in its folder weights; name the file of one.")
    return found[0]


def _of_run(run: Path, weights: Path) -> keras.Model:
    # Recipes are the experiments' own; other starts do without them.
    from san_tf.experiments.networks import encoder_of
    from san_tf.experiments.ownership import Owned
    from san_tf.experiments.recipe import Recipe

    owned = Owned.read(run, Recipe())
    if owned is None:
        raise UserError(f"{run / _RECIPE} cannot be used; name another run.")
    encoder = encoder_of(owned.recipe, 1, weights=False)
    load_body(encoder, weights)
    return encoder


def _of_file(path: Path) -> keras.Model:
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path} is not a weights file (*{SUFFIX}); {_GIVE}.")
    if (path.parent.parent / _RECIPE).is_file() and path.name.endswith(f"_encoder{SUFFIX}"):
        return _of_run(path.parent.parent, path)
    record = read_record(path)
    form: Form = record.form or {}
    facts: dict[str, Any] = dict(form.get("facts") or {})
    if "layers" not in form or "input_shape" not in facts:
        raise UserError(f"{path} does not say what network it is of; {_GIVE}.")
    settings: dict[str, Any] = {
        name: facts[name]
        for name in ("head", "pooling", "last_stride", "stride_on", "pool_padding")
        if name in facts
    }
    shape = tuple(facts["input_shape"])
    for name in BACKBONES:
        encoder = build_encoder(name, shape, 1, **{"head": "bnneck", **settings}, weights=None, seed=0)
        own = form_of(encoder) or {"layers": {}}
        if set(own["layers"]) - _HEADS == set(form["layers"]) - _HEADS:
            if record.trunk:
                return build_encoder(name, shape, 1, "bnneck", weights=path, seed=0)
            load_body(encoder, path)
            return encoder
    raise UserError(f"{path} is of a backbone that is not of this package; save its network as a preset.")
