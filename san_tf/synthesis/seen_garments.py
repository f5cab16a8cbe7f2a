"""What colour the upper and the lower garment have in a rendered picture, pixel by pixel known to be theirs.

The truth for the question whether painted clothes have the colours of their picture, where photographs have
only boxes drawn by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from san_tf.synthesis.crop_plans import CropSpec
from san_tf.synthesis.garment_regions import GARMENTS, garment_region
from san_tf.synthesis.scene import Shot, draw_shot
from san_tf.synthesis.texels import texels_at

# Fewer pixels, at the size pictures are drawn at, say little of a garment's colour.
_FEWEST = 200
_SIZE = 256


@dataclass(frozen=True, eq=False)
class SeenGarment:
    """One garment in one picture.

    Attributes:
        garment: "upper" or "lower".
        color: `(3,)` float64 RGB, 0-255: the median over its pixels in the finished picture.
        uv: `(P, 2)` float32: where on the texture its P pixels lie.
    """

    garment: str
    color: np.ndarray
    uv: np.ndarray

    def color_on(self, texture: np.ndarray) -> np.ndarray:
        """The median colour of a texture on what the picture shows of this garment.

        Args:
            texture: `(T, T, 3)` RGB, 0-255.

        Returns:
            `(3,)` float64 RGB, 0-255.
        """
        return np.median(texture[texels_at(self.uv, len(texture))], axis=0)


def seen_garments(spec: CropSpec) -> list[SeenGarment]:
    """Draw a picture again, and tell the colours of its garments.

    Args:
        spec: from `generator.pit_index` or `synthetic_reid_index`.

    Returns:
        Those of the garments, at most two, of which enough is seen.

    Example:
        >>> [seen.garment for seen in seen_garments(pit_index("smoke", "test")[0])]
        ['upper', 'lower']
    """
    return garments_in(draw_shot(spec))


def garments_in(shot: Shot) -> list[SeenGarment]:
    """The same of a picture that is drawn already, `Shot.image` of any size."""
    surface = shot.surface
    height, width = surface.mesh.shape
    image = cv2.resize(shot.image, (width, height), interpolation=cv2.INTER_LINEAR)
    place = texels_at(surface.uv, _SIZE)
    found = []
    for garment in GARMENTS:
        # Hair, skirts and bags are meshes of their own: the body's pixels alone are cloth or skin.
        seen = (surface.mesh == 0) & garment_region(garment, _SIZE)[place]
        if seen.sum() >= _FEWEST:
            found.append(SeenGarment(garment, np.median(image[seen], axis=0), surface.uv[seen]))
    return found
