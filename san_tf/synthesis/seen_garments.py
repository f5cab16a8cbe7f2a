"""Colours of the upper and lower garment in a rendered picture.

The renderer knows which pixels show a garment; photographs have only boxes drawn by hand. These colours test
whether painted clothes have the colours of their picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from san_tf.synthesis.crop_plans import CropSpec
from san_tf.synthesis.garment_regions import GARMENTS, garment_region
from san_tf.synthesis.scene import BODY_MESH, Shot, draw_shot
from san_tf.synthesis.texels import texels_at

# With fewer pixels (at working size), a garment's colour is uncertain.
_FEWEST = 200
_SIZE = 256


@dataclass(frozen=True, eq=False)
class SeenGarment:
    """One garment in one picture.

    Attributes:
        garment: "upper" or "lower".
        color: `(3,)` float64 RGB, 0-255: the median over its pixels in the finished picture.
        uv: `(P, 2)` float32: texture coordinates of its P pixels.
    """

    garment: str
    color: np.ndarray
    uv: np.ndarray

    def color_on(self, texture: np.ndarray) -> np.ndarray:
        """Return a texture's median colour on the visible part of this garment.

        Args:
            texture: `(T, T, 3)` RGB, 0-255.

        Returns:
            `(3,)` float64 RGB, 0-255.
        """
        return np.median(texture[texels_at(self.uv, len(texture))], axis=0)


def seen_garments(spec: CropSpec) -> list[SeenGarment]:
    """Return the garments that a spec's picture shows; the picture is drawn again.

    Args:
        spec: from `generator.pit_index` or `synthetic_reid_index`.

    Returns:
        At most two garments, each with enough visible pixels.

    Example:
        >>> [seen.garment for seen in seen_garments(pit_index("smoke", "test")[0])]
        ['upper', 'lower']
    """
    return garments_in(draw_shot(spec))


def garments_in(shot: Shot) -> list[SeenGarment]:
    """Return the garments that a drawn picture shows, with `Shot.image` of any size."""
    surface = shot.surface
    height, width = surface.mesh.shape
    image = cv2.resize(shot.image, (width, height), interpolation=cv2.INTER_LINEAR)
    place = texels_at(surface.uv, _SIZE)
    found = []
    for garment in GARMENTS:
        # Hair, skirts and bags are separate meshes, so the pixels of the body mesh show cloth or skin.
        seen = (surface.mesh == BODY_MESH) & garment_region(garment, _SIZE)[place]
        if seen.sum() >= _FEWEST:
            found.append(SeenGarment(garment, np.median(image[seen], axis=0), surface.uv[seen]))
    return found
