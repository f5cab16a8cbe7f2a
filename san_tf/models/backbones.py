"""The backbones by name: how their stages are made, and which decoder goes with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from san_tf.models.efficientnet_lite import efficientnet_lite0_stages
from san_tf.models.layer_factory import LayerFactory, Tensor
from san_tf.models.resnet import DEPTHS, StridePosition, resnet_stages
from san_tf.models.thin_resnet import thin_resnet_stages

DecoderName = Literal["paper", "light"]
Stages = Callable[[Tensor, int, StridePosition, LayerFactory], list[Tensor]]


@dataclass(frozen=True)
class Backbone:
    """A network of four stages.

    Attributes:
        stages: makes them from the image, the last stride, the place of the strides in a bottleneck, and
            the factory of layers.
        imagenet: whether ImageNet weights can be had, see `san_tf.models.pretrained`.
        decoder: which of `san_tf.models.presets.DECODERS` is of its size.
    """

    stages: Stages
    imagenet: bool
    decoder: DecoderName


def _resnet(name: str) -> Backbone:
    def stages(
        image: Tensor, last_stride: int, stride_on: StridePosition, factory: LayerFactory
    ) -> list[Tensor]:
        return resnet_stages(image, DEPTHS[name], last_stride, stride_on, factory)

    return Backbone(stages, imagenet=True, decoder="paper")


BACKBONES: dict[str, Backbone] = {
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "thin_resnet": Backbone(
        lambda image, last_stride, _, factory: thin_resnet_stages(image, last_stride, factory),
        imagenet=False,
        decoder="light",
    ),
    "efficientnet_lite0": Backbone(
        lambda image, last_stride, _, factory: efficientnet_lite0_stages(image, last_stride, factory),
        imagenet=True,
        decoder="light",
    ),
}


def decoder_for(backbone: str) -> DecoderName:
    """The decoder that goes with a backbone; with one of another library, the paper's.

    Example:
        >>> decoder_for("thin_resnet"), decoder_for("keras:ConvNeXtTiny")
        ('light', 'paper')
    """
    return BACKBONES[backbone].decoder if backbone in BACKBONES else "paper"
