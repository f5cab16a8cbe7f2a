"""Skin: tones, mottling and redness."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.noise import solid_noise
from san_tf.synthesis.wardrobe.person import Color

# Name, sRGB in sunlight and weight of each tone, from palest to darkest, after published tone scales.
_TONES: tuple[tuple[str, tuple[int, int, int], float], ...] = (
    ("porcelain", (238, 206, 186), 10),
    ("fair", (229, 190, 163), 22),
    ("light", (218, 172, 141), 24),
    ("medium", (198, 148, 114), 18),
    ("tan", (172, 120, 86), 11),
    ("brown", (134, 90, 62), 8),
    ("dark", (98, 64, 46), 6),
    ("deep", (66, 44, 35), 4),
)


def draw_skin(rng: np.random.Generator) -> Color:
    """Draws a skin tone.

    Args:
        rng: `numpy.random.Generator`. Source of randomness.

    Returns:
        `Color` between two neighbouring tones of the scale.
    """
    share = np.array([tone[2] for tone in _TONES])
    index = int(rng.choice(len(_TONES), p=share / share.sum()))
    other = int(np.clip(index + rng.choice([-1, 1]), 0, len(_TONES) - 1))
    mix = float(rng.uniform(0.0, 0.45))
    rgb = (1 - mix) * np.array(_TONES[index][1]) + mix * np.array(_TONES[other][1]) + rng.normal(0, 2.5, 3)
    red, green, blue = np.clip(rgb, 25, 245).astype(int).tolist()
    return Color(_TONES[index][0], (red, green, blue))


def paint_skin(points: BodyPoints, skin: Color, seed: int) -> Array:
    """Paints bare skin over the whole body.

    Args:
        points: `BodyPoints` of N texels.
        skin: `Color`. Base tone.
        seed: `int`. Drives the mottling.

    Returns:
        `(N, 3)` float32 sRGB in [0, 255].
    """
    base = np.array(skin.rgb, np.float32)
    mottle = solid_noise(points.position, seed + 11, 0.05, 3) - np.float32(0.5)
    rgb = base * (1 + 0.13 * mottle)[:, None]
    # redness at knees, elbows, knuckles, cheeks and nose
    blood = 0.7 * ramp(points.along_arm, 0.44, 0.56) * points.on_hand
    blood += (
        0.5 * bump(points.y, 0.47, 0.05) * points.on_leg
        + 0.5 * bump(points.along_arm, 0.24, 0.04) * points.on_arm
    )
    cheek = bump(points.side, 0.042, 0.02) * bump(points.y, 1.51, 0.022) * ramp(points.z, 0.06, 0.11)
    nose = bump(points.side, 0.0, 0.014) * bump(points.y, 1.513, 0.014) * ramp(points.z, 0.13, 0.15)
    blood += 0.9 * (cheek + 0.7 * nose) * points.on_head
    redness = np.array([-0.015, -0.11, -0.12], np.float32) * np.float32(base.mean() / 170)
    rgb *= 1 + blood[:, None] * redness
    # forearms and lower legs are tanned
    sun = 0.05 * points.on_arm * ramp(points.along_arm, 0.1, 0.35) + 0.04 * points.on_leg * ramp(
        points.y, 0.6, 0.3
    )
    rgb *= (1 - sun)[:, None]
    # shading of kneecaps and collar bones
    knee = bump(points.y, 0.485, 0.03) * bump(points.z, 0.085, 0.03) * points.on_leg
    rgb *= (1 + 0.06 * knee - 0.08 * bump(points.y, 0.44, 0.02) * points.on_leg)[:, None]
    bone = bump(points.y, 1.385, 0.012) * ramp(points.normal[:, 2], 0.2, 0.7) * ramp(points.side, 0.015, 0.03)
    rgb *= (1 + 0.06 * bone)[:, None]
    nails = points.on_hand & (points.along_arm > 0.625)
    rgb[nails] = 0.8 * rgb[nails] + 0.2 * np.array([235, 190, 180], np.float32) * base.mean() / 190
    return np.asarray(rgb, np.float32)
