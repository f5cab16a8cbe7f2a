"""Intervals and tests against what statistics knows: normal theory, exact enumeration, coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.ranking import evaluate_ranking
from san_tf.evaluation.significance import as_dict, compare, confidence_intervals


def scores(values) -> QueryScores:
    values = np.asarray(values, float)
    return QueryScores((values > 0.5).astype(float), values, values**2)


def test_scores_are_those_behind_the_means():
    rng = np.random.default_rng(0)
    result = evaluate_ranking(
        rng.standard_normal((20, 3)), np.arange(20) % 6, np.zeros(20), rng.standard_normal((50, 3)),
        np.arange(50) % 5, np.ones(50),
    )  # fmt: skip
    per_query = QueryScores.of(result)
    assert per_query.valid().sum() == result.num_valid < 20
    for name, mean in (("rank1", result.rank1), ("mAP", result.mAP), ("mINP", result.mINP)):
        assert np.nanmean(getattr(per_query, name)) == pytest.approx(mean)
        assert np.isnan(getattr(per_query, name)).sum() == 20 - result.num_valid


def test_independent_queries_have_the_interval_of_normal_theory():
    rng = np.random.default_rng(0)
    values = rng.beta(2, 1, 900)
    interval = confidence_intervals(scores(values), np.arange(900), resamples=20_000)["mAP"]
    error = 1.96 * values.std() / np.sqrt(900)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - error, abs=0.05 * error)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.05 * error)
    narrow = confidence_intervals(scores(values), np.arange(900), resamples=20_000, level=0.5)["mAP"]
    # 0.674 standard errors for half of the mass.
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * error / 1.96, rel=0.05)


def test_whole_identities_make_the_interval_as_wide_as_their_number_asks():
    rng = np.random.default_rng(1)
    # 9 queries an identity that all get the same: 100 independent observations, not 900.
    by_person = rng.beta(2, 1, 100)
    values, pids = np.repeat(by_person, 9), np.repeat(np.arange(100), 9)
    query = confidence_intervals(scores(values), pids, resamples=5000)["mAP"]
    identity = confidence_intervals(scores(values), pids, resamples=5000, unit="identity")["mAP"]
    assert (identity.high - identity.low) / (query.high - query.low) == pytest.approx(3, rel=0.1)
    # One query an identity: the same thing.
    alone = confidence_intervals(scores(by_person), np.arange(100), unit="identity", seed=3)
    assert alone == confidence_intervals(scores(by_person), np.arange(100), unit="query", seed=3)


@pytest.mark.parametrize("unit", ["query", "identity"])
def test_intervals_cover_the_truth_as_often_as_they_say(unit):
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        skill = rng.uniform(0.2, 0.8, 60)
        values = np.clip(np.repeat(skill, 4) + rng.uniform(-0.2, 0.2, 240), 0, 1)
        pids = np.repeat(np.arange(60), 4)
        interval = confidence_intervals(scores(values), pids, 400, 0.9, unit, seed)["mAP"]
        covered += interval.low <= 0.5 <= interval.high
    # Drawing queries pretends to 240 observations where there are about 60, and covers too rarely.
    assert covered / 200 < 0.75 if unit == "query" else 0.84 <= covered / 200 <= 0.96


def test_queries_without_a_match_change_nothing():
    values = np.linspace(0, 1, 50)
    holes = np.concatenate([[np.nan], values, [np.nan]])
    whole = confidence_intervals(scores(values), np.arange(50))["mAP"]
    with_holes = QueryScores(*(np.where(np.isnan(holes), np.nan, s) for s in (holes, holes, holes)))
    assert confidence_intervals(with_holes, np.arange(52))["mAP"] == whole


def test_few_queries_are_enumerated():
    first, second = np.array([0.9, 0.7, 0.8, 0.4, 0.6]), np.array([0.5, 0.6, 0.7, 0.5, 0.2])
    got = compare(scores(first), scores(second), np.arange(5))["mAP"]
    difference = first - second  # .4 .1 .1 -.1 .4
    as_large = [
        abs(np.dot(signs, difference)) >= abs(difference.sum()) - 1e-12
        for signs in itertools.product([1, -1], repeat=5)
    ]
    assert got.p_value == pytest.approx(np.mean(as_large))
    assert got.mean == pytest.approx(difference.mean())
    assert got.low <= got.mean <= got.high


def test_a_difference_that_is_there_is_found_and_chance_is_not():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.8, 400)
    noise = rng.normal(0, 0.1, 400)
    better = compare(scores(base + 0.05 + noise), scores(base), np.arange(400))["mAP"]
    assert better.low > 0
    assert better.p_value == pytest.approx(1 / 2001)
    worse = compare(scores(base), scores(base + 0.05 + noise), np.arange(400))["mAP"]
    assert (worse.mean, worse.p_value) == (pytest.approx(-better.mean), better.p_value)
    assert compare(scores(base), scores(base), np.arange(400))["mAP"].p_value == 1.0
    # Under no difference, p is uniform: below 0.1 in one run of ten.
    below = []
    for _ in range(150):
        first, second = (scores(base + rng.normal(0, 0.1, 400)) for _ in range(2))
        below.append(compare(first, second, np.arange(400), 200)["mAP"].p_value < 0.1)
    assert 0.04 <= np.mean(below) <= 0.17


def test_identities_that_move_together_are_one_piece_of_evidence():
    # All of the difference comes from 3 people with 30 queries each.
    difference = np.repeat([0.1, 0.1, 0.1], 30)
    pids = np.repeat([1, 2, 3], 30)
    base = np.full(90, 0.5)
    query = compare(scores(base + difference), scores(base), pids)["mAP"]
    identity = compare(scores(base + difference), scores(base), pids, unit="identity")["mAP"]
    assert query.p_value < 0.001
    assert identity.p_value == pytest.approx(2 / 8)  # all + or all -, of 2^3


def test_as_json():
    interval = confidence_intervals(scores(np.linspace(0, 1, 20)), np.arange(20))
    assert set(as_dict(interval)) == {"rank1", "mAP", "mINP"}
    assert set(as_dict(interval)["mAP"]) == {"mean", "low", "high"}


def test_mistakes_are_named():
    good, pids = scores(np.linspace(0, 1, 20)), np.arange(20)
    with pytest.raises(UserError, match="resamples is 10"):
        confidence_intervals(good, pids, resamples=10)
    with pytest.raises(UserError, match="level is 95"):
        confidence_intervals(good, pids, level=95)
    with pytest.raises(UserError, match="no unit 'camera'; choose one of: query, identity"):
        confidence_intervals(good, pids, unit="camera")
    with pytest.raises(UserError, match="have 20 and 5"):
        compare(good, scores(np.zeros(5)), pids)
    holes = good.mAP.copy()
    holes[3] = np.nan
    with pytest.raises(UserError, match="a true match in only one of the two runs"):
        compare(good, scores(holes), pids)
