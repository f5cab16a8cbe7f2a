"""Texels of the upper and the lower garment, whatever a person wears."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.texels import texel_map

SIDES = ("front", "back")
# Metres on the average body at rest: chest and belly, which every top covers; thighs, which trousers, skirts
# and coats cover.
_HEIGHTS = {"upper": (1.08, 1.34), "lower": (0.72, 0.88)}
_HALF_WIDTH = {"upper": 0.20, "lower": 0.25}
GARMENTS = tuple(_HEIGHTS)
# Least z of a normal that faces the front; what faces neither front nor back is a side.
_FACING = 0.5


def garment_region(garment: str, size: int, side: str | None = None) -> np.ndarray:
    """Return the texels of a garment.

    Args:
        garment: "upper" or "lower".
        size: side of the texture in texels.
        side: "front" or "back"; None for both and the sides.

    Returns:
        `(size, size)` bool.

    Example:
        >>> texture[garment_region("upper", 256, "back")].mean(0)
        array([ 31.2,  30.1,  44.8])
    """
    texels = texel_map(size)
    low, high = _HEIGHTS[garment]
    height, across = texels.position[..., 1], np.abs(texels.position[..., 0])
    region = texels.inside & (height > low) & (height < high) & (across < _HALF_WIDTH[garment])
    if side is not None:
        ahead = texels.normal[..., 2]
        region &= ahead > _FACING if side == "front" else ahead < -_FACING
    return region
