"""ResNet-50, ResNet-101 and a thin ResNet with four stage outputs and last stride 1 or 2.

Layers have the names of `keras.applications`, whose ImageNet weights are loaded by name. Convolutions have no
bias, as in torchvision. `keras.applications` has biases before batch norms; the norm's moving mean can hold
their values (see `pretrained`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import keras

from san_tf.models.layer_factory import LayerFactory, Tensor

WIDTHS = (32, 64, 128, 192)
STEM = 32


def thin_resnet_stages(
    image: Tensor, last_stride: int, factory: LayerFactory, ibn: bool = False
) -> list[Tensor]:
    """Build the thin ResNet and return its four stage outputs.

    A 3x3 stem replaces the 7x7 one, to keep the detail of crops of 128x64 pixels.

    Args:
        image: `(batch, height, width, 3)`.
        last_stride: stride of the fourth stage, 1 or 2.
        factory: makes the layers.
        ibn: see `resnet_stages`.

    Returns:
        Maps of 32, 64, 128, 192 channels at 1/4, 1/8, 1/16 and 1/16 (1/32 at stride 2) of the image.
    """
    x = factory.conv_bn(image, STEM, 3, 2, name="stem")
    x = keras.layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    stages = []
    for stage, (width, stride) in enumerate(zip(WIDTHS, (1, 2, 2, last_stride), strict=True), start=1):
        x = _basic_block(x, width, stride, f"stage{stage}", factory, ibn and stage < 4)
        x = factory.end_of_stage(x, stage)
        stages.append(x)
    return stages


def _basic_block(x: Tensor, width: int, stride: int, name: str, factory: LayerFactory, ibn: bool) -> Tensor:
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        shortcut = factory.conv_bn(x, width, 1, stride, name=f"{name}_0", relu=False)
    x = factory.conv_bn(x, width, 3, stride, name=f"{name}_1", ibn=ibn)
    x = factory.conv_bn(x, width, 3, name=f"{name}_2", relu=False)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)


StridePosition = Literal["1x1", "3x3"]
PoolPadding = Literal["both", "end"]
DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class ResNetForm(NamedTuple):
    """Differences between published ResNets whose weights have the same shapes.

    Attributes:
        stride_on: "1x1" puts a block's stride on its first convolution, like `keras.applications` and the
            original paper; "3x3" on the second, like torchvision and the public SAN code.
        pool_padding: "both" pads the first pooling on all sides, as is usual; "end" only at the lower and
            right side, like fast-reid (PyTorch's `ceil_mode`).
    """

    stride_on: StridePosition = "1x1"
    pool_padding: PoolPadding = "both"


def resnet_stages(
    image: Tensor,
    depths: tuple[int, int, int, int],
    last_stride: int,
    form: ResNetForm,
    factory: LayerFactory,
    ibn: bool = False,
) -> list[Tensor]:
    """Build a bottleneck ResNet and return its four stage outputs.

    Args:
        image: `(batch, height, width, 3)`.
        depths: number of blocks of each stage.
        last_stride: stride of the fourth stage; 1 keeps its map at 1/16 of the image, 2 is the original.
        form: position of the stride, and padding of the first pooling.
        factory: makes the layers.
        ibn: IBN-a: in all blocks of the first three stages, half of the channels of the first norm are
            normalised by image, not by batch (`LayerFactory.instance_batch_norm`). Instance norms take away
            what a camera does to a whole image, its light and colours.

    Returns:
        Maps of 256, 512, 1024, 2048 channels at 1/4, 1/8, 1/16 and 1/16 (1/32 at stride 2) of the image.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; last stride 1 from Sun et
    al., "Beyond Part Models", ECCV 2018; IBN-a from Pan et al., "Two at Once", ECCV 2018.
    """
    x = factory.conv_bn(image, 64, 7, 2, name="conv1")
    # After the ReLU no value is negative, so padding with zeros acts like -inf.
    padding = ((1, 1), (1, 1)) if form.pool_padding == "both" else ((0, 1), (0, 1))
    x = keras.layers.ZeroPadding2D(padding, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    stages = []
    for stage, (depth, stride) in enumerate(zip(depths, (1, 2, 2, last_stride), strict=True), start=2):
        for block in range(1, depth + 1):
            name = f"conv{stage}_block{block}"
            width, step = 64 * 2 ** (stage - 2), stride if block == 1 else 1
            x = _bottleneck(x, width, step, form.stride_on, name, factory, ibn and stage < 5)
        x = factory.end_of_stage(x, stage - 1)
        stages.append(x)
    return stages


def _bottleneck(
    x: Tensor,
    filters: int,
    stride: int,
    stride_on: StridePosition,
    name: str,
    factory: LayerFactory,
    ibn: bool,
) -> Tensor:
    shortcut = x
    if name.endswith("block1"):
        shortcut = factory.conv_bn(x, 4 * filters, 1, stride, name=f"{name}_0", relu=False)
    first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
    x = factory.conv_bn(x, filters, 1, first, name=f"{name}_1", ibn=ibn)
    x = factory.conv_bn(x, filters, 3, second, name=f"{name}_2")
    x = factory.conv_bn(x, 4 * filters, 1, name=f"{name}_3", relu=False)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)
