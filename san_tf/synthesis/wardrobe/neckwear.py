"""Scarves and ties."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.face import blend
from san_tf.synthesis.wardrobe.noise import creases
from san_tf.synthesis.wardrobe.person import Neckwear

NECKWEAR_KINDS = ("none", "scarf", "tie")


def neckwear_cover(points: BodyPoints, neckwear: Neckwear) -> Array:
    """Share of each point that a scarf or tie hides, `(N,)` float32 in [0, 1]."""
    torso = ~points.on_arm & ~points.on_head
    front = ramp(points.normal[:, 2], 0.0, 0.3)
    if neckwear.kind == "scarf":
        radius = np.sqrt(points.x**2 + (0.9 * (points.z - 0.03)) ** 2)
        # a scarf lies lower in front than at the nape
        height = points.y - (1.412 - 0.45 * (points.z - 0.02))
        ring = ramp(np.abs(height), 0.048, 0.040) * ramp(radius, 0.115, 0.105)
        end = ramp(np.abs(points.x - 0.045 * neckwear.side), 0.036, 0.031) * front
        end = end * ramp(points.y, 1.09, 1.096) * ramp(points.y, 1.40, 1.39)
        return np.asarray(np.maximum(ring, end) * torso, np.float32)
    if neckwear.kind == "tie":
        width = 0.014 + 0.055 * np.clip(1.37 - points.y, 0, 0.34)
        blade = ramp(points.side - width, 0.003, -0.003) * front
        return np.asarray(
            blade * ramp(points.y, 1.02, 1.03) * ramp(points.y, 1.375, 1.37) * torso, np.float32
        )
    return np.zeros(len(points.y), np.float32)


def paint_neckwear(points: BodyPoints, rgb: Array, neckwear: Neckwear, seed: int) -> None:
    """Paints a scarf or tie over the clothes, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        neckwear: `Neckwear`.
        seed: `int`. Drives the folds.
    """
    cover = neckwear_cover(points, neckwear)
    rows = np.flatnonzero(cover > 0)
    if len(rows) == 0:
        return
    place, part, cover = points.position[rows], rgb[rows], cover[rows]
    color = np.tile(np.array(neckwear.color.rgb, np.float32), (len(rows), 1))
    if neckwear.striped:
        slant = place[:, 1] + (0.6 * place[:, 0] if neckwear.kind == "tie" else 0)
        blend(color, neckwear.accent.rgb, ramp(np.abs((slant / 0.05) % 1.0 - 0.5), 0.2, 0.12))
    shade = 1 + (0.16 if neckwear.kind == "scarf" else 0.05) * creases(place, seed + 111, (0.06, 0.02, 0.06))
    shade = shade - 0.3 * bump(cover, 0.4, 0.3)
    blend(part, np.clip(color * shade[:, None], 0, 255), cover)
    rgb[rows] = part


def neckwear_offsets(points: BodyPoints, neckwear: Neckwear) -> Array:
    """Thickness of a scarf, `(V,)` float32 metres, 0 to 0.03; 0 for a tie."""
    if neckwear.kind != "scarf":
        return np.zeros(len(points.y), np.float32)
    return np.asarray(0.03 * neckwear_cover(points, neckwear), np.float32)
