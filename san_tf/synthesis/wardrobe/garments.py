"""Cover and thickness of garments, for texels and vertices alike."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.noise import solid_noise
from san_tf.synthesis.wardrobe.person import Lower, Upper

UPPER_KINDS = (
    "t-shirt", "long sleeve", "polo", "shirt", "tank top", "hoodie", "sweater", "jacket", "coat", "dress",
)  # fmt: skip
LOWER_KINDS = ("trousers", "jeans", "shorts", "skirt", "leggings", "bare legs")
WAIST = 0.985
# Half a texel of the torso in metres: edges this soft look neither jagged nor blurred.
SOFT = 0.005


def neck_opening(points: BodyPoints, neckline: str) -> Array:
    """Distance of each point into the neck hole, metres; negative under cloth.

    Args:
        points: `BodyPoints` of N points.
        neckline: `"crew"`, `"v"`, `"scoop"`, `"collar"` or `"high"`.

    Returns:
        `(N,)` float32.
    """
    lift = {"high": 0.045, "collar": 0.022, "crew": 0.004, "v": 0.002, "scoop": -0.004}[neckline]
    width = {"scoop": 0.098, "v": 0.082, "crew": 0.080, "collar": 0.082, "high": 0.085}[neckline]
    # the plane of a neck hole slopes forward: low at the breastbone, high at the nape
    plane = points.y - (1.428 + lift - 0.52 * (points.z + 0.02))
    radius = width - np.sqrt(points.x**2 + (0.85 * (points.z - 0.03)) ** 2)
    opening = np.minimum(plane, radius)
    front = points.normal[:, 2] > -0.2
    if neckline == "v":
        notch = np.minimum(0.45 * (points.y - 1.27), 0.08) - points.side
        opening = np.maximum(opening, np.where(front & (points.y < 1.44), notch, -1))
    elif neckline == "scoop":
        bowl = 0.085 - np.sqrt((points.side * 0.95) ** 2 + (points.y - 1.392) ** 2)
        opening = np.maximum(opening, np.where(front, bowl, -1))
    elif neckline == "collar":
        notch = np.minimum(0.4 * (points.y - 1.335), 0.03) - points.side
        opening = np.maximum(opening, np.where(front & (points.y < 1.46), notch, -1))
    above = np.where(points.on_head | (points.y > 1.46), 0.05, -1.0)
    return np.asarray(np.maximum(opening, above), np.float32)


def upper_cover(points: BodyPoints, upper: Upper) -> Array:
    """Share of each point that the upper garment hides.

    An open front counts as hidden, because there is a shirt under it.

    Args:
        points: `BodyPoints` of N points.
        upper: `Upper`.

    Returns:
        `(N,)` float32 in [0, 1].
    """
    if upper.sleeve <= 0:
        # armholes: cloth covers what lies outside a capsule around the arm
        reach = 0.078 + 0.17 * upper.sleeve
        bare = ramp(points.from_arm, reach - SOFT, reach + SOFT)
        sleeve = np.where(points.on_arm, bare * ramp(points.along_arm, 0.02, -0.01), bare)
    else:
        sleeve = np.where(
            points.on_arm, ramp(points.along_arm, upper.sleeve + SOFT, upper.sleeve - SOFT), 1.0
        )
    # shirt tails hang a little lower in front and behind than at the sides
    tail = 0.02 * bump(points.side, 0.0, 0.1) if upper.kind in ("shirt", "t-shirt") else np.float32(0)
    hem = upper.hem - tail
    low = ramp(points.y - hem, -SOFT, SOFT)
    body = np.where(points.on_arm, 1.0, low)
    free = ramp(neck_opening(points, upper.neckline), -0.003, 0.003)
    if upper.kind == "hoodie":
        free = free * (1 - hood(points))
    return np.asarray(sleeve * body * (1 - free) * ~points.on_head, np.float32)


def hood(points: BodyPoints) -> Array:
    """Height of a hood's roll on nape and shoulders, `(N,)` float32 in [0, 1]."""
    ring = np.sqrt((points.x / 1.1) ** 2 + (points.z - 0.01) ** 2)
    height = bump(points.y, 1.405, 0.035)
    behind = ramp(points.z, 0.075, 0.03)
    return np.asarray(height * behind * ramp(ring, 0.15, 0.12) * ~points.on_head * ~points.on_arm, np.float32)


def front_gap(points: BodyPoints, upper: Upper) -> Array:
    """Share of each point inside an open front, `(N,)` float32 in [0, 1]."""
    if upper.opening <= 0:
        return np.zeros(len(points.y), np.float32)
    width = upper.opening * (0.75 + 0.9 * np.clip(points.y - 1.0, -0.3, 0.4))
    front = ramp(points.normal[:, 2], -0.1, 0.15) * ~points.on_arm
    return np.asarray(ramp(points.side - width, 0.003, -0.003) * front, np.float32)


