"""Cover and thickness of clothes, shoes, scarves and ties, for texels and vertices alike."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.face import blend
from san_tf.synthesis.wardrobe.noise import creases, solid_noise
from san_tf.synthesis.wardrobe.person import Lower, Neckwear, Shoes, Upper

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


SHOE_KINDS = ("sneakers", "leather", "boots", "sandals", "flats")
_SOLE = {"sneakers": 0.026, "leather": 0.016, "boots": 0.022, "sandals": 0.012, "flats": 0.010}


def shoe_cover(points: BodyPoints, shoes: Shoes) -> Array:
    """Share of each point that the shoe hides, `(N,)` float32 in [0, 1]."""
    y, z = points.y, points.z
    low = ~points.on_arm & (y < 0.35)
    if shoes.kind == "boots":
        return np.asarray(ramp(y, 0.205, 0.195) * low, np.float32)
    if shoes.kind == "sandals":
        strap = bump(z, 0.125, 0.016) + bump(z - 0.9 * (y - 0.06), 0.045, 0.014) * (y > 0.02)
        sole = ramp(y, 0.016, 0.011)
        return np.asarray(np.clip(np.maximum(strap, sole), 0, 1) * low * ramp(y, 0.1, 0.095), np.float32)
    if shoes.kind == "flats":
        # cut out over the instep
        edge = 0.045 - 0.03 * ramp(z, 0.06, 0.10) + 0.06 * ramp(z, 0.125, 0.15) + 0.012 * ramp(z, -0.0, -0.02)
        return np.asarray(ramp(y - edge, 0.003, -0.003) * low, np.float32)
    edge = 0.072 + 0.018 * ramp(z, 0.01, -0.02) + 0.022 * ramp(z, 0.03, 0.07)
    if shoes.kind == "leather":
        edge = edge - 0.008
    return np.asarray(ramp(y - edge, 0.003, -0.003) * low, np.float32)


def sock_cover(points: BodyPoints, shoes: Shoes) -> Array:
    """Share of each point that the sock hides, `(N,)` float32 in [0, 1]."""
    if shoes.sock_top <= 0:
        return np.zeros(len(points.y), np.float32)
    return np.asarray(
        ramp(points.y, shoes.sock_top + 0.004, shoes.sock_top - 0.004) * ~points.on_arm, np.float32
    )


def paint_socks(points: BodyPoints, rgb: Array, shoes: Shoes) -> None:
    """Paints the socks, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        shoes: `Shoes`.
    """
    cover = sock_cover(points, shoes)
    ribs = 1 - 0.08 * np.sin(points.around * 500) - 0.12 * bump(points.y, shoes.sock_top - 0.022, 0.004)
    blend(rgb, np.array(shoes.sock.rgb, np.float32) * ribs[:, None], cover)


def paint_shoes(points: BodyPoints, rgb: Array, shoes: Shoes, seed: int) -> None:
    """Paints the shoes, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        shoes: `Shoes`.
        seed: `int`. Drives scuffs.
    """
    rows = np.flatnonzero((points.y < 0.35) & ~points.on_arm)
    cover = shoe_cover(points, shoes)[rows]
    y, z = points.y[rows], points.z[rows]
    color = np.tile(np.array(shoes.color.rgb, np.float32), (len(rows), 1))
    up = points.normal[rows, 1]
    if shoes.kind == "sneakers":
        laces = ramp(z, 0.055, 0.065) * ramp(z, 0.135, 0.125) * ramp(up, 0.35, 0.6)
        blend(color, shoes.accent.rgb, laces * (0.35 + 0.6 * (np.sin(z * 420) > 0)))
        # a swoosh on both flanks
        flank = bump(y - 0.032 - 0.22 * (0.09 - z), 0.0, 0.007) * ramp(np.abs(z - 0.055), 0.055, 0.045)
        blend(color, shoes.accent.rgb, 0.85 * flank * ramp(up, 0.6, 0.4))
        blend(color, shoes.sole.rgb, 0.7 * ramp(z, 0.165, 0.175) * ramp(y, 0.05, 0.04))
    elif shoes.kind in ("leather", "boots"):
        gleam = bump(z, 0.155, 0.018) * ramp(up, 0.3, 0.7)
        color = color * (1 + 0.35 * gleam)[:, None] + 14 * gleam[:, None]
        color *= (1 - 0.25 * bump(z, 0.135, 0.004))[:, None]
    scuff = solid_noise(points.position[rows], seed + 51, 0.02, 2) - np.float32(0.5)
    shade = 1 + 0.18 * scuff + 0.12 * (up - 0.3)
    color *= shade[:, None]
    height = _SOLE[shoes.kind] + 0.006 * ramp(z, 0.05, -0.01)
    sole = ramp(y - height, 0.002, -0.002)
    blend(color, np.array(shoes.sole.rgb, np.float32), sole)
    blend(color, (30, 28, 27), ramp(-up, 0.75, 0.9))  # tread
    color *= (1 - 0.35 * bump(y - height, 0.003, 0.003))[:, None]
    part = rgb[rows]
    blend(part, color, cover)
    rgb[rows] = part


def shoe_offsets(points: BodyPoints, shoes: Shoes) -> Array:
    """Thickness of shoes and socks, `(V,)` float32 metres, 0 to about 0.02."""
    thick = {"sneakers": 0.011, "leather": 0.008, "boots": 0.013, "sandals": 0.003, "flats": 0.004}[
        shoes.kind
    ]
    # the tip hides the toes; the sole does not move, so the person stays on the ground
    tip = 0.009 * ramp(points.z, 0.12, 0.16)
    sole = 0.006 * ramp(points.y, 0.03, 0.015) * (shoes.kind in ("sneakers", "boots"))
    shoe = shoe_cover(points, shoes) * (thick + tip + sole) * (1 - ramp(-points.normal[:, 1], 0.3, 0.8))
    return np.asarray(np.maximum(shoe, 0.003 * sock_cover(points, shoes)), np.float32)


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
