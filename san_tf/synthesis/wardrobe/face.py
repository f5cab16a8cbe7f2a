"""Faces: eyes, brows, lips, nose shadow, beards and glasses, placed by rest-pose position."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, Real, bump, ramp
from san_tf.synthesis.wardrobe.noise import solid_noise
from san_tf.synthesis.wardrobe.person import Face, Hair

# Landmarks of the average face at rest, metres.
EYE_X, EYE_Y, BROW_Y, MOUTH_Y = 0.0290, 1.5485, 1.5655, 1.4815


def blend(rgb: Array, color: ArrayLike, cover: Real) -> None:
    """Blends a colour into a picture, in place.

    Args:
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        color: three numbers, or `(N, 3)` float32.
        cover: `(N,)` float32 in [0, 1].
    """
    rgb += cover[:, None] * (np.asarray(color, np.float32) - rgb)


def paint_face(points: BodyPoints, rgb: Array, face: Face, hair: Hair, skin_level: float, seed: int) -> None:
    """Paints the face over bare skin, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        face: `Face`.
        hair: `Hair`; brows and beard take its colour.
        skin_level: `float`. Mean of the skin tone in [0, 255]; scales the colour of the lips.
        seed: `int`. Drives the grain of the beard.
    """
    rows = np.flatnonzero(points.on_head & (points.z > 0.03))
    x, y, z = points.side[rows], points.y[rows], points.z[rows]
    part = rgb[rows]
    front = ramp(z, 0.07, 0.1)
    dark_hair = np.minimum(np.array(hair.color.rgb, np.float32), 150)

    # eye sockets and the shadows under nose, lower lip and jaw
    socket = np.exp(-(((x - EYE_X) / 0.019) ** 2 + ((y - EYE_Y) / 0.012) ** 2)) * front
    wing = np.exp(-(((x - 0.012) / 0.007) ** 2 + ((y - 1.504) / 0.006) ** 2)) * front
    chin = np.exp(-(((x) / 0.018) ** 2 + ((y - 1.4635) / 0.005) ** 2)) * front
    jaw = ramp(y, 1.46, 1.43) * ramp(z, 0.13, 0.09)
    part *= (1 - 0.32 * socket - 0.28 * wing - 0.18 * chin - 0.16 * jaw)[:, None]
    ridge = np.exp(-((x / 0.006) ** 2)) * ramp(y, 1.505, 1.515) * ramp(y, 1.56, 1.545) * front
    part *= (1 + 0.07 * ridge)[:, None]

    lips = np.exp(-((x / 0.022) ** 4)) * np.exp(-(((y - MOUTH_Y) / 0.0085) ** 4)) * front
    red = np.array([168, 82, 82], np.float32) * np.float32(0.35 + 0.65 * skin_level / 190)
    blend(part, red, 0.75 * np.float32(0.3 + 0.7 * face.lips) * lips)
    line = np.exp(-((x / 0.022) ** 4)) * np.exp(-(((y - MOUTH_Y) / 0.0022) ** 2)) * front
    part *= (1 - 0.45 * line)[:, None]

    brow_line = BROW_Y + 0.004 * np.exp(-(((x - 0.033) / 0.012) ** 2))
    brow = (
        ramp(x, 0.011, 0.016)
        * ramp(x, 0.05, 0.042)
        * np.exp(-(((y - brow_line) / (0.003 + 0.002 * face.brow)) ** 2))
    )
    blend(part, dark_hair * 0.8, np.float32(0.55 + 0.4 * face.brow) * brow * front)

    # lashes, white and iris of the eye
    radius = np.sqrt((x - EYE_X) ** 2 + (y - EYE_Y) ** 2)
    lashes = np.exp(-(((x - EYE_X) / 0.0135) ** 4)) * np.exp(-(((y - EYE_Y - 0.0035) / 0.0042) ** 2)) * front
    blend(part, (38, 28, 26), np.float32(0.62) * lashes)
    white = np.exp(-(((x - EYE_X) / 0.0115) ** 4)) * np.exp(-(((y - EYE_Y) / 0.0045) ** 4)) * front
    blend(part, (205, 198, 192), 0.55 * white)
    blend(part, face.eye.rgb, 0.85 * np.exp(-((radius / 0.0058) ** 4)) * front)

    if face.beard != "none":
        _paint_beard(
            x, y, z, part, face.beard, dark_hair, solid_noise(points.position[rows], seed + 5, 0.006, 2)
        )
    if face.glasses != "none":
        rim = np.sqrt(((x - EYE_X) / 0.023) ** 2 + ((y - EYE_Y + 0.002) / 0.017) ** 2)
        if face.glasses == "sun":
            blend(part, (24, 22, 24), 0.93 * ramp(rim, 1.12, 0.95) * front)
        blend(part, (30, 28, 30), 0.8 * bump(rim, 1.0, 0.13) * front)
        bridge = bump(y, EYE_Y + 0.003, 0.003) * ramp(x, 0.011, 0.008) * front
        arm = bump(y, EYE_Y + 0.004, 0.003) * ramp(x, 0.05, 0.055) * ramp(z, 0.02, 0.03)
        blend(part, (30, 28, 30), 0.8 * np.maximum(bridge, arm))
    rgb[rows] = part


def _paint_beard(x: Array, y: Array, z: Array, part: Array, kind: str, color: Array, grain: Array) -> None:
    """Paints stubble, moustache, goatee or full beard, in place."""
    mouth = np.exp(-((x / 0.02) ** 4)) * np.exp(-(((y - MOUTH_Y) / 0.007) ** 4))
    moustache = ramp(x, 0.034, 0.026) * ramp(y, 1.505, 1.499) * ramp(y, 1.484, 1.489) * ramp(z, 0.1, 0.12)
    chin = ramp(x, 0.03, 0.022) * ramp(y, 1.478, 1.472) * ramp(z, 0.08, 0.1)
    cheeks = ramp(y, 1.495, 1.475) + ramp(x, 0.045, 0.058) * ramp(y, 1.545, 1.53)
    cheeks = np.clip(cheeks, 0, 1) * ramp(z, 0.03, 0.045)
    area = {
        "moustache": moustache,
        "goatee": np.maximum(moustache, chin),
        "stubble": np.maximum(cheeks, moustache),
        "full": np.maximum(cheeks, moustache),
    }[kind] * (1 - mouth)
    strength = 0.36 if kind == "stubble" else 0.95
    blend(part, color * 0.8, np.float32(strength) * area * (0.85 + 0.3 * (grain - 0.5)))