def lower_cover(points: BodyPoints, lower: Lower) -> Array:
    """Share of each point that the lower garment hides, `(N,)` float32 in [0, 1]."""
    if lower.kind == "bare legs":
        return np.zeros(len(points.y), np.float32)
    top = ramp(points.y, WAIST + SOFT, WAIST - SOFT)
    bottom = ramp(points.y - lower.hem, -SOFT, SOFT)
    toes = points.on_foot * ramp(points.z - 0.03 * ramp(points.y, 0.06, 0.04), 0.070, 0.085)
    return np.asarray(top * bottom * ~points.on_arm * (1 - toes), np.float32)


def upper_offsets(points: BodyPoints, upper: Upper, seed: int, over_skirt: bool = False) -> Array:
    """Thickness of the upper garment over the skin.

    Args:
        points: `BodyPoints` of the V vertices.
        upper: `Upper`.
        seed: `int`. Places the folds.
        over_skirt: `bool`. Whether the hem lies over a skirt; it then stands further out.

    Returns:
        `(V,)` float32 metres, 0 to about 0.06.
    """
    base = {"t-shirt": 0.007, "polo": 0.008, "shirt": 0.008, "long sleeve": 0.006, "tank top": 0.003,
            "hoodie": 0.013, "sweater": 0.010, "jacket": 0.016, "coat": 0.019, "dress": 0.005}  # fmt: skip
    loose = upper.looseness
    torso = np.where(points.on_arm, 0.0, 1.0).astype(np.float32)
    # cloth hangs from chest and shoulder blades, away from the waist, and flares at the hem
    hang = (0.006 + 0.026 * loose) * bump(points.y, 1.08, 0.10)
    flare = (0.004 + 0.016 * loose) * ramp(points.y, upper.hem + 0.16, upper.hem) * (upper.kind != "dress")
    between = (0.004 + 0.008 * loose) * bump(points.y, 1.22, 0.05) * bump(points.side, 0.0, 0.05)
    if over_skirt:
        flare = np.maximum(flare, 0.02 * ramp(points.y, upper.hem + 0.12, upper.hem + 0.03))
    thickness = base[upper.kind] + 0.004 * loose + torso * (hang + flare + between)
    if 0 < upper.sleeve < 0.4:
        opening = 0.009 + 0.018 * loose
        thickness = thickness + opening * points.on_arm * ramp(points.along_arm, -0.02, upper.sleeve)
    elif upper.sleeve > 0:
        thickness = thickness + 0.012 * loose * points.on_arm * ramp(points.along_arm, 0.0, 0.1)
    folds = (0.004 + 0.008 * loose) * (solid_noise(points.position, seed + 61, 0.07, 2) - 0.35)
    offset = upper_cover(points, upper) * np.maximum(thickness + folds, 0.002)
    if upper.kind == "hoodie":
        offset = np.maximum(offset, 0.042 * hood(points))
    if upper.kind in ("jacket", "coat", "shirt", "polo"):
        collar = bump(points.y, 1.425, 0.022) * ~points.on_head * ramp(points.z, 0.11, 0.07)
        offset = np.maximum(offset, (0.018 if upper.kind in ("jacket", "coat") else 0.009) * collar)
    return np.asarray(offset * (1 - 0.6 * front_gap(points, upper)), np.float32)


def lower_offsets(points: BodyPoints, lower: Lower, seed: int) -> Array:
    """Thickness of the lower garment over the skin.

    Args:
        points: `BodyPoints` of the V vertices.
        lower: `Lower`.
        seed: `int`. Places the folds.

    Returns:
        `(V,)` float32 metres, 0 to about 0.05.
    """
    if lower.kind == "bare legs":
        return np.zeros(len(points.y), np.float32)
    if lower.kind == "leggings":
        return 0.0025 * lower_cover(points, lower)
    loose = lower.looseness
    thickness = 0.004 + 0.012 * loose * ramp(points.y, 0.9, 0.7)
    if lower.kind == "shorts":
        thickness = thickness + (0.006 + 0.02 * loose) * ramp(points.y, 0.82, lower.hem)
    elif lower.kind != "skirt":
        # the calf is thinner than the knee, but the trouser leg is not
        thickness = thickness + (0.006 + 0.014 * loose) * bump(points.y, 0.30, 0.13)
        thickness = thickness + (0.012 + 0.020 * loose) * ramp(points.y, 0.32, 0.10)
        knee = 0.008 * bump(points.y, 0.47, 0.05) * ramp(points.normal[:, 2], -0.2, 0.6)
        thickness = (
            thickness
            + knee
            + 0.012 * loose * bump(points.y, 0.47, 0.08) * ramp(points.normal[:, 2], 0.2, -0.6)
        )
        stack = np.sin(points.y * 150 + 6 * solid_noise(points.position, seed + 72, 0.1, 1))
        thickness = thickness + 0.004 * loose * stack * ramp(points.y, 0.2, 0.1)
    # the last centimetres before the hem slope back towards the leg, so that the hem is no wide step
    thickness = np.minimum(thickness, 0.014 + thickness * ramp(points.y - lower.hem, -0.005, 0.035))
    folds = (0.003 + 0.008 * loose) * (solid_noise(points.position, seed + 71, 0.06, 2) - 0.35)
    return np.asarray(lower_cover(points, lower) * np.maximum(thickness + folds, 0.002), np.float32)
