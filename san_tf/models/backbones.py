"""Backbones by name: how to build their stages, and which decoder fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from san_tf import registry
from san_tf.errors import UserError
from san_tf.models.efficientnet_lite import efficientnet_lite0_stages
from san_tf.models.layer_factory import LayerFactory, Tensor
from san_tf.models.osnet import OSNETS, osnet_stages
from san_tf.models.resnet import DEPTHS, ResNetForm, resnet_stages, thin_resnet_stages

DecoderName = Literal["paper", "light"]
Stages = Callable[[Tensor, int, ResNetForm, LayerFactory], list[Tensor]]


@dataclass(frozen=True)
class Backbone:
    """A network of four stages.

    Attributes:
        stages: builds the stages from the image, the last stride, the `ResNetForm` and the layer factory.
        imagenet: whether ImageNet weights are available, see `san_tf.models.pretrained`.
        decoder: key of `san_tf.models.presets.DECODERS` for the decoder of matching size.
    """

    stages: Stages
    imagenet: bool
    decoder: DecoderName


def _resnet(name: str, ibn: bool = False) -> Backbone:
    def stages(image: Tensor, last_stride: int, form: ResNetForm, factory: LayerFactory) -> list[Tensor]:
        return resnet_stages(image, DEPTHS[name], last_stride, form, factory, ibn)

    return Backbone(stages, imagenet=not ibn, decoder="paper")


def _thin_resnet(ibn: bool) -> Backbone:
    def stages(image: Tensor, last_stride: int, _: ResNetForm, factory: LayerFactory) -> list[Tensor]:
        return thin_resnet_stages(image, last_stride, factory, ibn)

    return Backbone(stages, imagenet=False, decoder="light")


def _osnet(name: str) -> Backbone:
    def stages(image: Tensor, last_stride: int, _: ResNetForm, factory: LayerFactory) -> list[Tensor]:
        if last_stride != 1:
            raise UserError(f"{name} has no stride in its last stage; use last_stride=1.")
        return osnet_stages(image, OSNETS[name], factory)

    return Backbone(stages, imagenet=False, decoder="light")


BACKBONES: dict[str, Backbone] = {
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "thin_resnet": _thin_resnet(ibn=False),
    **{f"{name}_ibn": _resnet(name, ibn=True) for name in DEPTHS},
    "thin_resnet_ibn": _thin_resnet(ibn=True),
    "efficientnet_lite0": Backbone(
        lambda image, last_stride, _, factory: efficientnet_lite0_stages(image, last_stride, factory),
        imagenet=True,
        decoder="light",
    ),
    **{name: _osnet(name) for name in OSNETS},
}


def backbone_named(name: str) -> Backbone | None:
    """Find a backbone by name, of this package or registered; None if there is none."""
    if name in BACKBONES:
        if name in registry.BACKBONES:
            raise UserError(f"A backbone was registered as {name}, a name of this package; rename it.")
        return BACKBONES[name]
    if name not in registry.BACKBONES:
        return None
    own = registry.BACKBONES[name]

    def stages(image: Tensor, last_stride: int, _: ResNetForm, __: LayerFactory) -> list[Tensor]:
        maps = list(own.stages(image, last_stride))
        sides = [(image.shape[1] // s, image.shape[2] // s) for s in (4, 8, 16, 16 * last_stride)]
        found = [tuple(one.shape[1:3]) for one in maps]
        if found != sides:
            raise UserError(
                f"The backbone {name} gives maps of {found} for images of {tuple(image.shape[1:3])}; with "
                f"last_stride={last_stride} they must be {sides}."
            )
        return maps

    return Backbone(stages, imagenet=False, decoder=own.decoder)


def decoder_for(backbone: str) -> DecoderName:
    """Name of the decoder for a backbone; "paper" for backbones of other libraries.

    Example:
        >>> decoder_for("thin_resnet"), decoder_for("keras:ConvNeXtTiny")
        ('light', 'paper')
    """
    found = backbone_named(backbone)
    return "paper" if found is None else found.decoder
