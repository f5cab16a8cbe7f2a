"""Converts a PyTorch checkpoint to a file of Keras weights and checks the file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import safe_open

from san_tf.atomic import atomic_file
from san_tf.convert.architectures import Architecture, recognise
from san_tf.convert.weight_map import Counterpart, assign
from san_tf.errors import UserError
from san_tf.forms import Form, facts_of
from san_tf.models.weights_file import write_record
from san_tf.torch_files.checkpoint import read_checkpoint
from san_tf.torch_files.state_dict import WRAPPERS, Tensors, find_state_dict

# Facts about a ResNet that a safetensors file may state, see `to_pytorch.STATED`.
_LEGAL = {"stride_on": ("1x1", "3x3"), "pool_padding": ("both", "end"), "last_stride": ("1", "2")}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        title: the network that was recognised.
        parameters: number of copied arrays.
        numbers: number of values in them.
        equal: number of arrays that the written file, read into an empty network, gives back bit by bit.
        dropped: names that were left out as requested.
        others: keys of other state dicts in the same file.
        load: the call that builds the network with these weights.
    """

    title: str
    parameters: int
    numbers: int
    equal: int
    dropped: tuple[str, ...]
    others: tuple[str, ...]
    load: str


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    to: str | os.PathLike[str],
    key: str | None = None,
    drop_classifier: bool = False,
    num_classes: int | None = None,
    backbone_only: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Conversion:
    """Convert a PyTorch checkpoint to weights for `build_encoder` or the official decoder.

    Args:
        checkpoint: a `.pth`, `.pth.tar`, `.pt` or `.safetensors` file of a network known to `recognise`.
        to: the `.weights.h5` file to write; it appears complete or not at all.
        key: key of the state dict, if the checkpoint holds several.
        drop_classifier: leave out the identity classifier; the network gets a new, untrained one.
        num_classes: identities of that new classifier; None for the checkpoint's number.
        backbone_only: leave out everything behind stage 4; the file then fits encoders with any head and
            number of identities.
        facts: `stride_on` and `last_stride` of a ResNet, if they differ from the code it comes from.

    Returns:
        What was converted, with the check of the written file.

    Raises:
        UserError: the file cannot be read, is not of a known network or does not match it; see
            `read_checkpoint`, `recognise`, `assign`.

    Example:
        >>> done = convert_checkpoint("market.pth.tar", "market.weights.h5")
        >>> encoder = build_encoder("resnet50", head="fc512", stride_on="3x3", weights="market.weights.h5")
    """
    path, to = Path(checkpoint), Path(to)
    if not to.name.endswith(".weights.h5"):
        raise UserError(f"{to} must be named *.weights.h5, as Keras names files of weights.")
    if num_classes is not None and not drop_classifier:
        raise UserError("A number of identities needs a new classifier; add --drop_classifier.")
    tree = read_checkpoint(path)
    tensors = find_state_dict(tree, path, key)
    architecture = _as_stated(recognise(tensors, path), path, dict(facts or {}))
    if drop_classifier and backbone_only:
        raise UserError("--backbone_only leaves the classifier out too; omit --drop_classifier.")
    if architecture.encoder is None and (drop_classifier or backbone_only):
        raise UserError(f"{path} is the {architecture.title}, which has no classifier to leave out.")
    dropped: tuple[str, ...] = architecture.classifier_names if drop_classifier else ()
    if backbone_only:
        dropped = architecture.head_names

    model = architecture.build(num_classes)
    counterparts = [
        one for one in architecture.counterparts(model) if one.name not in dropped or not backbone_only
    ]
    assign(counterparts, tensors, path, dropped)
    form = _form_of(model)
    if backbone_only:
        model = keras.Model(model.input, model.output["stages"])
    with atomic_file(to) as temporary:
        model.save_weights(temporary)
        write_record(temporary, form, trunk=backbone_only)
        equal = _read_back(model, temporary, counterparts, tensors, dropped)

    copied = [one for one in counterparts if one.name not in dropped]
    return Conversion(
        architecture.title,
        len(copied),
        sum(int(np.prod(one.torch_shape)) for one in copied),
        equal,
        tuple(name for name in dropped if name in tensors),
        tuple(name for name in WRAPPERS if _holds_another(tree, name, key)),
        _call(architecture, num_classes, to, backbone_only),
    )


def _as_stated(architecture: Architecture, path: Path, given: dict[str, Any]) -> Architecture:
    """The architecture with the facts that the file, written by `to_pytorch`, and the caller state."""
    stated: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            stated = {k: v for k, v in (file.metadata() or {}).items() if v in _LEGAL.get(k, ())}
    if "last_stride" in stated:
        stated["last_stride"] = int(stated["last_stride"])
    for name, value in given.items():
        if stated.get(name, value) != value:
            raise UserError(f"{path} has {name}={stated[name]!r}, not {value!r}; leave --{name} out.")
    if given and (architecture.encoder is None or "stride_on" not in architecture.encoder):
        raise UserError(f"{path} is the {architecture.title}, which has no {' and '.join(given)} to choose.")
    if architecture.encoder is None or "stride_on" not in architecture.encoder:
        return architecture
    return dataclasses.replace(architecture, encoder=architecture.encoder | stated | given)


def _form_of(model: keras.Model) -> Form:
    """The facts that a checkpoint gives of its network: all except the image size."""
    facts = facts_of(model)
    unknown = ("input_shape", "stage_shapes", "texture_size")
    return {"facts": {name: value for name, value in facts.items() if name not in unknown}}


def _read_back(
    model: keras.Model,
    path: Path,
    counterparts: list[Counterpart],
    tensors: Tensors,
    dropped: tuple[str, ...],
) -> int:
    """Set the network to zeros, load the file, and count the parameters that equal the checkpoint's."""
    for variable in model.weights:
        variable.assign(np.zeros(variable.shape, np.float32))
    model.load_weights(path)
    equal = [
        np.array_equal(one.to_torch(), tensors[one.name].array().astype(np.float32))
        for one in counterparts
        if one.name not in dropped
    ]
    if not all(equal):
        raise RuntimeError(f"{path} gives back {sum(equal)} of {len(equal)} parameters")
    return sum(equal)


def _holds_another(tree: object, name: str, key: str | None) -> bool:
    if not isinstance(tree, dict) or not isinstance(tree.get(name), dict) or name == key:
        return False
    used = key or next((wrapper for wrapper in WRAPPERS if isinstance(tree.get(wrapper), dict)), None)
    return name != used


def _call(architecture: Architecture, num_classes: int | None, to: Path, backbone_only: bool) -> str:
    if architecture.encoder is None:
        return f"build_preset('san_resnet50_official', num_classes)[1].load_weights({str(to)!r})"
    arguments = dict(architecture.encoder)
    if backbone_only:
        del arguments["head"]
    else:
        arguments["num_classes"] = num_classes or architecture.num_classes
    return f"build_encoder({', '.join(f'{k}={v!r}' for k, v in arguments.items())}, weights={str(to)!r})"
