from __future__ import annotations

import numpy as np
import pytest

from san_tf.evaluation.color_difference import lab_distance

# sRGB primaries in CIELAB under D65, from any colour table.
RED, WHITE, BLUE = np.array([53.24, 80.09, 67.20]), np.array([100.0, 0, 0]), np.array([32.30, 79.19, -107.86])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 0), (255, 255, 255), 100),
        ((255, 0, 0), (255, 255, 255), np.linalg.norm(RED - WHITE)),
        ((0, 0, 255), (255, 0, 0), np.linalg.norm(BLUE - RED)),
        ((17, 130, 80), (17, 130, 80), 0),
    ],
)
def test_known_colours(first, second, expected):
    assert lab_distance(np.array(first), np.array(second)) == pytest.approx(expected, abs=0.1)
    assert lab_distance(np.array(second, np.uint8), np.array(first)) == pytest.approx(expected, abs=0.1)


def test_many_at_once():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 4, 5, 3))
    together = lab_distance(first, second)
    assert together.shape == (4, 5)
    assert together[2, 3] == pytest.approx(float(lab_distance(first[2, 3], second[2, 3])), abs=1e-3)
    assert lab_distance(first, np.zeros(3)).shape == (4, 5)
