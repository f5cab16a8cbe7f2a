"""Converts the public SAN's networks from Keras to a PyTorch state dict.

PyTorch's ResNets have a block's stride on its 3x3 convolution. An encoder with strides on the 1x1
convolutions has weights of the same shapes, but would compute something else in PyTorch, so it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np
from safetensors.numpy import save_file

from san_tf.atomic import atomic_file
from san_tf.convert.architectures import DECODER, head_names, resnet_names
from san_tf.convert.weight_map import counterparts_of
from san_tf.errors import UserError
from san_tf.forms import facts_of
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import Head, build_encoder
from san_tf.models.presets import PRESETS
from san_tf.models.pretrained import is_of_applications
from san_tf.models.weights_file import read_record

# Facts of PyTorch's networks, by the names of `san_tf.forms`.
_PUBLIC = {"stride_on": "3x3", "pool_padding": "both", "variant": "official", "classifier": "linear"}
# Facts that a written file states in its metadata.
STATED = ("stride_on", "pool_padding", "last_stride")
# Number of convolutions -> backbone.
_CONVOLUTIONS = {53: "resnet50", 104: "resnet101"}


def to_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Return a network's state dict with the names of the public SAN code.

    PyTorch loads it with `strict=True`; it fills in `num_batches_tracked`, which Keras lacks.

    Args:
        model: a ResNet encoder with head "fc512" or "plain", or a decoder with skips.

    Returns:
        float32 arrays in the order and layout of PyTorch's own state dict.

    Raises:
        UserError: the network has layers that the public code lacks, or computes something else.

    Example:
        >>> safetensors.numpy.save_file(to_state_dict(encoder), "encoder.safetensors")
    """
    layers = {layer.name for layer in model.layers}
    if "reduce_conv" in layers:
        names = DECODER.names
    else:
        depth = "resnet101" if "conv4_block23_1_conv" in layers else "resnet50"
        names = resnet_names(depth) | head_names("fc512" if "fc" in layers else "plain")
    try:
        counterparts = counterparts_of(model, names)
    except KeyError as error:
        raise UserError(
            f"{model.name} is not a network of the public SAN code ({error.args[0][:200]}); only its ResNet "
            "encoders and its decoder with skips can be written for PyTorch."
        ) from error
    facts = facts_of(model)
    for name, value in _PUBLIC.items():
        if facts.get(name, value) != value:
            raise UserError(
                f"{model.name} has {name}={facts[name]!r}, and the public SAN code has {name}={value!r}: "
                f"with the same weights it would compute something else; train with {name}={value!r} to go "
                "to PyTorch, or export it with san-tf export-runtime."
            )
    return {one.name: one.to_torch() for one in counterparts}


def write_state_dict(model: keras.Model, path: str | os.PathLike[str]) -> int:
    """Write a network's state dict as `.safetensors`; return the number of arrays.

    The file appears complete or not at all.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must be named *.safetensors.")
    arrays = to_state_dict(model)
    facts = facts_of(model)
    about = {"format": "pt"} | {name: str(facts[name]) for name in STATED if name in facts}
    with atomic_file(path) as temporary:
        save_file(arrays, temporary, metadata=about)
    return len(arrays)


class Written(NamedTuple):
    """The result of `convert_weights`.

    Attributes:
        network: name of the network.
        arrays: number of arrays.
        last_stride: last stride that PyTorch must build the encoder with; None for a decoder.
    """

    network: str
    arrays: int
    last_stride: int | None


def convert_weights(
    weights: str | os.PathLike[str], to: str | os.PathLike[str], facts: Mapping[str, Any] | None = None
) -> Written:
    """Convert Keras weights of a SAN encoder or decoder to a PyTorch state dict.

    Args:
        weights: `.weights.h5` file that `save_weights` of a ResNet encoder or the official decoder wrote.
        to: the `.safetensors` file to write.
        facts: `stride_on` and `last_stride` of an encoder, if its file, from an older version, lacks them.

    Raises:
        UserError: the file is missing or damaged, or PyTorch has no such network.
    """
    path = Path(weights)
    record = read_record(path)
    stated = (record.form or {}).get("facts") or {}
    model = _network_of(path, dict(facts or {}), stated)
    try:
        model.load_weights(path)
    except UserError as error:
        raise UserError(f"{path} holds no ResNet encoder or official decoder: {error}") from error
    return Written(model.name, write_state_dict(model, to), facts_of(model).get("last_stride"))


def _network_of(path: Path, given: dict[str, Any], stated: Mapping[str, Any]) -> keras.Model:
    """The untrained network of a weights file, by its stated facts and the shapes of its kernels."""
    if is_of_applications(path):
        raise UserError(f"{path} holds weights of keras.applications, not of a SAN.")
    for name, value in given.items():
        if stated.get(name, value) != value:
            raise UserError(f"{path} has {name}={stated[name]!r}, not {value!r}; leave --{name} out.")
    shapes: list[tuple[int, ...]] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda _, item: shapes.append(item.shape) if isinstance(item, h5py.Dataset) else None)
    dense = {shape for shape in shapes if len(shape) == 2}
    convolutions = sum(len(shape) == 4 for shape in shapes)
    if not dense and convolutions:
        if stated.get("variant", "official") != "official":
            raise UserError(
                f"{path} is of a decoder with variant={stated['variant']!r}, and the public SAN code has "
                "variant='official': with the same weights it would paint something else; train with "
                "variant='official'."
            )
        shape = stated.get("stage_shapes")
        return DECODER.build() if shape is None else _official_decoder(shape)
    backbone = _CONVOLUTIONS.get(convolutions)
    head: Head = "fc512" if (2048, 512) in dense and len(dense) == 2 else "plain"
    classifiers = dense - {(2048, 512)} if head == "fc512" else dense
    if backbone is None or len(classifiers) != 1:
        raise UserError(f"{path} holds no ResNet encoder and no official decoder.")
    known = given | dict(stated)
    if "stride_on" not in known:
        raise UserError(
            f"{path}, written by an older version, does not say which convolutions have strides; add "
            "--stride_on 3x3 or --stride_on 1x1, as it was trained."
        )
    return build_encoder(
        backbone,
        tuple(known.get("input_shape", (256, 128, 3))),
        num_classes=classifiers.pop()[1],
        head=head,
        last_stride=known.get("last_stride", 1),
        stride_on=known["stride_on"],
        pool_padding=known.get("pool_padding", "both"),
        weights=None,
    )


def _official_decoder(stage_shapes: list[list[int]]) -> keras.Model:
    return build_decoder(
        [tuple(shape) for shape in stage_shapes], **PRESETS["san_resnet50_official"]["decoder"]
    )
