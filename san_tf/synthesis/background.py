"""The street behind the people: procedural places seen through a camera's window.

A place is ray cast for just the window that is needed, so each window shows the right part of the camera's
panorama.
"""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.camera import Camera, Window
from san_tf.synthesis.compiled import compiled
from san_tf.synthesis.light import Light
from san_tf.synthesis.materials import chance, ground_color, joint, noise, wall_color
from san_tf.synthesis.places import Place


@compiled
def _cast(
    height: int,
    width: int,
    window: np.ndarray,
    focal: float,
    turn: np.ndarray,
    lens: float,
    street: float,
    strips: np.ndarray,
    grounds: np.ndarray,
    ground_params: np.ndarray,
    kerbs: np.ndarray,
    paint: np.ndarray,
    walls: np.ndarray,
    planes: np.ndarray,
    wall_params: np.ndarray,
    far: np.ndarray,
    dapple: float,
    seed: int,
    sun_direction: np.ndarray,
    sun: np.ndarray,
    sky: np.ndarray,
    out: np.ndarray,
) -> None:
    """Shade every pixel of the window: nearest of ground and walls, else what is far away."""
    albedo, over = np.zeros(3), np.zeros(3)
    left, top, step_x, step_y = window[0], window[1], window[2] / width, window[3] / height
    cos_s, sin_s = np.cos(street), np.sin(street)
    for row in range(height):
        for column in range(width):
            u, v = left + (column + 0.5) * step_x, top + (row + 0.5) * step_y
            # Rows of `turn` map world to camera; its transpose brings the ray into the world.
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
                    grounds[strip], along, across, ground_params, strip, footprint, seed + strip, albedo
                )
                for edge in range(2):
                    if kerbs[edge] > 0:
                        offset = across - strips[edge]
                        stone = joint(offset, 1e6, 0.16, footprint)
                        gap = joint(offset - 0.1, 1e6, 0.05, footprint)
                        level = (
                            kerbs[edge]
                            * (1 + 0.5 * grain_at(along, seed))
                            * (1 - 0.3 * joint(along, 0.9, 0.02, footprint))
                        )
                        for k in range(3):
                            albedo[k] = (albedo[k] * (1 - stone) + level * stone) * (1 - 0.5 * gap)
                line = 0.8 * joint(across - paint[0], 1e6, 0.1, footprint) if grounds[strip] == 0 else 0.0
                shade = 1.0
                if dapple > 0:
                    spot = 0.65 * noise(x / 2.2, z / 2.2, seed + 21) + 0.35 * noise(
                        x / 0.7, z / 0.7, seed + 22
                    )
                    shade = 1.0 - dapple * min(1.0, max(0.0, (spot - 0.5) * 7.0))
                for k in range(3):
                    color = albedo[k] * (1 - line) + paint[1 + k] * line
                    # Colours are written down as they look; squaring brings them close to linear light.
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
                # Ray (dx, dz) t = point + s * direction.
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
                    1.0 + (0.12 * (noise(s / 0.4, 0.5, seed + 41) - 0.5) if walls[wall] == 4 else 0.0)
                )
                if y < 0.0 or y > top_edge:
                    continue
                opacity = wall_color(
                    walls[wall],
                    s,
                    y,
                    wall_params,
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


@compiled
def grain_at(along: float, seed: int) -> float:
    """Vary the brightness from one kerb stone to the next, in [-0.5, 0.5]."""
    return chance(int(np.floor(along / 0.9)), 5, seed) - 0.5


def render_place(
    place: Place, camera: Camera, window: Window, light: Light, size: tuple[int, int]
) -> np.ndarray:
    """Draw the empty street in a window of the camera's frame.

    Args:
        place: what stands there.
        camera: where the camera hangs.
        window: the part of the frame to draw.
        light: sun and sky.
        size: (height, width) of the result in pixels.

    Returns:
        `(height, width, 3)` float32 RGB in linear light; 1 is a white surface in full light.
    """
    height, width = size
    out = np.zeros((height, width, 3), np.float32)
    _cast(
        height, width, np.array([window.left, window.top, window.width, window.height]), camera.focal,
        camera.rotation(), camera.height, place.street, place.strips, place.grounds, place.ground_params,
        place.kerbs, place.paint, place.walls, place.wall_planes, place.wall_params, place.far,
        place.dapple * light.hardness, place.seed, light.direction, light.sun, light.sky, out,
    )  # fmt: skip
    return out
