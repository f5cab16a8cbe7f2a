"""Compiled inner loops that draw streets: procedural surfaces and ray casting.

Randomness is hashed from integer positions. So a surface has any resolution, needs no memory and is the same
in every process. `footprint` is the size of a pixel on the surface in metres; finer detail fades out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.compiled import compiled
from san_tf.synthesis.light import Light
from san_tf.synthesis.places import Place

# Materials, in the order of `places.GROUNDS` and `places.WALLS`.
ASPHALT, TILES, BRICKS, SLABS, GRASS, GRAVEL, CHECKER, ZEBRA = range(8)
PLASTER, BRICK, OFFICE, SHOP, HEDGE, FENCE, SHUTTER, STONE, DARK = range(9)


class Eye(NamedTuple):
    """The part of a camera's frame to draw, and how the camera hangs."""

    window: np.ndarray  # (4,) left, top, width and height in native pixels, as in `camera.Window`
    focal: float  # focal length in native pixels
    turn: np.ndarray  # (3, 3) rotation, world to camera
    height: float  # of the lens above the ground in metres


@compiled
def chance(i: int, j: int, seed: int) -> float:
    """Hash integers i, j and a seed to a number in [0, 1)."""
    # 64-bit integers wrap around; the upper bits of the product are mixed best.
    h = i * 7046029254386353131 + j * 1442695040888963407 + seed * 3935559000370003845
    h = (h ^ (h >> 29)) * 2862933555777941757
    return float((h >> 38) & 0xFFFFFF) / 16777216.0


@compiled
def noise(x: float, y: float, seed: int) -> float:
    """Return smooth noise in [0, 1] at (x, y), with features of size 1."""
    i, j = int(np.floor(x)), int(np.floor(y))
    a, b = x - i, y - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = chance(i, j, seed) * (1 - a) + chance(i + 1, j, seed) * a
    high = chance(i, j + 1, seed) * (1 - a) + chance(i + 1, j + 1, seed) * a
    return low * (1 - b) + high * b


@compiled
def grain(x: float, y: float, size: float, footprint: float, seed: int) -> float:
    """Return noise in about [-0.5, 0.5]; it fades where pixels are larger than its features.

    Args:
        x: metres.
        y: metres.
        size: size of the features in metres.
        footprint: size of a pixel in metres.
        seed: of the noise.
    """
    fade = min(1.0, size / (footprint + 1e-6))
    return (noise(x / size, y / size, seed) - 0.5) * fade


@compiled
def joint(x: float, period: float, width: float, footprint: float) -> float:
    """Return the share of a pixel, 0..1, that lies on regular joints.

    Args:
        x: position of the pixel in metres.
        period: distance between joints in metres; one joint is at 0.
        width: width of a joint in metres.
        footprint: size of the pixel in metres.
    """
    distance = abs(x - period * np.floor(x / period + 0.5))
    reach = (width + footprint) / 2
    return min(1.0, max(0.0, (reach - distance) / max(footprint, 1e-4))) * min(
        1.0, width / max(footprint, 1e-4)
    )


