"""Texture scores by view: who is in which view, and what is seen of the body from there."""

from __future__ import annotations

import numpy as np
import pytest

from san_tf.experiments.painting import texture_l1
from san_tf.experiments.stages.texture_generator import color_scores, texture_scores, views
from san_tf.synthesis.generator import pit_index
from san_tf.synthesis.seen_garments import seen_garments
from san_tf.synthesis.texels import texel_map

SIZE = 64


def test_every_image_has_one_direction_and_may_be_occluded_too():
    yaw = np.array([0.0, 60, -60, 61, -119, 120, 180, -175])
    visibility = np.array([1.0, 0.8, 1, 1, 0.5, 1, 1, 0.9])
    found = views(yaw, visibility)
    assert {name: np.flatnonzero(chosen).tolist() for name, chosen in found.items()} == {
        "all": list(range(8)), "front": [0, 1, 2], "side": [3, 4], "back": [5, 6, 7], "occluded": [1, 4],
    }  # fmt: skip


def test_an_error_on_the_back_is_hidden_from_the_front():
    rng = np.random.default_rng(0)
    true = rng.integers(60, 190, (4, SIZE, SIZE, 3)).astype(np.uint8)
    painted = true.copy()
    behind = texel_map(SIZE).normal[..., 2] < 0
    painted[:, behind] += 51
    yaw, visibility = np.array([0.0, 180, 90, -90]), np.ones(4)
    scores = texture_scores(painted, true, {"yaw": yaw, "visibility": visibility})
    assert set(scores) == {"all", "front", "side", "back"}, "nobody is occluded"
    # 51 of 255 is a fifth, wherever the back is.
    assert scores["front"]["l1_seen"] == 0 and scores["front"]["l1_hidden"] == pytest.approx(0.2)
    assert scores["back"]["l1_seen"] == pytest.approx(0.2) and scores["back"]["l1_hidden"] == 0
    for name in ("l1_seen", "l1_hidden"):
        assert 0.05 < scores["side"][name] < 0.15, "a half of each side is on the back"
    assert scores["all"]["pairs"] == 4 and scores["side"]["pairs"] == 2
    assert scores["all"]["l1"] == pytest.approx(texture_l1(painted, true).mean())
    perfect = texture_scores(true, true, {"yaw": yaw, "visibility": visibility})["all"]
    assert perfect == pytest.approx(
        {"pairs": 4, "l1": 0, "l1_seen": 0, "l1_hidden": 0, "ssim": 1, "gmsd": 0, "detail": 1}
    )


def test_the_left_is_seen_at_yaw_ninety():
    true = np.full((2, SIZE, SIZE, 3), 100, np.uint8)
    painted = true.copy()
    painted[:, texel_map(SIZE).normal[..., 0] > 0.3] += 51
    scores = [
        texture_scores(painted[[i]], true[[i]], {"yaw": np.array([yaw]), "visibility": np.ones(1)})["all"]
        for i, yaw in enumerate((90.0, -90.0))
    ]
    assert scores[0]["l1_seen"] == pytest.approx(0.2) and scores[0]["l1_hidden"] == 0
    assert scores[1]["l1_seen"] == 0 and scores[1]["l1_hidden"] == pytest.approx(0.2)


def test_colours_of_garments_by_hand():
    specs = pit_index("smoke", "test")[:3]
    seen = [garment for spec in specs for garment in seen_garments(spec)]
    black = np.zeros((3, 64, 64, 3), np.uint8)
    scores = color_scores(specs, {"painted": black, "white": black + 255})
    assert scores["garments"] == len(seen) > 3
    # The distances from black and from white of lightness L, a, b: hypot(L, a, b) and hypot(100 - L, a, b).
    lab = np.array([rgb_to_lab(garment.color) for garment in seen])
    assert scores["painted"] == pytest.approx(np.linalg.norm(lab, axis=1).mean(), abs=0.1)
    assert scores["white"] == pytest.approx(np.linalg.norm(lab - [100, 0, 0], axis=1).mean(), abs=0.1)
    nothing = color_scores([], {"painted": black[:0]})
    assert nothing["garments"] == 0 and np.isnan(nothing["painted"])


def rgb_to_lab(color: np.ndarray) -> np.ndarray:
    """The formulas of IEC 61966-2-1 and CIE 15, written down once more."""
    shares = color / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.072175],
            [0.0193339, 0.119192, 0.9503041],
        ]
    )
    x, y, z = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29
        for t in to_xyz @ linear / [0.95047, 1, 1.08883]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
