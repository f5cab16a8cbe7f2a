"""Back: the public SAN's networks from Keras to a PyTorch state dict, as safetensors."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import keras
import numpy as np
from safetensors.numpy import save_file

from san_tf.atomic import atomic_file
from san_tf.convert.architectures import DECODER
from san_tf.convert.names import head_names, resnet_names
from san_tf.convert.weight_map import pairs_of
from san_tf.errors import UserError
from san_tf.models.encoder import Head, build_encoder
from san_tf.models.pretrained import is_of_applications
from san_tf.models.resnet import form_of

# Convolutions of ResNet-50 and ResNet-101.
_CONVOLUTIONS = {53: "resnet50", 104: "resnet101"}


def to_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """The state dict of an encoder or decoder under the names of the public SAN code.

    PyTorch loads it with `strict=True`: `num_batches_tracked`, which Keras lacks, it fills in itself.

    Args:
        model: a ResNet encoder of head "fc512" or "plain", or a decoder with skips.

    Returns:
        float32 arrays in the order and layout of PyTorch's own state dict.

    Raises:
        UserError: the network has layers that the public code has not.

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
        pairs = pairs_of(model, names)
    except KeyError as error:
        raise UserError(
            f"{model.name} is no network of the public SAN code ({error.args[0][:200]}); only its ResNet "
            "encoders and its decoder with skips can be written for PyTorch."
        ) from error
    return {pair.name: pair.to_torch() for pair in pairs}


def write_state_dict(model: keras.Model, path: str | os.PathLike[str]) -> int:
    """Write `to_state_dict` as a `.safetensors` file, whole or not at all; returns the number of arrays."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must be named *.safetensors.")
    arrays = to_state_dict(model)
    form = form_of(model)
    about = {"format": "pt"} | (dict(form._asdict()) if form else {})
    with atomic_file(path) as temporary:
        save_file(arrays, temporary, metadata=about)
    return len(arrays)


def convert_weights(weights: str | os.PathLike[str], to: str | os.PathLike[str]) -> tuple[str, int]:
    """Convert a `.weights.h5` file of a SAN encoder or decoder to a PyTorch state dict.

    Args:
        weights: saved by `save_weights` of a ResNet encoder or of the official decoder.
        to: the `.safetensors` file to write.

    Returns:
        What it was recognised as, and the number of arrays.

    Raises:
        UserError: the file is missing, damaged, or of another network.
    """
    model = _network_of(Path(weights))
    try:
        model.load_weights(weights)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{weights} holds no ResNet encoder or official decoder: {str(error).splitlines()[0]}"
        ) from error
    return model.name, write_state_dict(model, to)


def _network_of(path: Path) -> keras.Model:
    """The untrained network whose weights a file seems to hold, told by the shapes of its kernels."""
    if is_of_applications(path):
        raise UserError(f"{path} holds weights of keras.applications, not of a SAN.")
    shapes: list[tuple[int, ...]] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda _, item: shapes.append(item.shape) if isinstance(item, h5py.Dataset) else None)
    dense = {shape for shape in shapes if len(shape) == 2}
    convolutions = sum(len(shape) == 4 for shape in shapes)
    if not dense and convolutions:
        return DECODER.build()
    backbone = _CONVOLUTIONS.get(convolutions)
    head: Head = "fc512" if (2048, 512) in dense and len(dense) == 2 else "plain"
    classifiers = dense - {(2048, 512)} if head == "fc512" else dense
    if backbone is None or len(classifiers) != 1:
        raise UserError(f"{path} holds no ResNet encoder and no official decoder.")
    num_classes = classifiers.pop()[1]
    return build_encoder(backbone, num_classes=num_classes, head=head, stride_on="3x3", weights=None)
