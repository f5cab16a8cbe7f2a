"""Places that cameras look at, as parameters; `scene.render_place` draws them.

A place has a ground in three strips (such as paving, road, verge), two walls and a far background.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.synthesis.camera import Camera
from san_tf.synthesis.seeds import generator_at

# Names of the materials; their order is that of the numbers in `street_kernels`.
GROUNDS = ("asphalt", "tiles", "bricks", "slabs", "grass", "gravel", "checker", "zebra")
WALLS = ("plaster", "brick", "office", "shop", "hedge", "fence", "shutter", "stone", "dark")


class Place(NamedTuple):
    """Parameters of a procedural street scene, as `street_kernels.cast` takes them.

    Attributes:
        seed: seed of the noise on its surfaces.
        street: direction of the street on the ground in radians.
        strips: `(2,)` metres across the street where the ground material changes.
        grounds: `(3,)` int64, the materials of the strips (index into `GROUNDS`).
        ground_params: `(3, 8)`, see `street_kernels.ground_color`.
        kerbs: `(2,)` albedo of the kerb stones at the strips' edges, 0 for none.
        paint: metres across the street of a painted line, and its RGB.
        walls: `(2,)` int64, materials of the walls (index into `WALLS`).
        wall_planes: `(2, 5)`: x, z of a point on the wall, x, z of its direction on the ground, its height.
        wall_params: `(2, 8)`, see `street_kernels.wall_color`.
        far: `(2, 3)` RGB of far trees or houses, and of the sky.
        dapple: strength of the shadows of trees and houses on the ground, 0..1.
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
    """Return the place that a camera looks at.

    Args:
        seed: of the data set.
        camera: the camera; walls stand behind and beside the ground where people walk.

    Returns:
        A `Place`; the same arguments give the same place.

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
    """Return whether a point on the ground lies before all walls, seen from the camera.

    Args:
        place: the place.
        x: metres to the right.
        z: metres towards the camera, negative.
    """
    for px, pz, wx, wz, _ in place.wall_planes:
        determinant = x * wz - z * wx
        if abs(determinant) > 1e-9 and 0.0 < (px * wz - pz * wx) / determinant < 1.04:
            return False
    return True
