"""OSNet: a light backbone for re-identification, whose blocks combine four scales.

Widths and variants with instance norms are those of the authors' model zoo, whose weights can be converted
(`python -m san_tf.convert`).

Source: Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019 (OSNet); Zhou et
al., "Learning Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021 (AIN).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import keras

from san_tf.models.layer_factory import Conv2D, LayerFactory, Tensor

# Places of instance norms: none; after the sum in the first stage's blocks; `AIN_BLOCKS`.
Norms = Literal["batch", "ibn", "ain"]
STREAMS = 4
BLOCKS = 2
# Blocks of the AIN variant whose residual ends in an instance norm, by (stage, block); the authors' search
# found them.
AIN_BLOCKS = frozenset({(2, 1), (2, 2), (3, 2), (4, 1)})


@dataclasses.dataclass(frozen=True)
class OSNetPlan:
    """Channels of stem and three stages, and the kind of norms."""

    channels: tuple[int, int, int, int]
    norms: Norms = "batch"


_CHANNELS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}
OSNETS = (
    {f"osnet_{width}": OSNetPlan(channels) for width, channels in _CHANNELS.items()}
    | {"osnet_ibn_x1_0": OSNetPlan(_CHANNELS["x1_0"], "ibn")}
    | {f"osnet_ain_{width}": OSNetPlan(channels, "ain") for width, channels in _CHANNELS.items()}
)


def osnet_stages(image: Tensor, plan: OSNetPlan, factory: LayerFactory) -> list[Tensor]:
    """Build an OSNet and return its four stage outputs.

    Args:
        image: `(batch, height, width, 3)`.
        plan: an entry of `OSNETS`.
        factory: makes the layers.

    Returns:
        Maps at 1/4, 1/8, 1/16 and 1/16 of the image: the authors' conv2, conv3, conv4 and conv5. The last two
        have equally many channels.
    """
    x = factory.conv(image, plan.channels[0], 7, 2, name="conv1_conv")
    x = (
        factory.batch_norm(x, name="conv1_bn")
        if plan.norms == "batch"
        else factory.instance_norm(x, name="conv1_in")
    )
    x = keras.layers.ReLU(name="conv1_relu")(x)
    # After the ReLU no value is negative, so padding with zeros acts like -inf.
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    stages = []
    for stage in (2, 3, 4):
        channels = plan.channels[stage - 1]
        for block in range(1, BLOCKS + 1):
            x = _block(x, channels, f"conv{stage}_block{block}", norm_at(plan.norms, stage, block), factory)
        x = factory.end_of_stage(x, stage - 1)
        stages.append(x)
        if stage < 4:
            x = factory.conv_bn(x, channels, 1, name=f"transition{stage}")
            x = keras.layers.AveragePooling2D(2, name=f"transition{stage}_pool")(x)
    stages.append(factory.conv_bn(x, plan.channels[3], 1, name="conv5"))
    return stages


def norm_at(norms: Norms, stage: int, block: int) -> Literal["none", "residual", "sum"]:
    """Place of a block's instance norm: none, at the end of its residual, or after the sum.

    Args:
        norms: the variant.
        stage: 2 to 4, as the authors count.
        block: 1 or 2.
    """
    if norms == "ibn" and stage == 2:
        return "sum"
    return "residual" if norms == "ain" and (stage, block) in AIN_BLOCKS else "none"


def _block(x: Tensor, channels: int, name: str, instance_norm: str, factory: LayerFactory) -> Tensor:
    """Sum four streams of one to four light convolutions on a quarter of the channels, weighted by a gate."""
    shortcut = x
    if x.shape[-1] != channels:
        shortcut = factory.conv_bn(x, channels, 1, name=f"{name}_shortcut", relu=False)
    middle = channels // 4
    reduced = factory.conv_bn(x, middle, 1, name=f"{name}_reduce")
    gate = _Gate(middle, f"{name}_gate", factory)
    streams = []
    for depth in range(1, STREAMS + 1):
        y = reduced
        for step in range(1, depth + 1):
            y = _light_conv(y, middle, f"{name}_stream{depth}_{step}", factory)
        streams.append(gate(y, f"stream{depth}"))
    y = keras.layers.Add(name=f"{name}_streams")(streams)
    y = factory.conv(y, channels, 1, name=f"{name}_expand_conv")
    if instance_norm == "residual":
        y = factory.instance_norm(y, name=f"{name}_in")
    else:
        y = factory.batch_norm(y, name=f"{name}_expand_bn")
    y = keras.layers.Add(name=f"{name}_add")([shortcut, y])
    if instance_norm == "sum":
        y = factory.instance_norm(y, name=f"{name}_in")
    return keras.layers.ReLU(name=f"{name}_out")(y)


def _light_conv(x: Tensor, channels: int, name: str, factory: LayerFactory) -> Tensor:
    """Apply a 1x1 convolution, then a depthwise 3x3 one: the authors' `LightConv3x3`."""
    x = factory.conv(x, channels, 1, name=f"{name}_point")
    # The authors' fan-out counts all channels; Keras calls that fan_in for a depthwise kernel.
    initializer = keras.initializers.VarianceScaling(
        2.0, "fan_in", "untruncated_normal", seed=factory.seed_of(f"{name}_depth")
    )
    x = keras.layers.DepthwiseConv2D(
        3, padding="same", use_bias=False, depthwise_initializer=initializer, name=f"{name}_depth"
    )(x)
    x = factory.batch_norm(x, name=f"{name}_bn")
    return keras.layers.ReLU(name=f"{name}_relu")(x)


class _Gate:
    """Weights each channel of a stream by the stream's content; the four streams of a block share it."""

    def __init__(self, channels: int, name: str, factory: LayerFactory) -> None:
        self.name = name

        def conv(filters: int, part: str, activation: str) -> keras.layers.Layer:
            full = f"{name}_{part}"
            initializer = keras.initializers.VarianceScaling(
                2.0, "fan_out", "untruncated_normal", seed=factory.seed_of(full)
            )
            return Conv2D(filters, 1, activation=activation, kernel_initializer=initializer, name=full)

        self.squeeze = conv(channels // 16, "squeeze", "relu")
        self.excite = conv(channels, "excite", "sigmoid")

    def __call__(self, x: Tensor, stream: str) -> Tensor:
        pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{self.name}_{stream}_pool")(x)
        weight = self.excite(self.squeeze(pooled))
        return keras.layers.Multiply(name=f"{self.name}_{stream}")([x, weight])
