"""Prints and weaves in body coordinates, so they continue across UV seams."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, ramp
from san_tf.synthesis.wardrobe.face import blend
from san_tf.synthesis.wardrobe.noise import solid_noise
from san_tf.synthesis.wardrobe.person import Color, Pattern

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
