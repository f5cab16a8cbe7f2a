"""Probes against closed forms, planted knowledge, no knowledge, and a count of places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from san_tf.errors import UserError
from san_tf.experiments.ablation.probe import (
    explained,
    fit_ridge,
    probe_cells,
    probe_places,
    probe_sides,
    ridges,
    split_people,
    with_places,
)

GRID = (4, 2)


def cells(seed: int = 0, images: int = 120, people: int = 24):
    """Images of people whose cells show parts 1 and 2 at a point of the body, or the background."""
    rng = np.random.default_rng(seed)
    part = rng.integers(0, 3, (images, *GRID))
    position = np.where(part[..., None] > 0, rng.normal(0, 1, (images, *GRID, 3)), np.nan)
    return rng, part, position, part > 0, np.arange(images) % people


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 6, 39, 40, 41, 70]), st.integers(1, 3))
def test_ridge_is_scikit_learns_of_standardised_features(seed, dimensions, targets):
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 5, (40, dimensions))
    y = x @ rng.normal(0, 1, (dimensions, targets)) + rng.normal(0, 1, (40, targets))
    strengths = np.array([1e-3, 0.5])
    standard = (x - x.mean(0)) / x.std(0)
    for fitted, strength in zip(ridges(x, y, strengths), strengths, strict=True):
        expected = SklearnRidge(alpha=strength * len(x)).fit(standard, y)
        np.testing.assert_allclose(fitted.predict(x), expected.predict(standard).reshape(y.shape), atol=1e-8)


def test_the_strength_is_chosen_for_people_who_are_left_out():
    rng = np.random.default_rng(0)
    # One target a person, one feature that knows it, 199 that tell people apart: these are learnt by heart.
    pids = np.repeat(np.arange(30), 10)
    target = rng.normal(0, 1, (30, 1))[pids]
    x = np.hstack([target + rng.normal(0, 0.5, (300, 1)), rng.normal(0, 1, (300, 199))[pids % 30]])
    chosen = fit_ridge(x, target, pids)
    fresh_target = rng.normal(0, 1, (400, 1))
    fresh = np.hstack([fresh_target + rng.normal(0, 0.5, (400, 1)), rng.normal(0, 1, (400, 199))])
    weakest = ridges(x, target, np.array([1e-6]))[0]
    assert explained(chosen.predict(fresh), fresh_target) > explained(weakest.predict(fresh), fresh_target)
    with pytest.raises(UserError, match="at least two people"):
        fit_ridge(x[:10], target[:10], pids[:10])


def test_r2_by_hand():
    true = np.array([[0.0, 10], [2, 10]])
    assert explained(true, true) == 1
    assert explained(np.array([[1.0, 10], [1, 10]]), true) == 0, "the mean explains nothing"
    assert explained(np.array([[0.0, 10], [1, 10]]), true) == pytest.approx(1 - 1 / 2)


def test_what_was_planted_is_found_and_noise_is_not():
    rng, part, position, on_body, pids = cells()
    learning = split_people(pids)
    one_hot = np.eye(3)[part]
    planted = np.concatenate([one_hot, np.nan_to_num(position)], -1).astype(np.float32)
    scores, predicted = probe_cells(planted, part, position, on_body, pids, learning)
    assert scores.accuracy == scores.body_accuracy == scores.body_recall == 1
    assert scores.point_r2 > 0.999 and scores.depth_r2 > 0.999 and scores.point_error < 0.02
    np.testing.assert_array_equal(predicted, part)
    noise = rng.normal(0, 1, (*part.shape, 6)).astype(np.float32)
    scores, _ = probe_cells(noise, part, position, on_body, pids, learning)
    assert scores.accuracy < 0.45 and 0.35 < scores.body_accuracy < 0.65
    assert scores.point_r2 < 0.05 and scores.point_error > 1


def test_one_axis_alone_is_one_axis_alone():
    _, part, position, on_body, pids = cells()
    depth = np.nan_to_num(position[..., 2:]).astype(np.float32)
    scores, _ = probe_cells(depth, part, position, on_body, pids, split_people(pids))
    assert scores.depth_r2 > 0.999 and scores.side_r2 < 0.05 and scores.height_r2 < 0.05
    assert 0.2 < scores.point_r2 < 0.45, "one of three axes of equal variance"


def test_places_answer_with_what_is_there_most_often():
    part = np.zeros((6, 1, 2), int)
    # At the left part 1 in two of three, at the right nothing, and the fourth to sixth image are tested.
    part[[0, 1], 0, 0] = 1
    part[2, 0, 0] = 2
    part[3:, 0, 0] = [1, 1, 2]
    part[3, 0, 1] = 1
    position = np.full((6, 1, 2, 3), np.nan)
    position[part > 0] = np.arange(7)[:, None] * [1.0, 0, 0]
    learning = np.arange(6) < 3
    scores, predicted = probe_places(part, position, part > 0, learning)
    assert predicted.tolist() == [[[1, 0]]] * 6
    assert scores.accuracy == pytest.approx(4 / 6)  # wrong: the part 2, and the part 1 at the right
    # On the body, where a part must be named: three of four; at the right none was seen, so the first.
    assert scores.body_accuracy == pytest.approx(3 / 4)
    assert scores.body_recall == pytest.approx((3 / 3 + 0 / 1) / 2)
    # Points learnt at the left: 0, 1, 2, so 1; nothing at the right, so the mean over all places, 1 too.
    assert scores.point_error == pytest.approx(np.abs(np.array([3, 4, 5, 6]) - 1).mean())


def test_places_are_the_regressions_on_the_place_and_add_to_features():
    rng = np.random.default_rng(1)
    # What is seen depends on the place, and on chance.
    favourite = rng.integers(0, 3, GRID)
    part = np.where(rng.random((300, *GRID)) < 0.6, favourite, rng.integers(0, 3, (300, *GRID)))
    position = np.where(part[..., None] > 0, rng.normal(0, 1, (300, *GRID, 3)), np.nan)
    pids, learning = np.arange(300) % 30, split_people(np.arange(300) % 30)
    count, _ = probe_places(part, position, part > 0, learning)
    one_hot = np.broadcast_to(np.eye(8).reshape(1, *GRID, 8), (300, *GRID, 8)).astype(np.float32)
    learnt, _ = probe_cells(one_hot, part, position, part > 0, pids, learning)
    assert learnt.accuracy == pytest.approx(count.accuracy, abs=0.01)
    assert learnt.point_r2 == pytest.approx(count.point_r2, abs=0.02)
    nothing = rng.normal(0, 1, (300, *GRID, 2)).astype(np.float32)
    placed = with_places(nothing)
    np.testing.assert_array_equal(placed[..., :2], nothing)
    np.testing.assert_array_equal(placed[..., 2:], one_hot)
    both, _ = probe_cells(placed, part, position, part > 0, pids, learning)
    alone, _ = probe_cells(nothing, part, position, part > 0, pids, learning)
    assert both.accuracy == pytest.approx(count.accuracy, abs=0.02) and alone.accuracy < both.accuracy - 0.1


def test_people_are_on_one_side_each():
    pids = np.repeat([5, 9, 11, 40, 41], 7)
    learning = split_people(pids)
    assert set(pids[learning]).isdisjoint(pids[~learning])
    assert len(set(pids[learning])) == 2
    np.testing.assert_array_equal(learning, split_people(pids))
    with pytest.raises(UserError, match="at least four people"):
        split_people(np.array([1, 2, 3, 3]))


def test_an_embedding_of_the_seen_side_does_not_know_the_other():
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(60), 6)
    front, back = (rng.normal(0, 1, (60, 3))[pids] for _ in range(2))
    yaw = np.tile([0, 20, -40, 180, 160, -130], 60)
    turned = (np.abs(yaw) > 90)[:, None]
    seen, unseen = np.where(turned, back, front), np.where(turned, front, back)
    learning = split_people(pids)
    scores = probe_sides(seen, front, back, yaw, pids, learning)
    assert scores.seen_r2 > 0.999 and scores.unseen_r2 < 0.1 and scores.copied_r2 < 0.1
    assert probe_sides(np.hstack([seen, unseen]), front, back, yaw, pids, learning).unseen_r2 > 0.999
    # Clothes that are alike on both sides can be copied.
    assert probe_sides(seen, seen, seen, yaw, pids, learning).copied_r2 > 0.999
    with pytest.raises(UserError, match="front or back"):
        probe_sides(seen, front, back, np.full(360, 90), pids, learning)


def test_labels_of_another_map_and_empty_sides_are_refused():
    _, part, position, on_body, pids = cells()
    learning = split_people(pids)
    with pytest.raises(UserError, match="do not fit features"):
        probe_cells(np.zeros((120, 2, 2, 3), np.float32), part, position, on_body, pids, learning)
    with pytest.raises(UserError, match="cells on the body"):
        probe_places(part, position, on_body & learning[:, None, None], learning)
