"""The light backbone: a ResNet of one basic block a stage and a fraction of the width.

Chosen among thin ResNets, OSNet x0.25 and a MobileNet-like network by measured speed and size, and over the
deeper bottleneck ResNet because that one learnt much more slowly; the others were not trained. See "Light
backbone" in `benchmarks/README.md`.
"""

from __future__ import annotations

import keras

from san_tf.models.layer_factory import LayerFactory, Tensor

WIDTHS = (32, 64, 128, 192)
STEM = 32


def thin_resnet_stages(image: Tensor, last_stride: int, factory: LayerFactory) -> list[Tensor]:
    """The four stage outputs: 32, 64, 128, 192 channels at 1/4, 1/8, 1/16 and 1/16 (1/32) of the image.

    A 3x3 stem replaces the 7x7 one: crops of 128x64 pixels have no detail to give away.

    Args:
        image: `(batch, height, width, 3)`.
        last_stride: of the fourth stage, 1 or 2.
        factory: makes the layers.
    """
    x = factory.conv_bn(image, STEM, 3, 2, name="stem")
    x = keras.layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    stages = []
    for stage, (width, stride) in enumerate(zip(WIDTHS, (1, 2, 2, last_stride), strict=True), start=1):
        x = _basic_block(x, width, stride, f"stage{stage}", factory)
        stages.append(x)
    return stages


def _basic_block(x: Tensor, width: int, stride: int, name: str, factory: LayerFactory) -> Tensor:
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        shortcut = factory.conv_bn(x, width, 1, stride, name=f"{name}_0", relu=False)
    x = factory.conv_bn(x, width, 3, stride, name=f"{name}_1")
    x = factory.conv_bn(x, width, 3, name=f"{name}_2", relu=False)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)
