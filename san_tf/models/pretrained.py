"""Loads pretrained weights: ImageNet's, those that come along, or a file of ours or keras.applications."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np

from san_tf.errors import UserError
from san_tf.forms import check_form
from san_tf.models.efficientnet_lite import load_efficientnet_lite0
from san_tf.models.preset_folder import encoder_from_preset, read_config
from san_tf.models.resnet import ResNetForm
from san_tf.models.weights_file import LOADING_ERRORS, SUFFIX, read_record, reason_of
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD
from san_tf.trusted import SHIPPED_MODELS, shipped_preset

# The "caffe" preprocessing of keras.applications subtracts this mean from BGR images of 0-255.
CAFFE_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)
APPLICATIONS = {"resnet50": "ResNet50", "resnet101": "ResNet101"}
APPLICATIONS_FORM = ResNetForm(stride_on="1x1", pool_padding="both")
# Backbones of texture generators, trained on rendered people only; they come with the package.
PAINTING = "painting"
_PAINTING_FOLDER = SHIPPED_MODELS / PAINTING
_logger = logging.getLogger(__name__)


def load_weights(encoder: keras.Model, backbone: str, weights: str | os.PathLike[str]) -> None:
    """Load ImageNet weights or a local file into an encoder.

    Args:
        encoder: from `build_encoder`.
        backbone: name of its backbone.
        weights: "imagenet", "painting", "people", "people_scratch", or a path: a `.weights.h5` file of this
            encoder, or a `.h5` file of the same ResNet by keras.applications ("..._notop.h5"), recognised by
            its content.

    Raises:
        UserError: the file is missing, damaged, of another architecture, or cannot be downloaded.
    """
    if weights == "imagenet":
        if backbone in APPLICATIONS:
            _copy_from_applications(encoder, _download(backbone))
        else:
            load_efficientnet_lite0(encoder)
        return
    if shipped := shipped_preset(weights):
        check_shipped(shipped, backbone)
        _copy_from_shipped(encoder, shipped)
        return
    path = painting_file(backbone) if weights == PAINTING else Path(weights)
    if is_of_applications(path):
        try:
            _copy_from_applications(encoder, _application(backbone, path))
        except LOADING_ERRORS as error:
            if isinstance(error, UserError):
                raise
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{path} does not fit this {backbone}: {reason}") from error
        return
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path} must be named *{SUFFIX}, as Keras names the files of save_weights.")
    record = read_record(path)
    if not record.trunk:
        encoder.load_weights(path)
        return
    trunk = keras.Model(encoder.input, encoder.output["stages"])
    check_form(path, record.form, trunk, start=True)
    try:
        trunk.load_weights(path)
    except LOADING_ERRORS as error:
        raise UserError(
            f"{path} does not hold the stages of a {backbone}; use a file of the same backbone."
        ) from error


def painting_file(backbone: str) -> Path:
    """Return the file with the backbone of a texture generator that comes with the package.

    Raises:
        UserError: there is none for this backbone.
    """
    files = {path.name.removesuffix(SUFFIX): path for path in sorted(_PAINTING_FOLDER.glob(f"*{SUFFIX}"))}
    if backbone not in files:
        raise UserError(
            f"The weights 'painting' are of {', '.join(files) or 'no backbone'}, not of {backbone}; take that"
            " backbone, or train a texture generator of your own and add --start texture-generator."
        )
    return files[backbone]


def check_shipped(folder: Path, backbone: str) -> None:
    """Raise `UserError` unless a trained encoder that comes along has this backbone.

    Args:
        folder: see `san_tf.trusted.shipped_preset`.
        backbone: name of the backbone that is to have its weights.
    """
    trained = read_config(folder).encoder["backbone"]
    if trained != backbone:
        raise UserError(
            f"The weights of {folder} are of {trained}, not of {backbone}; take that backbone, or other "
            "weights."
        )


def _copy_from_shipped(encoder: keras.Model, folder: Path) -> None:
    """Copy a trained encoder that comes along, all but its classifier, since identities differ."""
    trained = encoder_from_preset(str(folder))
    layers = {layer.name: layer.get_weights() for layer in trained.layers}
    for layer in encoder.layers:
        if layer.name == "classifier" or not layer.weights:
            continue
        arrays = layers.get(layer.name, [])
        if [array.shape for array in arrays] != [tuple(weight.shape) for weight in layer.weights]:
            form = read_config(folder).encoder
            raise UserError(
                f"{folder} has no weights for the layer {layer.name}: its encoder is a {form['backbone']} "
                f"with head {form['head']!r} and pooling {form['pooling']!r}; take these, or other weights."
            )
        layer.set_weights(arrays)


def load_body(encoder: keras.Model, path: str | os.PathLike[str]) -> None:
    """Load an encoder's file except for the classifier, since identities may differ.

    Args:
        encoder: from `build_encoder`; its layer `classifier` is not changed.
        path: a `.weights.h5` file of an encoder of the same backbone and head. Number of identities, image
            size and last stride may differ.

    Raises:
        UserError: the file is missing, damaged or of another backbone or head.
    """
    record = read_record(path)
    body = keras.Model(encoder.input, {name: out for name, out in encoder.output.items() if name != "logits"})
    check_form(path, record.form, body, start=True)
    # Keras may skip weights that the file lacks: those are still NaN afterwards.
    body.set_weights([np.full_like(values, np.nan) for values in body.get_weights()])
    try:
        with warnings.catch_warnings():
            # Keras 3.15 warns of lists in the file's network that this one lacks.
            warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
            body.load_weights(path)
        missing = [layer.name for layer in body.layers if any(np.isnan(w).any() for w in layer.get_weights())]
        if missing:
            raise ValueError(f"it has no weights for the layer {missing[0]}, or they are not numbers")
    except LOADING_ERRORS as error:
        raise UserError(
            f"{path} does not fit {encoder.name}: {reason_of(error)}; start from a file of the same backbone "
            "and head."
        ) from error


def is_of_applications(path: str | os.PathLike[str]) -> bool:
    """Whether the content of a weights file is of keras.applications.

    Raises:
        UserError: the file is missing or not an HDF5 file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The weights file {path} does not exist; check the path, or use 'imagenet' or none.")
    try:
        with h5py.File(path, "r") as file:
            return "layer_names" in file.attrs
    except OSError as error:
        raise UserError(
            f"{path} is not a readable HDF5 weights file ({error}); copy or save it again."
        ) from error


