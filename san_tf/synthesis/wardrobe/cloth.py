"""Paints cloth: prints and weaves; folds, seams, collars, zips, buttons, pockets, belts, worn denim."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.face import blend
from san_tf.synthesis.wardrobe.garments import (
    WAIST,
    front_gap,
    hood,
    lower_cover,
    neck_opening,
    upper_cover,
)
from san_tf.synthesis.wardrobe.noise import creases, solid_noise
from san_tf.synthesis.wardrobe.person import Color, Lower, Pattern, Upper

PATTERNS = (
    "plain", "horizontal stripes", "vertical stripes", "plaid", "dots", "blocks", "print", "logo", "floral",
    "camouflage", "argyle", "side stripe",
)  # fmt: skip


def _stripes(value: Array, period: float | Array, share: float) -> Array:
    """Stripes that fill `share` of each period, with edges about a texel soft, `(N,)` in [0, 1]."""
    phase = (
        np.abs((value / period) % 1.0 - 0.5) * 2
    )  # 1 in the middle of a ground, 0 in the middle of a stripe
    soft = 0.012 / np.asarray(period)
    return np.asarray(np.clip((share - phase) / soft + 0.5, 0, 1), np.float32)


def _whole_turns(points: BodyPoints, period: float) -> Array:
    """The period nearest to `period` that divides the girth, so that stripes meet at the back, `(N,)`."""
    turns = np.maximum(2, 2 * np.round(points.around_period / (2 * period)))
    return np.asarray(points.around_period / turns, np.float32)


def paint_pattern(points: BodyPoints, ground: Color, pattern: Pattern, chest: float = 1.27) -> Array:
    """Colours of a patterned cloth, without folds or light.

    Args:
        points: `BodyPoints` of N points.
        ground: `Color` of the cloth.
        pattern: `Pattern` laid over it.
        chest: `float`. Height of prints and logos, metres.

    Returns:
        `(N, 3)` float32 sRGB in [0, 255].
    """
    rgb = np.tile(np.array(ground.rgb, np.float32), (len(points.y), 1))
    kind, period, variant = pattern.kind, pattern.scale, pattern.variant
    first, second = pattern.color.rgb, pattern.accent.rgb
    if kind == "plain":
        return rgb
    if kind == "horizontal stripes":
        share = (0.5, 0.32, 0.2)[variant % 3]
        where = _stripes(points.down, period, share)
        if variant % 5 == 0:  # only a band of stripes across the chest
            where = (
                where
                * ramp(points.y, chest - 0.09, chest - 0.085)
                * ramp(points.y, chest + 0.07, chest + 0.065)
            )
            where = where * ~points.on_arm
        blend(rgb, first, where)
    elif kind == "vertical stripes":
        blend(
            rgb, first, 0.9 * _stripes(points.around, _whole_turns(points, period), (0.5, 0.28)[variant % 2])
        )
    elif kind == "plaid":
        turns = _whole_turns(points, period)
        blend(rgb, first, 0.55 * _stripes(points.down, period, 0.45))
        blend(rgb, first, 0.55 * _stripes(points.around, turns, 0.45))
        if variant % 2:
            blend(rgb, second, 0.7 * _stripes(points.down + 0.5 * period, period, 0.16))
            blend(rgb, second, 0.7 * _stripes(points.around + 0.5 * turns, turns, 0.16))
    elif kind in ("dots", "argyle"):
        turns = _whole_turns(points, period)
        row = np.floor(points.down / period)
        u = (points.around / turns + 0.5 * (row % 2)) % 1.0 - 0.5
        v = (points.down / period) % 1.0 - 0.5
        size = np.hypot(u, v) if kind == "dots" else np.abs(u) + np.abs(v)
        radius, soft = (0.3, 0.12) if kind == "dots" else (0.42, 0.08)
        blend(rgb, first, np.clip((radius - size) / soft + 0.5, 0, 1).astype(np.float32))
    elif kind == "floral":
        petals = solid_noise(points.position, variant, period * 0.55, 2)
        leaves = solid_noise(points.position, variant + 7, period * 0.5, 2)
        blend(rgb, second, 0.85 * ramp(leaves, 0.58, 0.64))
        blend(rgb, first, ramp(petals, 0.57, 0.62))
    elif kind == "camouflage":
        blotch = solid_noise(points.position, variant, period, 3)
        other = solid_noise(points.position, variant + 9, period * 0.8, 3)
        blend(rgb, (62, 66, 44), ramp(blotch, 0.5, 0.52))
        blend(rgb, (52, 42, 32), ramp(other, 0.57, 0.59))
        blend(rgb, (138, 130, 98), ramp(other, 0.4, 0.38))
    elif kind == "side stripe":
        # along the outer seam of each leg, where the cloth faces sideways
        outward = points.normal[:, 0] * np.sign(points.x)
        seam = np.abs(points.z - np.interp(points.y, [0.07, 0.477, 0.9], [0.02, 0.037, 0.03]))
        blend(rgb, first, ramp(seam.astype(np.float32), 0.019, 0.013) * ramp(outward, 0.1, 0.3))
    elif kind == "blocks":
        _blocks(points, rgb, pattern, chest)
    elif kind in ("print", "logo"):
        _print(points, rgb, pattern, chest)
    return rgb


def _blocks(points: BodyPoints, rgb: Array, pattern: Pattern, chest: float) -> None:
    """Colour blocks: a yoke, contrasting sleeves, a broad band, halves or side panels; in place."""
    first, motif = pattern.color.rgb, pattern.variant % 6
    sleeve = ramp(points.from_arm, 0.085, 0.07) * ramp(points.along_arm, -0.02, 0.02) * points.on_arm
    if motif == 0:
        blend(rgb, first, ramp(points.y, chest - 0.01, chest + 0.0) * ~points.on_arm)
        blend(rgb, first, ramp(points.along_arm, 0.12, 0.11) * points.on_arm)
    elif motif == 1:
        blend(rgb, first, sleeve)
    elif motif == 2:
        where = ramp(points.y, chest - 0.10, chest - 0.095) * ramp(points.y, chest + 0.01, chest + 0.005)
        blend(rgb, first, where * ~points.on_arm)
    elif motif == 3:
        blend(rgb, first, ramp(points.x, -0.004, 0.004))
    elif motif == 4:
        blend(rgb, first, ramp(points.side, 0.085, 0.092) * ~points.on_arm * ramp(points.y, 1.33, 1.30))
    else:
        blend(rgb, first, ramp(points.y, 1.09, 1.085) * ~points.on_arm)
        blend(rgb, pattern.accent.rgb, ramp(np.abs(points.y - 1.105), 0.022, 0.017) * ~points.on_arm)


def _print(points: BodyPoints, rgb: Array, pattern: Pattern, chest: float) -> None:
    """A print on chest or back, or a small logo on the left breast; in place."""
    variant = pattern.variant
    front = ramp(points.normal[:, 2], 0.1, 0.25) * ~points.on_arm
    back = ramp(-points.normal[:, 2], 0.1, 0.25) * ~points.on_arm
    if pattern.kind == "logo":
        u, v = (points.x - 0.068) / 0.024, (points.y - chest) / 0.018
        size = np.hypot(u, v) if variant % 2 else np.maximum(np.abs(u), np.abs(v) * 1.4)
        blend(rgb, pattern.color.rgb, ramp(size.astype(np.float32), 1.15, 0.85) * front)
        if variant % 3 == 0:  # a larger logo on the back
            size = np.maximum(np.abs(points.x) / 0.1, np.abs(points.y - 1.3) / 0.022).astype(np.float32)
            blend(rgb, pattern.color.rgb, ramp(size, 1.05, 0.95) * back)
        return
    rng = np.random.default_rng(variant)
    width, height = rng.uniform(0.075, 0.115), rng.uniform(0.06, 0.14)
    middle = chest - 0.02 - 0.35 * (height - 0.06)
    u, v = points.x / width, (points.y - middle) / height
    motif = variant % 5
    box = np.maximum(np.abs(u), np.abs(v)).astype(np.float32)
    cells = np.zeros(len(u), np.float32)
    if motif == 0:  # lines of writing
        lines = int(rng.integers(1, 4))
        row = np.clip(((v + 1) * 0.5 * lines).astype(int), 0, lines - 1)
        letter = np.clip(((u + 1) * 0.5 * 9).astype(int), 0, 8)
        glyph = rng.random((lines, 9)) < 0.85
        gap = (((u + 1) * 4.5) % 1 > 0.22) & (((v + 1) * 0.5 * lines) % 1 > 0.3)
        cells = (glyph[row, letter] & gap & (box < 1)).astype(np.float32)
        blend(rgb, pattern.color.rgb, cells * front)
    elif motif == 1:  # a disc with a core
        size = np.hypot(u, v * height / width).astype(np.float32)
        blend(rgb, pattern.color.rgb, ramp(size, 1.0, 0.93) * front)
        blend(rgb, pattern.accent.rgb, ramp(size, 0.55, 0.48) * front)
    elif motif == 2:  # a photograph: blotches inside a frame
        blotch = solid_noise(points.position, variant, 0.035, 2)
        blend(rgb, pattern.color.rgb, ramp(box, 1.0, 0.95) * front)
        blend(rgb, pattern.accent.rgb, ramp(box, 1.0, 0.95) * ramp(blotch, 0.47, 0.53) * front)
    elif motif == 3:  # a figure, symmetric like a face or a crest
        grid = rng.random((7, 4)) < 0.55
        row = np.clip(((v + 1) * 3.5).astype(int), 0, 6)
        column = np.clip((np.abs(u) * 4).astype(int), 0, 3)
        blend(rgb, pattern.color.rgb, (grid[row, column] & (box < 1)).astype(np.float32) * front)
    else:  # a number on front and back, as on a football shirt
        bar = (np.abs(np.abs(u) - 0.45) < 0.2) | ((np.abs(np.abs(v) - 0.85) < 0.15) & (np.abs(u) < 0.65))
        cells = (bar & (box < 1)).astype(np.float32)
        blend(rgb, pattern.color.rgb, cells * front)
    if variant % 3 == 0 or motif == 4:
        where = (box < 1) & ((((u + 1) * 3) % 1 > 0.3) | (motif != 4))
        size = 0.9 * where * (np.abs(v) < (0.9 if motif == 4 else 0.35))
        blend(rgb, pattern.color.rgb, size.astype(np.float32) * back)


def _apply_shade(color: Array, shade: Array, relief: float = 1.0) -> Array:
    """Multiplies colours `(N, 3)` by light; dark cloth also gains a constant, as in photographs."""
    if relief != 1.0:
        shade = 1 + np.float32(relief) * (shade - 1)
    lift = 26 * (shade - 1)
    return np.asarray(np.clip(color * shade[:, None] + lift[:, None], 0, 255), np.float32)


def torso_folds(points: BodyPoints, looseness: float, seed: int) -> Array:
    """Light on the folds of an upper garment.

    Folds run diagonally from the armpits, around the waist, and in rings around the elbows.

    Args:
        points: `BodyPoints` of N points.
        looseness: `float`, 0 (tight) to 1 (very loose).
        seed: `int`. Places the folds.

    Returns:
        `(N,)` float32 factors around 1.
    """
    position = points.position
    amount = 0.7 + 0.8 * looseness
    big = solid_noise(position, seed + 81, (0.16, 0.10, 0.16), 2) - np.float32(0.5)
    slant = position.copy()
    slant[:, 1] += np.float32(0.7) * points.side
    draped = creases(slant, seed + 82, (0.12, 0.05, 0.10))
    waist = creases(position, seed + 83, (0.13, 0.026, 0.13)) * bump(points.y, 1.06, 0.10) * ~points.on_arm
    armpit = (
        creases(slant, seed + 85, (0.06, 0.022, 0.06))
        * bump(points.side, 0.15, 0.05)
        * bump(points.y, 1.25, 0.07)
    )
    ring = position.copy()
    ring[:, 1] = points.along_arm
    elbow = creases(ring, seed + 84, (0.09, 0.022, 0.09)) * points.on_arm
    elbow = elbow * (0.35 + bump(points.along_arm, 0.24, 0.07) + 0.7 * ramp(points.along_arm, 0.36, 0.44))
    shade = 0.30 * big + 0.055 * draped + 0.08 * waist + 0.07 * armpit + 0.085 * elbow
    return np.asarray(1 + amount * shade, np.float32)


def leg_folds(points: BodyPoints, looseness: float, seed: int) -> Array:
    """Light on the folds of trousers: rays from the crotch, rings at knee and ankle.

    Args:
        points: `BodyPoints` of N points.
        looseness: `float`, 0 (tight) to 1 (very loose).
        seed: `int`. Places the folds.

    Returns:
        `(N,)` float32 factors around 1.
    """
    position = points.position
    amount = 0.65 + 0.7 * looseness
    big = solid_noise(position, seed + 91, (0.10, 0.16, 0.10), 2) - np.float32(0.5)
    rays = position.copy()
    rays[:, 1] += np.float32(0.9) * points.side
    crotch = creases(rays, seed + 92, (0.10, 0.028, 0.10)) * bump(points.y, 0.80, 0.10)
    knee = creases(position, seed + 93, (0.08, 0.022, 0.08)) * bump(points.y, 0.46, 0.09)
    stack = creases(position, seed + 94, (0.09, 0.018, 0.09)) * ramp(points.y, 0.24, 0.10)
    press = bump(points.around, 0.0, 0.008) * points.on_leg
    shade = 0.26 * big + 0.09 * crotch + 0.085 * knee + 0.11 * stack + 0.04 * press
    return np.asarray(1 + amount * shade, np.float32)


def paint_upper(points: BodyPoints, rgb: Array, upper: Upper, seed: int, relief: float = 1.0) -> None:
    """Paints the upper garment over the picture, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        upper: `Upper`.
        seed: `int`. Places the folds.
        relief: `float`. Factor on the contrast of folds and seams.
    """
    cover = upper_cover(points, upper)
    if upper.tail > 0:
        tail = (
            ramp(points.y - upper.hem + upper.tail, -0.004, 0.004)
            * ramp(points.y, 1.0, 0.99)
            * ~points.on_arm
        )
        blend(rgb, 0.9 * np.array(upper.inner.rgb, np.float32), tail)
    rows = np.flatnonzero(cover > 0)
    points, cover, whole, rgb = points.take(rows), cover[rows], rgb, rgb[rows]
    if upper.opening > 0:
        low = ramp(points.y, 0.90, 0.91) * ramp(neck_opening(points, "crew"), 0.003, -0.003)
        inner = paint_pattern(points, upper.inner, upper.inner_pattern)
        gap = front_gap(points, upper)
        blend(
            rgb, _apply_shade(inner, torso_folds(points, 0.3, seed + 7), relief) * np.float32(0.93), gap * low
        )
        cover = cover * (1 - gap)
        shadow = ramp(gap, 0.02, 0.3) * ramp(gap, 0.98, 0.6)
        rgb *= (1 - 0.35 * shadow * low)[:, None]
    color = paint_pattern(points, upper.color, upper.pattern)
    shade = torso_folds(points, upper.looseness, seed)
    _upper_details(points, color, shade, upper)
    weave = {"sweater": 0.09, "jacket": 0.03, "coat": 0.05}.get(upper.kind, 0.035)
    shade += weave * (solid_noise(points.position, seed + 86, 0.011, 1) - np.float32(0.5)) * 2
    blend(rgb, _apply_shade(color, shade, relief), cover)
    whole[rows] = rgb


def _upper_details(points: BodyPoints, color: Array, shade: Array, upper: Upper) -> None:
    """Adds seams, collar, cuffs, closures and pockets to `color` and `shade`, in place."""
    torso = ~points.on_arm
    front = ramp(points.normal[:, 2], 0.0, 0.2) * torso
    shade -= (
        0.16 * bump(points.along_arm, 0.005, 0.006) * ramp(points.from_arm, 0.11, 0.09) * (upper.sleeve > 0)
    )
    shade -= 0.18 * bump(points.y - upper.hem, 0.016, 0.004) * torso
    shade -= 0.14 * bump(points.along_arm, upper.sleeve - 0.016, 0.004) * points.on_arm
    rim = neck_opening(points, upper.neckline)
    trim = ramp(rim, -0.024, -0.02) * (points.y > 1.2) * torso
    if upper.kind in ("t-shirt", "long sleeve", "sweater", "hoodie", "tank top"):
        shade -= 0.10 * trim + 0.12 * bump(rim, -0.022, 0.004) * trim
        if upper.pattern.kind == "blocks" and upper.kind == "t-shirt":
            blend(color, upper.pattern.color.rgb, trim)
    if upper.kind in ("hoodie", "sweater", "jacket"):
        ribs = ramp(points.along_arm, upper.sleeve - 0.05, upper.sleeve - 0.045) * points.on_arm
        ribs = np.maximum(ribs, ramp(points.y, upper.hem + 0.05, upper.hem + 0.045) * torso)
        shade -= 0.13 * ribs
    if upper.kind in ("shirt", "polo", "coat", "jacket"):
        collar = ramp(rim, -0.045, -0.04) * (points.y > 1.30) * torso
        shade += 0.07 * collar - 0.25 * bump(rim, -0.045, 0.005) * (points.y > 1.30) * torso
    if upper.kind == "polo" and upper.pattern.kind in ("blocks", "logo"):
        blend(color, upper.pattern.color.rgb, ramp(rim, -0.04, -0.036) * (points.y > 1.30) * torso)
    if upper.kind in ("shirt", "coat", "polo") and upper.opening == 0:
        length = ramp(points.y, 1.25, 1.26) if upper.kind == "polo" else 1.0
        shade -= 0.20 * bump(points.x, 0.016, 0.0035) * front * length
        buttons = bump(points.x, 0.0, 0.006) * bump((points.y / 0.085) % 1.0, 0.5, 0.085) * front * length
        shade += (0.35 if sum(upper.color.rgb) < 300 else -0.35) * buttons
    if upper.kind in ("jacket", "hoodie") and (upper.opening > 0 or upper.kind == "jacket"):
        zipper = bump(points.x, 0.0, 0.0045) * front
        metal = (168, 168, 170) if upper.pattern.variant % 2 else (24, 24, 26)
        blend(color, metal, 0.7 * zipper)
        shade -= 0.14 * bump(points.side, 0.012, 0.004) * front
    if upper.kind in ("jacket", "coat"):
        slit = bump(points.side - 0.35 * (points.y - upper.hem - 0.16), 0.095, 0.006)
        slit = slit * ramp(np.abs(points.y - max(upper.hem + 0.09, 0.93)), 0.06, 0.05) * front
        shade -= 0.30 * slit
    if upper.kind == "jacket" and upper.pattern.variant % 3 == 0:  # a quilted down jacket
        tube = np.abs(((points.down / 0.062) % 1.0) - 0.5) * 2
        shade += 0.13 * (0.5 - tube**3) - 0.10 * ramp(tube, 0.86, 1.0)
    if upper.kind == "hoodie":
        roll = hood(points)
        shade += 0.10 * roll - 0.32 * bump(roll, 0.35, 0.12) * (points.y < 1.40)
        pouch = ramp(points.side, 0.115, 0.11) * ramp(np.abs(points.y - 1.0), 0.075, 0.07)
        edge = ramp(points.side, 0.085, 0.095) + ramp(points.y, 1.06, 1.068)
        shade -= 0.16 * pouch * np.clip(edge, 0, 1) * front * (upper.opening == 0)
        cord = bump(points.side - 0.1 * (points.y - 1.3), 0.035, 0.004) * ramp(
            np.abs(points.y - 1.31), 0.06, 0.055
        )
        blend(color, (225, 224, 220) if upper.pattern.variant % 2 else (40, 40, 42), 0.8 * cord * front)
    if upper.kind == "shirt" and upper.pattern.variant % 2:
        pocket = np.maximum(np.abs(points.x - 0.07) / 0.042, np.abs(points.y - 1.235) / 0.05)
        shade -= 0.16 * bump(pocket.astype(np.float32), 1.0, 0.1) * front
    if upper.kind == "dress" and upper.pattern.variant % 3:
        belt = ramp(np.abs(points.y - 1.07), 0.016, 0.012) * torso
        blend(color, upper.pattern.accent.rgb, 0.85 * belt * (upper.pattern.variant % 3 == 1))
        shade -= 0.2 * bump(points.y, 1.05, 0.008) * torso


def paint_lower(points: BodyPoints, rgb: Array, lower: Lower, seed: int, relief: float = 1.0) -> None:
    """Paints the lower garment over the picture, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        lower: `Lower`.
        seed: `int`. Places the folds.
        relief: `float`. Factor on the contrast of folds and seams.
    """
    if lower.kind == "bare legs":
        return
    cover = lower_cover(points, lower)
    rows = np.flatnonzero(cover > 0)
    points, cover, whole, rgb = points.take(rows), cover[rows], rgb, rgb[rows]
    color = paint_pattern(points, lower.color, lower.pattern)
    shade = leg_folds(points, lower.looseness * (lower.kind != "leggings"), seed)
    if lower.kind == "leggings":
        shade = 1 + 0.35 * (shade - 1)
    lateral = np.abs(points.around / points.around_period) * 4  # 1 at the side seam
    if lower.kind in ("jeans", "trousers", "shorts"):
        shade -= 0.16 * bump(lateral, 1.0, 0.05)
        fly = bump(points.x, 0.006, 0.004) * ramp(points.y, 0.86, 0.87) * ramp(points.normal[:, 2], 0.2, 0.5)
        pocket = bump(points.y - 0.93 + 0.55 * (points.side - 0.11), 0.0, 0.005) * ramp(
            points.side, 0.085, 0.1
        )
        pocket = pocket * ramp(points.normal[:, 2], 0.1, 0.3) * (points.y > 0.87)
        patch = np.maximum(np.abs(points.side - 0.072) / 0.045, np.abs(points.y - 0.885) / 0.055)
        back = bump(patch.astype(np.float32), 1.0, 0.1) * ramp(-points.normal[:, 2], 0.2, 0.5)
        shade -= 0.20 * fly + 0.24 * pocket + 0.20 * back
        shade -= 0.20 * bump(points.y - lower.hem, 0.02, 0.005)
    if lower.fade > 0:
        front = ramp(np.abs(points.normal[:, 2]), 0.35, 0.95)
        worn = (
            bump(points.y, 0.66, 0.14) + 0.7 * bump(points.y, 0.47, 0.05) + 0.6 * bump(points.y, 0.86, 0.05)
        )
        whisker = creases(points.position, seed + 95, (0.12, 0.016, 0.12)) * bump(points.y, 0.80, 0.06)
        grain = solid_noise(points.position, seed + 96, 0.02, 2)
        amount = lower.fade * np.clip(front * worn * (0.5 + grain) + 0.25 * whisker, 0, 1)
        blend(color, (176, 192, 212), (0.48 * amount).astype(np.float32))
    shade += 0.06 * (solid_noise(points.position, seed + 97, 0.012, 1) - np.float32(0.5))
    if lower.kind == "skirt":
        pleat = np.sin(points.around / points.around_period * 2 * np.pi * 14)
        shade += 0.07 * pleat.astype(np.float32)
    painted = _apply_shade(color, shade, relief)
    if lower.belt is not None:
        where = ramp(points.y, WAIST - 0.042, WAIST - 0.038)
        blend(painted, lower.belt.rgb, where)
        buckle = ramp(points.side, 0.024, 0.018) * where * ramp(points.normal[:, 2], 0.2, 0.5)
        blend(painted, (170, 165, 150), 0.8 * buckle)
    elif lower.kind != "leggings":
        painted *= (1 - 0.14 * bump(points.y, WAIST - 0.04, 0.006))[:, None]
    blend(rgb, painted, cover)
    whole[rows] = rgb


def skirt_colors(points: BodyPoints, upper: Upper, lower: Lower, name: str, seed: int) -> Array:
    """Colours of a skirt, or of a dress or coat below the hips.

    Args:
        points: `BodyPoints` of N places on the tube around the average body.
        upper: `Upper`, the garment of dresses and coats.
        lower: `Lower`, the garment of skirts.
        name: `"skirt"`, `"dress"` or `"coat"`.
        seed: `int`. Drives the folds.

    Returns:
        `(N, 3)` float32 sRGB.
    """
    garment = lower if name == "skirt" else upper
    color = paint_pattern(points, garment.color, garment.pattern)
    turn = points.around / points.around_period * 2 * np.pi
    hang = ramp(points.y, 0.95, garment.hem)
    count = 9 + garment.pattern.variant % 8
    pleat = np.sin(turn * count + 4 * solid_noise(points.position, seed + 98, 0.2, 1)).astype(np.float32)
    big = solid_noise(points.position, seed + 99, (0.09, 0.25, 0.09), 2) - np.float32(0.5)
    shade = 1 + (0.05 + 0.08 * garment.looseness) * hang * pleat + 0.28 * big
    shade -= 0.18 * bump(points.y - garment.hem, 0.016, 0.005)
    if name == "coat" and upper.opening == 0:
        front = ramp(points.z, 0.05, 0.08)
        shade -= 0.25 * bump(points.x, 0.016, 0.006) * front
    # a tube that widens downwards faces the sky more than the torso, so it is painted darker
    return 0.94 * _apply_shade(color, np.asarray(shade, np.float32))
