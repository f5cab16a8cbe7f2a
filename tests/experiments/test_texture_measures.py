"""Texture scores by view: who is in which view, and what is seen of the body from there."""

from __future__ import annotations

import numpy as np
import pytest

from san_tf.experiments.texture_generator import texture_l1
from san_tf.experiments.texture_measures import texture_scores, views
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
