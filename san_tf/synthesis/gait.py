"""How the angles of hip, knee, ankle and trunk go through one gait cycle.

The curves follow normal level walking as gait laboratories report it (Perry and Burnfield, *Gait Analysis*,
2nd ed. 2010; Winter, *Biomechanics and Motor Control of Human Movement*, 4th ed. 2009), sampled at every
tenth of a cycle from one heel strike to the next.
"""

from __future__ import annotations

import numpy as np

# degrees; flexion and dorsiflexion are positive
_HIP = (28.0, 25.0, 17.0, 7.0, -2.0, -9.0, -6.0, 9.0, 22.0, 29.0)
_KNEE = (4.0, 15.0, 17.0, 11.0, 5.0, 9.0, 34.0, 60.0, 53.0, 20.0)
_ANKLE = (0.0, -5.0, 3.0, 7.0, 9.0, 6.0, -14.0, -9.0, 0.0, 2.0)
_TOES = (12.0, 2.0, 0.0, 0.0, 3.0, 20.0, 26.0, 6.0, 4.0, 8.0)


def _cyclic(values: tuple[float, ...], phase: float) -> float:
    """Catmull-Rom interpolation of a closed curve at phase 0..1."""
    n = len(values)
    place = (phase % 1.0) * n
    i, t = int(place) % n, place - int(place)
    a, b, c, d = (values[(i + k) % n] for k in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def leg_angles(phase: float, stride: float = 1.0) -> tuple[float, float, float, float]:
    """Joint angles of one leg, in degrees.

    Args:
        phase: 0..1, 0 at this leg's heel strike.
        stride: Length of the stride relative to a brisk walk, about 0.5..1.2.

    Returns:
        Hip flexion, knee flexion, ankle dorsiflexion, toe extension.

    Example:
        >>> round(leg_angles(0.0)[0])
        28
    """
    middle = float(np.mean(_HIP))
    hip = middle + stride * (_cyclic(_HIP, phase) - middle)
    knee = 5 + (0.4 + 0.6 * stride) * (_cyclic(_KNEE, phase) - 5)
    return hip, knee, stride * _cyclic(_ANKLE, phase), stride * _cyclic(_TOES, phase)