def _application(backbone: str, path: Path | None) -> keras.Model:
    if backbone not in APPLICATIONS:
        raise UserError(f"{path} holds weights of keras.applications, which has no {backbone}.")
    build = getattr(keras.applications, APPLICATIONS[backbone])
    return build(include_top=False, weights=None if path is None else str(path), input_shape=(64, 32, 3))


def _download(backbone: str) -> keras.Model:
    build = getattr(keras.applications, APPLICATIONS[backbone])
    try:
        return build(include_top=False, weights="imagenet", input_shape=(64, 32, 3))
    except Exception as error:  # Keras raises bare Exception when the address cannot be reached
        file = f"{backbone}_weights_tf_dim_ordering_tf_kernels_notop.h5"
        raise UserError(
            f"The ImageNet weights of {backbone} could not be downloaded; put {file} (from "
            f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/) into "
            f"{Path(os.environ.get('KERAS_HOME', '~/.keras')).expanduser() / 'models'}, "
            "or pass the file's path as weights, or train from scratch with weights=None."
        ) from error


def _copy_from_applications(encoder: keras.Model, application: keras.Model) -> None:
    """Copy by layer name, and move biases into the moving means of the following batch norms.

    BN(Wx + b) with moving mean m equals BN(Wx) with moving mean m - b. In training, subtracting the batch
    mean removes b anyway.
    """
    for layer in application.layers:
        if not layer.name.endswith("_conv"):
            continue
        kernel, bias = layer.get_weights()
        gamma, beta, mean, variance = application.get_layer(_norm_of(layer.name)).get_weights()
        if layer.name == "conv1_conv":
            kernel, shift = fold_caffe_preprocessing(kernel)
            bias = bias + shift
        encoder.get_layer(layer.name).set_weights([kernel])
        encoder.get_layer(_norm_of(layer.name)).set_weights([gamma, beta, mean - bias, variance])


def _norm_of(conv_name: str) -> str:
    return conv_name.removesuffix("_conv") + "_bn"


def fold_caffe_preprocessing(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert a first convolution from caffe's preprocessing to `san_tf.normalization`.

    With our input y = (rgb / 255 - mean) / std, caffe's input is 255 (std y + mean) - caffe_mean in BGR
    order. The scale per channel goes into the kernel, the constant into the bias. The result is exact where
    the kernel lies inside the image. At the border, zero padding stands for caffe's mean or ours, which
    differ by at most half a grey level.

    Args:
        kernel: `(h, w, 3, filters)` float32, channels BGR.

    Returns:
        The kernel with channels RGB, and the `(filters,)` float32 to add to the bias.
    """
    rgb = kernel[:, :, ::-1, :]
    shift = 255.0 * IMAGENET_MEAN - CAFFE_MEAN_BGR[::-1]
    scaled = rgb * (255.0 * IMAGENET_STD)[:, None]
    return scaled.astype(np.float32), np.einsum("hwcf,c->f", rgb, shift).astype(np.float32)
