"""mAP under conditions against hand arithmetic and a loop that drops every other match from the ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation.conditions import CONDITIONS, Seen, by_condition, yaw_difference
from san_tf.evaluation.ranking import evaluate_ranking, rank_matches, score_matches


def seen(rng: np.random.Generator, number: int) -> Seen:
    return Seen(rng.uniform(-180, 180, number), rng.integers(0, 4, number), rng.uniform(0.5, 1, number))


def test_by_hand():
    # One query of person 1 that faces the camera. By distance: 1 from behind, 2, 1 facing, 2, 1 from behind.
    query, gallery = np.zeros((1, 1)), np.array([[1.0], [2], [3], [4], [5]])
    pids = np.array([1, 2, 1, 2, 1])
    ranked = rank_matches(query, np.array([1]), np.array([0]), gallery, pids, np.ones(5, int))
    facing = Seen(np.array([0.0]), np.array([0]), np.array([1.0]))
    others = Seen(np.array([180.0, 0, 10, 0, -170]), np.zeros(5, int), np.array([1.0, 1, 0.5, 1, 1]))
    results = by_condition(ranked, facing, others)
    # Opposite: right, wrong, (removed), wrong, right: (1/1 + 2/4) / 2.
    assert results["opposite sides"].mAP == pytest.approx((1 + 2 / 4) / 2)
    assert results["opposite sides"].rank1 == 1
    assert results["opposite sides"].mINP == pytest.approx(2 / 4)
    # Same side: (removed), wrong, right: 1/2.
    assert results["same side"].mAP == pytest.approx(1 / 2)
    assert results["same side"].first_ranks.tolist() == [2]
    assert results["quarter turn"] is None
    assert results["same pose"].mAP == pytest.approx((1 + 2 / 3 + 3 / 5) / 3) == score_matches(ranked).mAP
    # The match that faces the camera is half hidden.
    assert results["one occluded"].mAP == pytest.approx(1 / 2)
    assert results["both whole"].mAP == pytest.approx((1 + 2 / 4) / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 60), st.integers(1, 4))
def test_equals_removing_the_other_matches_one_query_at_a_time(seed, queries, images, people):
    rng = np.random.default_rng(seed)
    # Whole numbers of few values: exact distances, many of them tied.
    q, g = rng.integers(0, 3, (queries, 2)).astype(float), rng.integers(0, 3, (images, 2)).astype(float)
    q_pids, g_pids = rng.integers(1, people + 1, queries), rng.integers(-1, people + 1, images)
    q_camids, g_camids = rng.integers(0, 2, queries), rng.integers(0, 2, images)
    q_seen, g_seen = seen(rng, queries), seen(rng, images)
    results = by_condition(rank_matches(q, q_pids, q_camids, g, g_pids, g_camids), q_seen, g_seen)
    for name, holds in CONDITIONS.items():
        precisions = np.full(queries, np.nan)
        for i in range(queries):
            kept = []
            for j in range(images):
                fits = bool(holds(q_seen.at(np.array([i])), g_seen.at(np.array([j])))[0])
                if g_pids[j] != q_pids[i] or (g_camids[j] != q_camids[i] and fits):
                    kept.append(j)
            if not any(g_pids[j] == q_pids[i] for j in kept):
                continue
            alone = evaluate_ranking(
                q[[i]], q_pids[[i]], q_camids[[i]], g[kept], g_pids[kept], g_camids[kept]
            )
            precisions[i] = alone.mAP
        if np.isnan(precisions).all():
            assert results[name] is None
            continue
        np.testing.assert_allclose(results[name].average_precisions, precisions, atol=1e-12)
        assert results[name].num_valid == np.isfinite(precisions).sum()
        assert results[name].num_queries == queries


@given(st.floats(-720, 720), st.floats(-720, 720))
def test_a_difference_of_directions_is_the_short_way_round(first, second):
    difference = float(yaw_difference(np.array(first), np.array(second)))
    assert 0 <= difference <= 180
    angle = np.deg2rad(first - second)
    assert np.cos(np.deg2rad(difference)) == pytest.approx(np.cos(angle), abs=1e-6)


def test_every_pair_has_one_turn_and_one_pose_condition():
    rng = np.random.default_rng(0)
    query, match = seen(rng, 2000), seen(rng, 2000)
    turns = [CONDITIONS[name](query, match) for name in ("same side", "quarter turn", "opposite sides")]
    assert (np.sum(turns, axis=0) == 1).all()
    assert (CONDITIONS["same pose"](query, match) ^ CONDITIONS["different pose"](query, match)).all()
    assert not (CONDITIONS["both whole"](query, match) & CONDITIONS["one occluded"](query, match)).any()


def test_what_is_missing_or_does_not_fit_is_named():
    with pytest.raises(UserError, match="the column pose"):
        Seen.of({"yaw": np.zeros(2), "visibility": np.ones(2)})
    ranked = rank_matches(np.zeros((2, 1)), [1, 2], [0, 0], np.ones((3, 1)), [1, 2, 1], [1, 1, 1])
    two, three = (Seen(np.zeros(n), np.zeros(n), np.ones(n)) for n in (2, 3))
    assert by_condition(ranked, two, three)["same side"].num_valid == 2
    with pytest.raises(UserError, match="yaw of the gallery images"):
        by_condition(ranked, two, two)
    with pytest.raises(UserError, match="yaw of the query images"):
        by_condition(ranked, three, three)
