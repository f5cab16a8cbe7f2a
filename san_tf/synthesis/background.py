"""The street behind the people: procedural places seen through a camera's window.

A place is a ground in three strips (paving, road, verge), one or two walls and what lies far away. It is ray
cast for just the window that is needed, so each window shows the right part of the camera's panorama.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from san_tf.synthesis.camera import Camera, Window
from san_tf.synthesis.compiled import compiled
from san_tf.synthesis.light import Light
from san_tf.synthesis.materials import GROUNDS, WALLS, chance, ground_color, joint, noise, wall_color
from san_tf.synthesis.seeds import generator_at


@dataclass(frozen=True)
class Place:
    """Parameters of a procedural street scene.

    Attributes:
        seed: of the noise in its surfaces.
        street: direction of the street on the ground in radians.
        strips: `(2,)` metres across the street where the ground changes.
        grounds: `(3,)` int64, the materials of the strips (index into `GROUNDS`).
        ground_params: `(3, 8)`, see `materials.ground_color`.
        kerbs: `(2,)` albedo of the kerb stones at the strips' edges, 0 for none.
        paint: metres across the street of a painted line, and its RGB.
        walls: `(2,)` int64, materials of the walls (index into `WALLS`).
        wall_planes: `(2, 5)`: a point x, z on the wall, its direction x, z along the ground, its height.
        wall_params: `(2, 8)`, see `materials.wall_color`.
        far: `(2, 3)` RGB of the far trees or houses and of the sky.
        dapple: strength of the shadows that trees and houses throw on the ground, 0..1.
    """

    seed: int
    street: float
    strips: np.ndarray
    grounds: np.ndarray
    ground_params: np.ndarray
    kerbs: np.ndarray
    paint: np.ndarray
    walls: np.ndarray
    wall_planes: np.ndarray
    wall_params: np.ndarray
    far: np.ndarray
    dapple: float


def _ground(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw colours, period and variation of a ground material."""
    grey = rng.uniform(0.22, 0.62)
    tint = 1 + rng.normal(0, 0.035, 3)
    first = grey * tint
    second = np.clip(grey + rng.choice([-1, 1]) * rng.uniform(0.1, 0.2), 0.12, 0.75) * tint
    period, vary = rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.7)
    if kind == "asphalt":
        first = rng.uniform(0.17, 0.42) * tint
    elif kind == "bricks":
        period = rng.uniform(0.2, 0.3)
        if rng.random() < 0.5:
            first, second = np.array([0.46, 0.27, 0.22]) * rng.uniform(0.7, 1.2), np.array([0.5, 0.42, 0.38])
    elif kind == "grass":
        first = np.array([0.2, 0.29, 0.11]) * rng.uniform(0.6, 1.25)
        second = np.array([0.34, 0.34, 0.16]) * rng.uniform(0.6, 1.2)
    elif kind == "gravel":
        first, second = np.array([0.46, 0.4, 0.32]) * rng.uniform(0.7, 1.2), np.array([0.38, 0.35, 0.31])
    elif kind == "zebra":
        first, second, period = rng.uniform(0.2, 0.35) * tint, np.full(3, rng.uniform(0.6, 0.85)), 1.0
    return np.concatenate([first, second, [period, vary]])