@compiled
def ground_color(
    kind: int, x: float, y: float, p: np.ndarray, row: int, footprint: float, seed: int, out: np.ndarray
) -> None:
    """Write the albedo of a ground material at (x, y) metres into `out`.

    Args:
        kind: index into `places.GROUNDS`.
        x: metres along the street.
        y: metres across the street.
        p: `(N, 8)` parameters: colour RGB, second colour RGB, period in metres, strength of variation.
        row: row of `p` to use.
        footprint: size of a pixel on the ground in metres.
        seed: of the place.
        out: `(3,)` receives RGB in 0..1.
    """
    period, vary = p[row, 6], p[row, 7]
    level, mix, dark = 1.0, 0.0, 0.0
    fine = grain(x, y, 0.035, footprint, seed) + 0.7 * grain(x, y, 0.12, footprint, seed + 1)
    broad = noise(x / 1.7, y / 1.7, seed + 2) - 0.5 + 0.6 * (noise(x / 5.0, y / 5.0, seed + 3) - 0.5)
    level += vary * (0.35 * fine + 0.3 * broad)
    if kind in (TILES, CHECKER):
        i, j = int(np.floor(x / period)), int(np.floor(y / period))
        level += vary * 0.35 * (chance(i, j, seed + 4) - 0.5)
        dark = max(joint(x, period, 0.012, footprint), joint(y, period, 0.012, footprint))
        if kind == CHECKER:
            mix = float((i + j) & 1)
    elif kind == BRICKS:
        j = int(np.floor(y / (period * 0.5)))
        shifted = x + 0.5 * period * (j & 1)
        i = int(np.floor(shifted / period))
        level += vary * 0.5 * (chance(i, j, seed + 4) - 0.5)
        mix = 0.7 * chance(i, j, seed + 5) ** 3
        dark = max(joint(shifted, period, 0.01, footprint), joint(y, period * 0.5, 0.01, footprint))
    elif kind == SLABS:
        i, j = int(np.floor(x / (4 * period))), int(np.floor(y / (4 * period)))
        level += vary * 0.25 * (chance(i, j, seed + 4) - 0.5)
        dark = max(joint(x, 4 * period, 0.02, footprint), joint(y, 4 * period, 0.02, footprint))
    elif kind == GRASS:
        level += 0.9 * grain(x, y, 0.05, footprint, seed + 6) + 0.35 * broad
        mix = min(1.0, max(0.0, 1.6 * (noise(x / 0.8, y / 0.8, seed + 7) - 0.45)))
    elif kind == GRAVEL:
        level += 0.5 * grain(x, y, 0.06, footprint, seed + 6)
        mix = noise(x / 1.2, y / 1.2, seed + 7)
    elif kind == ZEBRA:
        stripe = x / period - np.floor(x / period)
        edge = min(abs(stripe - 0.5), min(stripe, 1.0 - stripe)) * period / max(footprint, 1e-4)
        soft = min(1.0, edge + 0.5)
        mix = soft if stripe > 0.5 else 1.0 - soft
        mix *= 0.75 + 0.5 * (noise(x / 0.25, y / 0.25, seed + 7) - 0.5)
    else:
        # Asphalt has repairs and stains.
        level -= 0.12 if noise(x / 2.3, y / 2.3, seed + 8) > 0.72 else 0.0
    level *= 1.0 - 0.45 * dark
    for k in range(3):
        out[k] = max(0.0, level * (p[row, k] * (1 - mix) + p[row, 3 + k] * mix))


