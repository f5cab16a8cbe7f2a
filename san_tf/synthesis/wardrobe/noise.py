"""Solid value noise in rest-pose space, so it is continuous across UV islands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from san_tf.compiled import compiled

Array = NDArray[np.float32]


# Random values of hashed lattice points; 4096 of them fit into the fastest cache.
_TABLE = np.random.default_rng(0x5A4E).random(4096).astype(np.float32)


@compiled
def _noise(position: Array, scale: Array, seed: int, octaves: int, table: Array) -> Array:
    """Trilinear value noise over octaves, `(N,)` in [0, 1]; `scale` is `(3,)` lattice points per metre."""
    out = np.empty(position.shape[0], np.float32)
    for i in range(position.shape[0]):
        total = np.float32(0)
        weight = np.float32(1)
        mass = np.float32(0)
        fx, fy, fz = position[i, 0] * scale[0], position[i, 1] * scale[1], position[i, 2] * scale[2]
        for octave in range(octaves):
            ix, iy, iz = int(np.floor(fx)), int(np.floor(fy)), int(np.floor(fz))
            tx, ty, tz = fx - np.float32(ix), fy - np.float32(iy), fz - np.float32(iz)
            tx, ty, tz = tx * tx * (3 - 2 * tx), ty * ty * (3 - 2 * ty), tz * tz * (3 - 2 * tz)
            salt = (seed + 101 * octave) * 2654435761
            x0, x1 = ix * 73856093 + salt, (ix + 1) * 73856093 + salt
            y0, y1 = iy * 19349663, (iy + 1) * 19349663
            z0, z1 = iz * 83492791, (iz + 1) * 83492791
            # products wrap around at 64 bits, which is fine for a hash
            a = table[((x0 ^ y0 ^ z0) * 40503 >> 9) & 4095]
            b = table[((x1 ^ y0 ^ z0) * 40503 >> 9) & 4095]
            c = table[((x0 ^ y1 ^ z0) * 40503 >> 9) & 4095]
            d = table[((x1 ^ y1 ^ z0) * 40503 >> 9) & 4095]
            e = table[((x0 ^ y0 ^ z1) * 40503 >> 9) & 4095]
            f = table[((x1 ^ y0 ^ z1) * 40503 >> 9) & 4095]
            g = table[((x0 ^ y1 ^ z1) * 40503 >> 9) & 4095]
            h = table[((x1 ^ y1 ^ z1) * 40503 >> 9) & 4095]
            near = a + tx * (b - a) + ty * ((c + tx * (d - c)) - (a + tx * (b - a)))
            far = e + tx * (f - e) + ty * ((g + tx * (h - g)) - (e + tx * (f - e)))
            total += weight * (near + tz * (far - near))
            mass += weight
            weight *= np.float32(0.5)
            fx, fy, fz = fx * np.float32(2.03), fy * np.float32(2.03), fz * np.float32(2.03)
        out[i] = total / mass
    return out


def solid_noise(
    position: Array, seed: int, period: tuple[float, float, float] | float, octaves: int = 2
) -> Array:
    """Value noise with smooth interpolation, summed over octaves.

    Args:
        position: `(N, 3)` float32 metres.
        seed: `int`. Selects the noise field.
        period: metres between lattice points of the first octave, one number or one per axis. Unequal
            periods stretch the blotches, for instance along folds.
        octaves: `int`. Number of octaves; each halves period and weight.

    Returns:
        `(N,)` float32 in [0, 1], mean about 0.5.
    """
    px, py, pz = (period, period, period) if isinstance(period, float) else period
    scale = np.array([1.0 / px, 1.0 / py, 1.0 / pz], np.float32)
    return np.asarray(_noise(position, scale, int(seed) & 0x7FFFFFFF, octaves, _TABLE), np.float32)


def creases(position: Array, seed: int, period: tuple[float, float, float] | float) -> Array:
    """Ridged noise: thin dark valleys between soft plains, like folds of cloth.

    Args:
        position: `(N, 3)` float32 metres.
        seed: `int`. Selects the noise field.
        period: metres between folds, one number or one per axis.

    Returns:
        `(N,)` float32 in [-1, 1]; negative in valleys.
    """
    ridge = np.abs(2.0 * solid_noise(position, seed, period, 2) - 1.0)
    return np.asarray(np.clip(3.2 * ridge - 0.75, -1.0, 1.0), np.float32)
