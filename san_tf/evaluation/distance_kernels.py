"""The distance that ranks are told by: of two rows, term by term, in float64."""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled


@compiled
def direct_distance(first: np.ndarray, second: np.ndarray, cosine: bool) -> float:
    """Return the distance of two rows in float64: squared Euclidean, or 1 - inner product.

    Eight sums side by side, always in this order: they fill a vector register, and the same rows give the
    same bits wherever the function is used.
    """
    s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    size = len(first)
    whole = size - size % 8
    if cosine:
        for k in range(0, whole, 8):
            s0 += np.float64(first[k]) * np.float64(second[k])
            s1 += np.float64(first[k + 1]) * np.float64(second[k + 1])
            s2 += np.float64(first[k + 2]) * np.float64(second[k + 2])
            s3 += np.float64(first[k + 3]) * np.float64(second[k + 3])
            s4 += np.float64(first[k + 4]) * np.float64(second[k + 4])
            s5 += np.float64(first[k + 5]) * np.float64(second[k + 5])
            s6 += np.float64(first[k + 6]) * np.float64(second[k + 6])
            s7 += np.float64(first[k + 7]) * np.float64(second[k + 7])
        for k in range(whole, size):
            s0 += np.float64(first[k]) * np.float64(second[k])
        return 1.0 - (((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)))
    for k in range(0, whole, 8):
        d0 = np.float64(first[k]) - np.float64(second[k])
        d1 = np.float64(first[k + 1]) - np.float64(second[k + 1])
        d2 = np.float64(first[k + 2]) - np.float64(second[k + 2])
        d3 = np.float64(first[k + 3]) - np.float64(second[k + 3])
        d4 = np.float64(first[k + 4]) - np.float64(second[k + 4])
        d5 = np.float64(first[k + 5]) - np.float64(second[k + 5])
        d6 = np.float64(first[k + 6]) - np.float64(second[k + 6])
        d7 = np.float64(first[k + 7]) - np.float64(second[k + 7])
        s0 += d0 * d0
        s1 += d1 * d1
        s2 += d2 * d2
        s3 += d3 * d3
        s4 += d4 * d4
        s5 += d5 * d5
        s6 += d6 * d6
        s7 += d7 * d7
    for k in range(whole, size):
        d0 = np.float64(first[k]) - np.float64(second[k])
        s0 += d0 * d0
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
