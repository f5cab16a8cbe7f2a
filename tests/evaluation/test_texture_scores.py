"""Texture scores against naive loops, closed forms, and what the mask must keep out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation.texture_scores import detail, gmsd, lab_distance, ssim

ALL = np.ones((24, 24), bool)


def textures(seed: int, number: int = 2, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, 3)).astype(np.uint8)


def naive_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """One window, channel and texel at a time."""
    reach = np.arange(-5, 6)
    window = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * 1.5**2))
    size, scores = len(mask), []
    for row, column in np.argwhere(mask):
        places = [
            (row + i, column + j, window[i + 5, j + 5]) for i in reach for j in reach
            if 0 <= row + i < size and 0 <= column + j < size and mask[row + i, column + j]
        ]  # fmt: skip
        rows, columns, weights = (np.array(value) for value in zip(*places, strict=True))
        weights = weights / weights.sum()
        for channel in range(3):
            x, y = (t[rows, columns, channel].astype(float) for t in (a, b))
            mx, my = weights @ x, weights @ y
            vx, vy = weights @ (x - mx) ** 2, weights @ (y - my) ** 2
            cov = weights @ ((x - mx) * (y - my))
            c1, c2 = 2.55**2, 7.65**2
            scores.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(scores))


def test_ssim_equals_the_naive_loop():
    rng = np.random.default_rng(0)
    mask = rng.random((16, 16)) < 0.6
    true = textures(1, 2, 16)
    painted = np.clip(true + rng.normal(0, 40, true.shape), 0, 255).astype(np.uint8)
    expected = [naive_ssim(a, b, mask) for a, b in zip(painted, true, strict=True)]
    np.testing.assert_allclose(ssim(painted, true, mask), expected, atol=1e-9)


@given(st.integers(0, 255), st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_plain_textures_have_the_closed_form(first, second):
    a, b = (np.full((1, 24, 24, 3), value, np.uint8) for value in (first, second))
    expected = (2 * first * second + 2.55**2) / (first**2 + second**2 + 2.55**2)
    # Nothing varies, so the second factor is C2 / C2.
    assert ssim(a, b, ALL)[0] == pytest.approx(expected, abs=1e-6)
    assert gmsd(a, b, np.pad(ALL[4:-4, 4:-4], 4))[0] == pytest.approx(0, abs=1e-9)


def test_equal_textures_are_perfect_and_order_does_not_matter():
    one, other = textures(2), textures(3)
    assert ssim(one, one, ALL) == pytest.approx([1, 1])
    assert gmsd(one, one, ALL) == pytest.approx([0, 0])
    assert detail(one, one, ALL) == pytest.approx([1, 1])
    np.testing.assert_allclose(ssim(one, other, ALL), ssim(other, one, ALL), atol=1e-12)
    np.testing.assert_allclose(gmsd(one, other, ALL), gmsd(other, one, ALL), atol=1e-12)
    assert (np.abs(ssim(one, other, ALL)) < 0.1).all()
    np.testing.assert_allclose(detail(one, other, ALL) * detail(other, one, ALL), 1)


def test_gmsd_equals_the_naive_loop():
    a, b = textures(4, 1, 12)[0], textures(5, 1, 12)[0]
    light = [t.astype(float) @ [0.299, 0.587, 0.114] for t in (a, b)]
    half = [
        np.array([[t[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(6)] for i in range(6)])
        for t in light
    ]

    def magnitude(t: np.ndarray, i: int, j: int) -> float:
        patch = t[i - 1 : i + 2, j - 1 : j + 2]
        across = (patch[:, 0].sum() - patch[:, 2].sum()) / 3
        down = (patch[0].sum() - patch[2].sum()) / 3
        return float(np.hypot(across, down))

    similarity, drawn, wanted = [], [], []
    for i in range(1, 5):
        for j in range(1, 5):
            m, n = (magnitude(t, i, j) for t in half)
            similarity.append((2 * m * n + 170) / (m * m + n * n + 170))
            drawn.append(m)
            wanted.append(n)
    mask = np.ones((12, 12), bool)
    assert gmsd(a[None], b[None], mask)[0] == pytest.approx(np.std(similarity))
    assert detail(a[None], b[None], mask)[0] == pytest.approx(np.sum(drawn) / np.sum(wanted))


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_nothing_off_the_mask_matters(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 24), bool)
    mask[3:20, 5:18] = True
    true, painted = textures(seed), textures(seed + 1)
    spoilt = np.where(mask[None, ..., None], painted, rng.integers(0, 256, painted.shape)).astype(np.uint8)
    for score in (ssim, gmsd, detail):
        np.testing.assert_allclose(score(painted, true, mask), score(spoilt, true, mask), atol=1e-9)


def test_blur_loses_detail_and_an_offset_loses_none():
    true = textures(6) // 2
    blurred = np.broadcast_to(true.mean((1, 2), keepdims=True), true.shape).astype(np.uint8)
    assert (detail(blurred, true, ALL) < 0.01).all()
    assert (gmsd(blurred, true, ALL) > 0.1).all() and (ssim(blurred, true, ALL) < 0.2).all()
    lighter = true + np.uint8(60)
    assert gmsd(lighter, true, ALL) == pytest.approx([0, 0], abs=1e-9)
    assert detail(lighter, true, ALL) == pytest.approx([1, 1])
    assert np.isnan(detail(true, np.zeros_like(true), ALL)).all()


def test_what_does_not_fit_is_refused():
    true = textures(7)
    for score in (ssim, gmsd, detail):
        with pytest.raises(UserError, match="must both be"):
            score(true[:1], true, ALL)
        with pytest.raises(UserError, match="must both be"):
            score(true, true, ALL[:-1])
        with pytest.raises(UserError, match="mask is empty"):
            score(true, true, ~ALL)
    speckled = np.zeros_like(ALL)
    speckled[::2, ::2] = True
    with pytest.raises(UserError, match="larger textures"):
        gmsd(true, true, speckled)


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
def test_known_colours_are_as_far_apart_as_a_table_says(first, second, expected):
    assert lab_distance(np.array(first), np.array(second)) == pytest.approx(expected, abs=0.1)
    assert lab_distance(np.array(second, np.uint8), np.array(first)) == pytest.approx(expected, abs=0.1)


def test_many_colours_at_once():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 4, 5, 3))
    together = lab_distance(first, second)
    assert together.shape == (4, 5)
    assert together[2, 3] == pytest.approx(float(lab_distance(first[2, 3], second[2, 3])), abs=1e-3)
    assert lab_distance(first, np.zeros(3)).shape == (4, 5)