@compiled
def wall_color(
    kind: int, s: float, y: float, p: np.ndarray, row: int, footprint: float, seed: int, out: np.ndarray
) -> float:
    """Write the albedo of a wall material at (s, y) metres into `out`.

    Args:
        kind: index into `places.WALLS`.
        s: metres along the wall.
        y: metres above the ground.
        p: `(N, 8)` parameters: colour RGB, second colour RGB, bay width in metres, strength of variation.
        row: row of `p` to use.
        footprint: size of a pixel on the wall in metres.
        seed: of the place.
        out: `(3,)` receives RGB in 0..1.

    Returns:
        Opacity 0..1; below 1 between the bars of a fence.
    """
    bay, vary = p[row, 6], p[row, 7]
    level, mix, glass = 1.0, 0.0, 0.0
    level += vary * (
        0.25 * grain(s, y, 0.3, footprint, seed + 1) + 0.3 * (noise(s / 3.0, y / 1.5, seed + 2) - 0.5)
    )
    column, floor = int(np.floor(s / bay)), int(np.floor(y / 3.1))
    a, b = s - column * bay, y - floor * 3.1
    opacity = 1.0
    if kind == HEDGE:
        level = 0.55 + 1.1 * noise(s / 0.16, y / 0.16, seed + 3) * noise(s / 0.5, y / 0.5, seed + 4)
        level += 0.4 * grain(s, y, 0.06, footprint, seed + 5)
        mix = noise(s / 0.7, y / 0.7, seed + 6)
    elif kind == FENCE:
        bar = max(joint(s, 0.13, 0.025, footprint), joint(y - 0.12, 1.25, 0.05, footprint))
        opacity = max(bar, joint(s, 2.5, 0.09, footprint))
    elif kind == SHUTTER:
        level *= 1.0 - 0.3 * joint(y, 0.11, 0.03, footprint)
        mix = joint(s, bay, 0.25, footprint)
    elif kind == STONE:
        j = int(np.floor(y / 0.4))
        shifted = s + 0.45 * (j & 1)
        level += vary * 0.5 * (chance(int(np.floor(shifted / 0.9)), j, seed + 4) - 0.5)
        level *= 1.0 - 0.4 * max(joint(shifted, 0.9, 0.02, footprint), joint(y, 0.4, 0.02, footprint))
    elif kind == DARK:
        level = 1.0 + 0.8 * (noise(s / 1.2, y / 1.2, seed + 3) - 0.5)
        mix = 0.8 * max(0.0, noise(s / 0.9, y / 2.2, seed + 4) - 0.62)
    elif kind == OFFICE:
        glass = 1.0 - max(joint(s, bay * 0.5, 0.07, footprint), joint(y, 1.55, 0.12, footprint))
    else:
        if kind == BRICK:
            j = int(np.floor(y / 0.075))
            shifted = s + 0.12 * (j & 1)
            level += (
                0.3 * (chance(int(np.floor(shifted / 0.24)), j, seed + 4) - 0.5) * min(1.0, 0.1 / footprint)
            )
            level *= 1.0 - 0.25 * max(
                joint(shifted, 0.24, 0.012, footprint), joint(y, 0.075, 0.012, footprint)
            )
        inside = a > 0.22 * bay and a < 0.78 * bay
        if kind == SHOP and floor == 0:
            # A framed display window, and above it a fascia in the second colour.
            glass = 1.0 if a > 0.08 * bay and a < 0.92 * bay and b > 0.35 and b < 2.45 else 0.0
            mix = 1.0 if b > 2.5 else 0.0
            if mix > 0 and b > 2.62 and b < 2.9 and chance(int(np.floor(s / 0.17)), column, seed + 5) > 0.35:
                level *= 1.0 + 0.9 * (chance(column, 3, seed + 6) - 0.4)
        elif inside and b > 0.95 and b < 2.45:
            glass = 1.0 - joint(a - 0.5 * bay, bay, 0.06, footprint)
        elif y < 0.45:
            mix = 0.65
    for k in range(3):
        out[k] = max(0.0, level * (p[row, k] * (1 - mix) + p[row, 3 + k] * mix))
    if glass > 0:
        # Glass shows dark rooms with things in them, and reflects the sky.
        thing = noise(s / 0.35, y / 0.5, seed + 9) * chance(
            int(np.floor(s / 0.6)), int(np.floor(y / 0.7)), seed + 10
        )
        lamp = 0.5 if kind == SHOP else 0.18
        shine = 0.3 * max(0.0, noise(s / 2.0, y / 0.8, seed + 11) - 0.4)
        for k in range(3):
            tint = 0.6 + 0.8 * chance(int(np.floor(s / 0.6)), int(np.floor(y / 0.7)) + 77 * k, seed + 12)
            value = 0.07 + lamp * thing * tint + shine
            out[k] = out[k] * (1 - glass) + value * glass
    return opacity