def _wall(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw colours, bay width and variation of a wall."""
    grey = rng.uniform(0.25, 0.75)
    first = grey * (1 + rng.normal(0, 0.045, 3))
    second = np.clip(rng.uniform(0.15, 0.7) * (1 + rng.normal(0, 0.13, 3)), 0.03, 0.9)
    if kind == "brick":
        first = np.array([0.48, 0.27, 0.2]) * rng.uniform(0.6, 1.25)
    elif kind == "hedge":
        first = np.array([0.15, 0.24, 0.08]) * rng.uniform(0.6, 1.5)
        second = np.array([0.26, 0.3, 0.12]) * rng.uniform(0.6, 1.4)
    elif kind == "fence":
        first = np.full(3, rng.choice([0.06, 0.3, 0.6])) * (1 + rng.normal(0, 0.06, 3))
    elif kind == "dark":
        first, second = np.full(3, rng.uniform(0.02, 0.06)), np.array([0.5, 0.42, 0.3])
    return np.concatenate([first, np.clip(second, 0, 1), [rng.uniform(1.8, 4.5), rng.uniform(0.3, 1.0)]])


def sample_place(seed: int, camera: Camera) -> Place:
    """Return what a camera of the data set with this seed looks at.

    Args:
        seed: of the data set.
        camera: walls stand behind and beside the ground where its people walk.

    Returns:
        A `Place`; the same arguments give the same one.

    Example:
        >>> camera = sample_camera(0, 0)
        >>> sample_place(0, camera).seed == sample_place(0, camera).seed
        True
    """
    rng = generator_at(seed, "place", camera.camid)
    kinds = rng.choice(len(GROUNDS), 3, p=[0.22, 0.22, 0.17, 0.13, 0.08, 0.05, 0.06, 0.07])
    walls = rng.choice(len(WALLS), 2, p=[0.15, 0.12, 0.1, 0.2, 0.14, 0.09, 0.07, 0.07, 0.06])
    planes = np.zeros((2, 5))
    for wall in range(2):
        # One wall closes the view, the other runs along one side of it.
        side, far_end = rng.choice([-1, 1]), camera.distance[1]
        turn = rng.normal(0, 0.2) if wall == 0 else side * rng.uniform(1.1, 1.6)
        if wall == 0:
            point = (0.0, -far_end * rng.uniform(1.05, 2.2) - 0.5)
        else:
            point = (side * (far_end * camera.half_width + rng.uniform(0.5, 4.0)), -far_end)
        low = WALLS[walls[wall]] in ("hedge", "fence")
        height = rng.uniform(0.9, 2.4) if low else rng.uniform(4.0, 14.0)
        planes[wall] = (*point, np.cos(turn), np.sin(turn), height)
    middle = -np.mean(camera.distance) + rng.uniform(-4, 4)
    greenery = rng.random() < 0.6
    far = (
        np.array([0.15, 0.21, 0.1]) * rng.uniform(0.6, 1.5) if greenery else np.full(3, rng.uniform(0.3, 0.6))
    )
    return Place(
        seed=int(rng.integers(1, 1 << 20)),
        street=float(rng.normal(0, 0.5)),
        strips=np.array([middle - rng.uniform(2, 8), middle + rng.uniform(1, 6)]),
        grounds=kinds.astype(np.int64),
        ground_params=np.stack([_ground(GROUNDS[kind], rng) for kind in kinds]),
        kerbs=np.where(rng.random(2) < 0.6, rng.uniform(0.4, 0.7, 2), 0.0),
        paint=np.array(
            [middle + rng.uniform(-4, 4), *([0.75, 0.74, 0.7] if rng.random() < 0.6 else [0.7, 0.55, 0.15])]
        ),
        walls=walls.astype(np.int64),
        wall_planes=planes,
        wall_params=np.stack([_wall(WALLS[kind], rng) for kind in walls]),
        far=np.stack([far, rng.uniform(0.7, 1.1) * np.array([0.93, 0.97, 1.03])]),
        dapple=float(rng.uniform(0.1, 1.0)),
    )


def is_free(place: Place, x: float, z: float) -> bool:
    """Say whether somebody at (x, z) metres on the ground stands before the walls, seen from the camera."""
    for px, pz, wx, wz, _ in place.wall_planes:
        determinant = x * wz - z * wx
        if abs(determinant) > 1e-9 and 0.0 < (px * wz - pz * wx) / determinant < 1.04:
            return False
    return True


@compiled
def _cast(height, width, left, top, step_x, step_y, focal, turn, lens, street, strips, grounds, ground_params, kerbs,
          paint, walls, planes, wall_params, far, dapple, seed, sun_direction, sun, sky, out):  # type: ignore[no-untyped-def]  # fmt: skip
    """Shade every pixel of the window: nearest of ground and walls, else what is far away."""
    albedo, over = np.zeros(3), np.zeros(3)
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
        height, width, window.left, window.top, window.width / width, window.height / height, camera.focal,
        camera.rotation(), camera.height, place.street, place.strips, place.grounds, place.ground_params,
        place.kerbs, place.paint, place.walls, place.wall_planes, place.wall_params, place.far,
        place.dapple * light.hardness, place.seed, light.direction, light.sun, light.sky, out,
    )  # fmt: skip
    return out
