"""Painted collages and covers; photographs as backgrounds are tested with scenes."""

from __future__ import annotations

import numpy as np
import pytest

from san_tf.synthesis.backdrops import paint_collage, paint_cover

SIZE = (96, 48)


def test_collages_repeat_differ_and_are_light() -> None:
    first = paint_collage(SIZE, np.random.default_rng(3))
    assert first.shape == (*SIZE, 3) and first.dtype == np.float32
    np.testing.assert_array_equal(first, paint_collage(SIZE, np.random.default_rng(3)))
    collages = np.stack([paint_collage(SIZE, np.random.default_rng(seed)) for seed in range(60)])
    assert collages.min() >= 0 and collages.max() <= 1
    means = collages.mean((1, 2, 3))
    assert means.std() > 0.1, "all collages are equally bright"
    # Edges and grain: the median deviates by a third of its mean, and none is a flat colour.
    relative = collages.mean(3).std((1, 2)) / means
    assert np.median(relative) > 0.3 and relative.min() > 0.05
    # Mostly grey, now and then of a strong colour.
    saturation = (collages.max(3) - collages.min(3)).mean((1, 2))
    assert np.median(saturation) < 0.12 < saturation.max()


def test_a_cover_hides_what_its_opacity_says_and_nothing_else() -> None:
    shares = []
    for seed in range(60):
        canvas = np.full((*SIZE, 3), 0.3, np.float32)
        alpha = paint_cover(canvas, 0.3, np.random.default_rng(seed))
        assert alpha.shape == SIZE and alpha.min() >= 0 and alpha.max() <= 1 + 1e-6
        np.testing.assert_allclose(canvas[alpha == 0], 0.3, rtol=1e-6)
        hidden = np.abs(canvas - 0.3).max(2) > 1e-4
        assert not (hidden & (alpha == 0)).any()
        shares.append(float(alpha.mean()))
    assert np.mean(shares) == pytest.approx(0.17, abs=0.08) and max(shares) < 0.6
