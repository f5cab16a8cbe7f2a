"""Solid value noise: the same in every UV island because it lives in rest-pose space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from san_tf.synthesis.compiled import compiled

Array = NDArray[np.float32]


@compiled
def _lattice(x: int, y: int, z: int, seed: int) -> float:
    """Hash of an integer lattice point to [0, 1)."""
    h = (x * 374761393 + y * 668265263 + z * 2147483647 + seed * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return (h ^ (h >> 15)) / 4294967296.0


@compiled
def _noise(position: Array, sx: float, sy: float, sz: float, seed: int, octaves: int) -> Array:
    out = np.empty(position.shape[0], np.float32)
    for i in range(position.shape[0]):
        total = 0.0
        weight = 1.0
        mass = 0.0
        fx, fy, fz = position[i, 0] * sx, position[i, 1] * sy, position[i, 2] * sz
        for o in range(octaves):
            ix, iy, iz = int(np.floor(fx)), int(np.floor(fy)), int(np.floor(fz))
            tx, ty, tz = fx - ix, fy - iy, fz - iz
            tx, ty, tz = tx * tx * (3 - 2 * tx), ty * ty * (3 - 2 * ty), tz * tz * (3 - 2 * tz)
            value = 0.0
            for corner in range(8):
                cx, cy, cz = corner & 1, (corner >> 1) & 1, corner >> 2
                w = (tx if cx else 1 - tx) * (ty if cy else 1 - ty) * (tz if cz else 1 - tz)
                value += w * _lattice(ix + cx, iy + cy, iz + cz, seed + 101 * o)
            total += weight * value
            mass += weight
            weight *= 0.5
            fx, fy, fz = fx * 2.03, fy * 2.03, fz * 2.03
        out[i] = total / mass
    return out


def solid_noise(
    position: Array, seed: int, period: tuple[float, float, float] | float, octaves: int = 2
) -> Array:
    """Value noise with smooth interpolation, summed over octaves.

    Args:
        position: `(N, 3)` float32 metres.
        seed: `int`. Which of the noise fields.
        period: metres between lattice points of the first octave, one number or one an axis. Unequal periods
            stretch the blotches, as cloth does along its folds.
        octaves: `int`. Each halves the period and the weight.

    Returns:
        `(N,)` float32 in [0, 1], mean about 0.5.
    """
    px, py, pz = (period, period, period) if isinstance(period, float) else period
    return _noise(position, 1.0 / px, 1.0 / py, 1.0 / pz, int(seed) & 0x7FFFFFFF, octaves)


def creases(position: Array, seed: int, period: tuple[float, float, float] | float) -> Array:
    """Ridged noise: thin dark valleys between soft plains, like folds of cloth.

    Args:
        position: `(N, 3)` float32 metres.
        seed: `int`. Which of the noise fields.
        period: metres between folds, one number or one an axis.

    Returns:
        `(N,)` float32 in [-1, 1]; negative in valleys.
    """
    ridge = np.abs(2.0 * solid_noise(position, seed, period, 2) - 1.0)
    return np.asarray(np.clip(3.2 * ridge - 0.75, -1.0, 1.0), np.float32)
