"""Named networks: plain dicts of arguments for `build_encoder` and `build_decoder`, each described."""

from __future__ import annotations

from typing import Any

import keras

from san_tf.errors import UserError
from san_tf.models.decoder import PAPER_WIDTHS, build_decoder
from san_tf.models.encoder import build_encoder

PRESETS: dict[str, dict[str, Any]] = {
    "san_resnet50_paper": {
        "description": "The paper's: ResNet-50 of last stride 1, plain 2048-d feature, decoder on stage 4 "
        "alone. 23.5 M + 8.4 M parameters; for a GPU.",
        "encoder": {"backbone": "resnet50", "input_shape": (256, 128, 3), "head": "plain", "last_stride": 1},
        "decoder": {"widths": PAPER_WIDTHS, "skips": False},
    },
    "san_resnet50_official": {
        "description": "The public code's, borders too: ResNet-50 with a 512-d head and strides on the 3x3 "
        "convolutions, U-shaped decoder; takes its weights (`python -m san_tf.convert`). For a GPU.",
        "encoder": {
            "backbone": "resnet50",
            "input_shape": (256, 128, 3),
            "head": "fc512",
            "last_stride": 1,
            "stride_on": "3x3",
        },
        "decoder": {"widths": PAPER_WIDTHS, "skips": True, "variant": "official"},
    },
    "san_resnet101_paper": {
        "description": "The paper's decoder on ResNet-101; for a GPU.",
        "encoder": {"backbone": "resnet101", "input_shape": (256, 128, 3), "head": "plain", "last_stride": 1},
        "decoder": {"widths": PAPER_WIDTHS, "skips": False},
    },
    "san_light": {
        "description": "A thin ResNet on 128x64 crops, 512-d head, 1.0 M parameters, and a decoder that "
        "paints 128x128 textures; trains in minutes on two CPU cores. No ImageNet weights.",
        "encoder": {
            "backbone": "thin_resnet",
            "input_shape": (128, 64, 3),
            "head": "fc512",
            "last_stride": 1,
            "weights": None,
        },
        "decoder": {"widths": (64, 32, 16, 8, 8), "skips": False, "final_kernel": 3},
    },
}


def build_preset(
    name: str, num_classes: int, decoder: bool = True, seed: int | None = None, **encoder_arguments: Any
) -> tuple[keras.Model, keras.Model | None]:
    """Build the encoder of a preset and, if wanted, its decoder.

    Args:
        name: a key of `PRESETS`.
        num_classes: training identities.
        decoder: False for the baseline.
        seed: of the initial weights.
        encoder_arguments: override the preset's, e.g. `weights=None` or `input_shape=(128, 64, 3)`.

    Returns:
        Encoder; decoder or None.

    Raises:
        UserError: an unknown preset, or see `build_encoder`.

    Example:
        >>> encoder, decoder = build_preset("san_light", num_classes=100, seed=1)
    """
    if name not in PRESETS:
        raise UserError(f"Unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    encoder = build_encoder(num_classes=num_classes, seed=seed, **(preset["encoder"] | encoder_arguments))
    if not decoder:
        return encoder, None
    shapes = [stage.shape for stage in encoder.output["stages"]]
    return encoder, build_decoder(shapes, seed=seed, **preset["decoder"])
