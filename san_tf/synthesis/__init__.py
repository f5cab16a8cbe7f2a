"""Renders synthetic people, with their textures, on synthetic streets.

`generator` makes data sets; `body` has shapes, `skeleton` and `pose` motion, `rasterizer` pixels. Nothing
here imports TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.synthesis.crop_plans import PitConfig, ReidConfig, Variety
    from san_tf.synthesis.generator import PIT, SYNTHETIC_REID, export_market, identity_texture
    from san_tf.synthesis.video import VideoConfig, synthetic_video

__all__ = [
    "PIT",
    "SYNTHETIC_REID",
    "PitConfig",
    "ReidConfig",
    "Variety",
    "VideoConfig",
    "export_market",
    "identity_texture",
    "synthetic_video",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "VideoConfig": "video",
        "synthetic_video": "video",
        "PIT": "generator",
        "SYNTHETIC_REID": "generator",
        "PitConfig": "crop_plans",
        "ReidConfig": "crop_plans",
        "Variety": "crop_plans",
        "export_market": "generator",
        "identity_texture": "generator",
    },
)