@compiled
def cast(eye: Eye, place: Place, light: Light, out: np.ndarray) -> None:
    """Shade every pixel of a window: the nearest of ground and walls, else the far background.

    Args:
        eye: window and camera.
        place: the street.
        light: sun and sky.
        out: `(height, width, 3)` receives linear RGB.
    """
    height, width = out.shape[0], out.shape[1]
    window, focal, turn, lens, seed = eye.window, eye.focal, eye.turn, eye.height, place.seed
    strips, kerbs, paint = place.strips, place.kerbs, place.paint
    walls, planes, far = place.walls, place.wall_planes, place.far
    sun_direction, sun, sky = light.direction, light.sun, light.sky
    dapple = place.dapple * light.hardness
    albedo, over = np.zeros(3), np.zeros(3)
    left, top, step_x, step_y = window[0], window[1], window[2] / width, window[3] / height
    cos_s, sin_s = np.cos(place.street), np.sin(place.street)
    for row in range(height):
        for column in range(width):
            u, v = left + (column + 0.5) * step_x, top + (row + 0.5) * step_y
            # `turn` maps world to camera, so its transpose turns the ray into world axes.
            dx = turn[0, 0] * u - turn[1, 0] * v - turn[2, 0] * focal
            dy = turn[0, 1] * u - turn[1, 1] * v - turn[2, 1] * focal
            dz = turn[0, 2] * u - turn[1, 2] * v - turn[2, 2] * focal
            length = np.sqrt(dx * dx + dy * dy + dz * dz)
            best = 1e9
            if dy < -1e-6:
                best = lens / -dy
                x, z = dx * best, dz * best
                away = best * length
                footprint = away * step_y / focal * min(6.0, np.sqrt(away / lens))
                along, across = cos_s * x + sin_s * z, -sin_s * x + cos_s * z
                strip = 0 if across < strips[0] else (1 if across < strips[1] else 2)
                ground_color(
                    place.grounds[strip],
                    along,
                    across,
                    place.ground_params,
                    strip,
                    footprint,
                    seed + strip,
                    albedo,
                )
                for edge in range(2):
                    if kerbs[edge] > 0:
                        offset = across - strips[edge]
                        stone = joint(offset, 1e6, 0.16, footprint)
                        gap = joint(offset - 0.1, 1e6, 0.05, footprint)
                        level = (
                            kerbs[edge]
                            * (0.75 + 0.5 * chance(int(np.floor(along / 0.9)), 5, seed))
                            * (1 - 0.3 * joint(along, 0.9, 0.02, footprint))
                        )
                        for k in range(3):
                            albedo[k] = (albedo[k] * (1 - stone) + level * stone) * (1 - 0.5 * gap)
                painted = place.grounds[strip] == ASPHALT
                line = 0.8 * joint(across - paint[0], 1e6, 0.1, footprint) if painted else 0.0
                shade = 1.0
                if dapple > 0:
                    spot = 0.65 * noise(x / 2.2, z / 2.2, seed + 21) + 0.35 * noise(
                        x / 0.7, z / 0.7, seed + 22
                    )
                    shade = 1.0 - dapple * min(1.0, max(0.0, (spot - 0.5) * 7.0))
                for k in range(3):
                    color = albedo[k] * (1 - line) + paint[1 + k] * line
                    # Colours are given as they look on a screen; squaring approximates linear light.
                    out[row, column, k] = (
                        color * color * (sky[k] + sun[k] * shade * max(0.0, sun_direction[1]))
                    )
            else:
                # Far away: a ragged line of trees or roofs under the sky.
                bearing = np.arctan2(dx, -dz) * 40.0
                rise = dy / length
                ridge = (
                    0.04
                    + 0.10 * noise(bearing / 3.0, 0.5, seed + 31)
                    + 0.03 * noise(bearing * 2.0, 0.5, seed + 32)
                )
                for k in range(3):
                    tree = (
                        far[0, k]
                        * (0.6 + 0.8 * noise(bearing * 3.0, rise * 90.0, seed + 33))
                        * (sky[k] + 0.5 * sun[k])
                    )
                    out[row, column, k] = tree * tree if rise < ridge else far[1, k] * (sky[k] + sun[k])
            for wall in range(2):
                px, pz, wx, wz = planes[wall, 0], planes[wall, 1], planes[wall, 2], planes[wall, 3]
                # Solve t * ray = point + s * direction on the ground plane.
                determinant = dx * wz - dz * wx
                if abs(determinant) < 1e-9:
                    continue
                t = (px * wz - pz * wx) / determinant
                if t <= 0.0 or t >= best or t * length > 90.0:
                    continue
                s = (px * dz - pz * dx) / determinant
                y = lens + t * dy
                # Hedges have a ragged top.
                top_edge = planes[wall, 4] * (
                    1.0 + (0.12 * (noise(s / 0.4, 0.5, seed + 41) - 0.5) if walls[wall] == HEDGE else 0.0)
                )
                if y < 0.0 or y > top_edge:
                    continue
                opacity = wall_color(
                    walls[wall],
                    s,
                    y,
                    place.wall_params,
                    wall,
                    t * length * step_y / focal,
                    seed + 50 * (wall + 1),
                    over,
                )
                facing = wx * sun_direction[2] - wz * sun_direction[0]
                if (wx * -pz + wz * px) * facing < 0:
                    facing = 0.0
                # Walls are darker where they meet the ground.
                near_ground = 1.0 - 0.35 * np.exp(-y / 0.25)
                for k in range(3):
                    value = over[k] * over[k] * near_ground * (0.75 * sky[k] + 0.8 * sun[k] * abs(facing))
                    out[row, column, k] = out[row, column, k] * (1 - opacity) + value * opacity
                if opacity > 0.99:
                    best = t
