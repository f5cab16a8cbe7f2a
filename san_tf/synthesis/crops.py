"""Rendered crops: a picture of a person with its labels."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from san_tf.synthesis.color_cast import color_cast
from san_tf.synthesis.crop_plans import CropSpec, Wearer
from san_tf.synthesis.people import clothes_texture, dressed_person
from san_tf.synthesis.scene import draw_shot
from san_tf.synthesis.sensor import encode_jpeg, encode_png

# JPEG quality of the stored files. The recording's own, lower quality is applied earlier.
STORED_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Crop:
    """A rendered record.

    Attributes:
        image: JPEG bytes.
        pid: identity; 0 for a distractor, -1 for junk.
        camid: camera id, from 0.
        filename: file name in the style of Market-1501.
        yaw: degrees in (-180, 180]; 0 faces the camera, 90 shows the person's left side.
        pose: one of `crop_plans.ACTIONS`.
        visibility: share of the person's silhouette that is inside the crop and not hidden, 0..1.
        texture: PNG bytes of the person's 256x256 texture without bags; empty unless the record is an
            image-texture pair.
        cast: `(3, 4)` float32, see `color_cast.color_cast`; the identity map without a texture.
    """

    image: bytes
    pid: int
    camid: int
    filename: str
    yaw: float
    pose: str
    visibility: float
    texture: bytes
    cast: np.ndarray


def render_crop(spec: CropSpec) -> Crop:
    """Render one crop.

    Args:
        spec: from `synthetic_reid_index` or `pit_index`.

    Returns:
        A `Crop`; the same spec gives the same bytes in any process and any order.

    Raises:
        UserError: the spec's folder of photographs cannot be used.
    """
    shot = draw_shot(spec)
    image = encode_jpeg(shot.image, STORED_QUALITY)
    texture, cast = b"", np.eye(3, 4, dtype=np.float32)
    if spec.varied:
        clothes, texture = _clothes(spec.wearer)
        cast = color_cast(dressed_person(spec.wearer).texture, clothes, shot)
    return Crop(
        image, spec.pid, spec.camid, spec.filename, shot.yaw, shot.action, shot.visibility, texture, cast
    )


@functools.lru_cache(maxsize=4)
def _clothes(wearer: Wearer) -> tuple[np.ndarray, bytes]:
    """A person's texture without bags, as an array and as PNG bytes."""
    texture = clothes_texture(wearer)
    return texture, encode_png(texture)
