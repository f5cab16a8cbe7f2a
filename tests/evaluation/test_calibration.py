"""Calibration against distributions whose likelihood ratio is known, scikit-learn, and hand arithmetic."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.calibration_fit import fit_calibration, isotonic, platt, reliability
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.operating_points import far_upper_bound, operating_point
from san_tf.evaluation.protocols import features_distances
from san_tf.evaluation.roc import RocCurve


def gaussian_pairs(seed: int, people: int = 60):
    """A matrix of distances: same person N(1, 1/2), else N(2, 1/2), so that the log ratio is 6 - 4 d."""
    # log N(d; 1, s) / N(d; 2, s) = ((d - 2)^2 - (d - 1)^2) / (2 s^2) = (3 - 2 d) / (2 s^2), s^2 = 1/4
    rng = np.random.default_rng(seed)
    query = FeatureSet(np.zeros((people * 3, 1)), np.repeat(np.arange(people), 3), np.zeros(people * 3, int))
    gallery = FeatureSet(np.zeros((people * 6, 1)), np.repeat(np.arange(people), 6), np.ones(people * 6, int))
    matrix = rng.normal(2 - (query.pids[:, None] == gallery.pids), 0.5)
    return (lambda: [(0, matrix)]), query, gallery


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_known_likelihood_ratio_is_found(method, prior):
    fitted = fit_calibration(*gaussian_pairs(0, 150), "euclidean", False, method, prior)
    where = np.linspace(0.9, 2.1, 13)
    np.testing.assert_allclose(fitted.log_ratio(where), 6 - 4 * where, atol=0.6)
    # 1.5 is as likely of either: the probability there is the prior's.
    assert fitted.probability(1.5, 0.2) == pytest.approx(0.2, abs=0.05)
    assert fitted.probability(1.5) == fitted.probability(1.5, prior)
    assert (np.diff(fitted.probability(np.linspace(-2, 5, 100))) <= 0).all()
    assert (fitted.num_same, fitted.num_different) == (150 * 18, 150 * 3 * 149 * 6)


def test_probabilities_keep_their_word_on_other_people():
    fitted = fit_calibration(*gaussian_pairs(0, 150), "euclidean", False)
    for prior in (0.5, 0.01):
        kept = reliability(fitted, *gaussian_pairs(1, 150), prior=prior)
        assert kept.ece < 0.02
        assert kept.weight.sum() == pytest.approx(1)
        assert kept.pairs.sum() == fitted.num_same + fitted.num_different
    # Too sure of itself by a factor of four: it shows.
    boaster = Calibration("platt", "euclidean", False, 24.0, -16.0)
    assert reliability(boaster, *gaussian_pairs(1, 150)).ece > 0.08
    assert json.loads(json.dumps(kept.as_dict(), allow_nan=False))["ece"] == kept.ece


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_strict_calibration_keeps_its_word_where_more_others_come_near(method):
    """Nine of ten different people of the validation split are easy: twenty times as far as all others."""
    rng = np.random.default_rng(0)
    blocks, query, gallery = gaussian_pairs(0, 150)
    ((_, matrix),) = blocks()
    different = query.pids[:, None] != gallery.pids
    easier = np.where(different & (rng.random(matrix.shape) < 0.9), 20.0, matrix)
    arguments = (lambda: [(0, easier)], query, gallery, "euclidean", False, method)
    plain, strict = fit_calibration(*arguments), fit_calibration(*arguments, strict=10.0)
    assert (plain.strict, strict.strict) == (1.0, 10.0)
    where = np.linspace(0, 3, 7)
    np.testing.assert_allclose(strict.log_ratio(where), plain.log_ratio(where) - np.log(10))
    thresholds = {point.far: point.threshold for point in plain.operating_points}
    for point in strict.operating_points:
        if point.far > 1e-4:
            assert point.threshold == thresholds[point.far / 10] and point.supported
            assert point.note.startswith(f"For {point.far:g} where 10 times more others")
    # Where the easy ones are missing, other people of the same kind.
    hard = gaussian_pairs(1, 150)
    accepted = {
        name: np.mean(hard[0]()[0][1][different] <= fitted.operating_points[1].threshold)
        for name, fitted in (("plain", plain), ("strict", strict))
    }
    assert accepted["strict"] <= 0.011 < 0.08 < accepted["plain"]
    if method == "isotonic":  # the logistic curve cannot follow such distances
        assert reliability(strict, *hard).ece < 0.03 < 0.1 < reliability(plain, *hard).ece


def test_reliability_by_hand():
    # log ratio = -d: probabilities at 1/2: d 0 -> 0.5, d ln 3 -> 1/4, d -ln 3 -> 3/4.
    query = FeatureSet(np.zeros((1, 1)), np.array([1]), np.array([0]))
    gallery = FeatureSet(np.zeros((4, 1)), np.array([1, 1, 2, 3]), np.ones(4, int))
    ln3 = math.log(3)
    got = reliability(
        Calibration("platt", "cosine", True, 0.0, -1.0),
        lambda: [(0, np.array([[-ln3, ln3, ln3, 0.0]]))], query, gallery, bins=4,
    )  # fmt: skip
    # Same pairs weigh 1/4 each, the others too. Bins: [0, 1/4) none; [1/4, 1/2): same and different at 1/4;
    # [1/2, 3/4): different; [3/4, 1]: same. (1/4 may round into the bin below.)
    some = got.weight > 0
    np.testing.assert_allclose(got.predicted[some], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(got.observed[some], [0.5, 0, 1])
    np.testing.assert_allclose(got.weight[some], [0.5, 0.25, 0.25])
    assert got.ece == pytest.approx(0.5 * 0.25 + 0.25 * 0.5 + 0.25 * 0.25)


def test_platt_equals_logistic_regression():
    rng = np.random.default_rng(0)
    same, different = rng.normal(1, 0.5, 3000), rng.normal(2, 0.5, 40_000)
    weight = np.concatenate([np.full(3000, 0.2 / 3000), np.full(40_000, 0.8 / 40_000)]) * 43_000
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000)
    model.fit(np.concatenate([same, different])[:, None], np.repeat([1, 0], [3000, 40_000]), weight)
    intercept, slope = platt(same, different, 0.2)
    # The targets differ from 0 and 1 by one pair.
    assert intercept == pytest.approx(model.intercept_[0], rel=0.01)
    assert slope == pytest.approx(model.coef_[0, 0], rel=0.01)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_separable_and_badly_scaled_distances_end_in_finite_doubt(scale):
    same, different = scale * np.linspace(1, 2, 50), scale * np.linspace(5, 9, 500)
    intercept, slope = platt(same, different, 0.5)
    assert np.isfinite([intercept, slope]).all()
    probability = 1 / (1 + np.exp(-(intercept + slope * np.concatenate([same, different]))))
    assert (probability[:50] > 0.9).all() and (probability[50:] < 0.1).all()
    assert probability.max() < 1 and probability.min() > 0


def test_isotonic_equals_scikit_learn_but_for_certainty():
    rng = np.random.default_rng(0)
    same, different = rng.normal(1, 0.5, 200).round(2), rng.normal(2, 0.5, 900).round(2)
    knots = np.array(isotonic(same, different, 0.5))
    model = IsotonicRegression(increasing=False).fit(
        np.concatenate([same, different]), np.repeat([1, 0], [200, 900]),
        sample_weight=np.repeat([1 / 200, 1 / 900], [200, 900]),
    )  # fmt: skip
    expected = model.predict(knots[:, 0])
    got = 1 / (1 + np.exp(-knots[:, 1]))
    inner = (expected > 0.01) & (expected < 0.99)
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-9)
    assert inner.any() and got.min() > 0 and got.max() < 1


def test_a_file_gives_back_what_was_fitted(tmp_path):
    for method in ("platt", "isotonic"):
        fitted = fit_calibration(*gaussian_pairs(0, 40), "euclidean", True, method)
        fitted.save(tmp_path / "calibration.json")
        assert Calibration.load(tmp_path / "calibration.json") == fitted


def test_embeddings_are_compared_as_the_file_says():
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [0.0, 2.0]])
    cosine = Calibration("platt", "cosine", True, 2.0, -5.0)
    np.testing.assert_allclose(cosine.same_person(a, b), cosine.probability([1 - 24 / 25, 1.0]))
    plain = Calibration("platt", "euclidean", False, 2.0, -5.0)
    np.testing.assert_allclose(plain.same_person(a, b), plain.probability([2.0, 5.0]))
    unit = Calibration("platt", "euclidean", True, 2.0, -5.0)
    np.testing.assert_allclose(unit.same_person(a, b), unit.probability([2 - 48 / 25, 2.0]))
    assert unit.same_person(a, b[:1]).shape == (2,)


def test_features_to_file_and_back(tmp_path):
    rng = np.random.default_rng(0)
    means = rng.standard_normal((50, 8))
    query = FeatureSet(
        (means + 0.4 * rng.standard_normal((50, 8))).astype(np.float32), np.arange(50), np.zeros(50, int)
    )
    gallery = FeatureSet(
        (means + 0.4 * rng.standard_normal((50, 8))).astype(np.float32), np.arange(50), np.ones(50, int)
    )
    fitted = fit_calibration(features_distances(query, gallery, "cosine"), query, gallery, "cosine", True)
    same = fitted.same_person(query.features, gallery.features)
    other = fitted.same_person(query.features, np.roll(gallery.features, 1, axis=0))
    assert np.median(same) > 0.9
    assert np.median(other) < 0.05


def test_bounds_are_the_textbooks():
    # Rule of three: 1 - 0.05^(1/n), about 3 / n.
    assert far_upper_bound(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-9)
    assert far_upper_bound(0, 3_000_000) == pytest.approx(1e-6, rel=0.01)
    assert far_upper_bound(7, 7) == 1.0
    # By definition, seeing at most k is then as rare as 5 %.
    for k, n in ((1, 20), (5, 100), (30, 4000)):
        p = far_upper_bound(k, n)
        tail = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        assert tail == pytest.approx(0.05, rel=1e-6)


def curve_of(false_accepts, different: int) -> RocCurve:
    false_accepts = np.array(false_accepts)
    number = len(false_accepts)
    return RocCurve(
        np.arange(1.0, number + 1), np.arange(1, number + 1), false_accepts, false_accepts, number, different
    )


def test_operating_points_vouch_for_their_rate():
    curve = curve_of([0, 0, 2, 9, 40, 600], 10_000)
    # 1e-3 allows 10 of 10,000 by rate, but the bound of 9 is 15.7e-4; that of 2 is 6.3e-4.
    point = operating_point(curve, 1e-3)
    assert (point.threshold, point.false_accepts, point.supported) == (3.0, 2, True)
    assert point.far_bound == far_upper_bound(2, 10_000) <= 1e-3
    assert far_upper_bound(9, 10_000) > 1e-3
    assert point.tar == 0.5
    assert "at most 0.00063 with 95 % confidence" in point.note
    for far in (0.5, 0.07, 0.06, 0.005, 0.0004):
        chosen = operating_point(curve, far)
        fits = [t for t, k in zip(curve.thresholds, curve.false_accepts, strict=True)
                if far_upper_bound(int(k), 10_000) <= far]  # fmt: skip
        assert chosen.threshold == max(fits)


def test_data_that_cannot_support_a_rate_say_so():
    point = operating_point(curve_of([0, 3], 10_000), 1e-4)
    assert (point.supported, point.threshold) == (False, None)
    # ln 0.05 / ln(1 - 1e-4) = 29,955.8
    assert "29956 pairs are needed" in point.note
    assert operating_point(curve_of([0], 29_956), 1e-4).supported
    assert not operating_point(curve_of([0], 29_955), 1e-4).supported
    none = operating_point(curve_of([50, 90], 10_000), 1e-3)
    assert (none.supported, none.threshold, none.tar) == (True, None, 0.0)
    assert "already lets in 50 of 10000" in none.note


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[1]", "not a calibration"),
        ("{", "not JSON"),
        ('{"format": "san_tf calibration", "version": 2}', "version 2"),
        ('{"format": "san_tf calibration", "version": 1}', "missing or wrong"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, text, named):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=named) as error:
        Calibration.load(path)
    assert "mine.json" in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        Calibration.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "change",
    [
        {"method": "guess"}, {"metric": "manhattan"}, {"normalized": 1}, {"prior": 0.0}, {"slope": "steep"},
        {"intercept": float("nan")}, {"knots": [[1, 2], [1, 1]]}, {"method": "isotonic"}, {"extra": 1},
        {"operating_points": [{"far": 1}]}, {"knots": None}, {"strict": 0.5}, {"strict": float("inf")},
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(change):
    good = Calibration("platt", "cosine", True, 1.0, -2.0).to_dict()
    with pytest.raises(UserError, match="not a calibration of this package"):
        Calibration.from_dict({**good, **change}, "x.json")


def test_mistakes_are_named():
    blocks, query, gallery = gaussian_pairs(0, 20)
    with pytest.raises(UserError, match="no calibration 'beta'"):
        fit_calibration(blocks, query, gallery, "euclidean", False, "beta")
    for strict in (0.5, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"strict is .* 1 or more"):
            fit_calibration(blocks, query, gallery, "euclidean", False, strict=strict)
    with pytest.raises(UserError, match=r"prior is 1\.0"):
        fit_calibration(blocks, query, gallery, "euclidean", False, prior=1.0)
    with pytest.raises(UserError, match="prior is 0"):
        Calibration("platt", "cosine", True).probability(0.1, 0)
    worse = lambda: [(0, -blocks()[0][1])]  # noqa: E731
    for method in ("platt", "isotonic"):
        with pytest.raises(UserError, match="nothing to calibrate"):
            fit_calibration(worse, query, gallery, "euclidean", False, method)
    with pytest.raises(UserError, match="far is 0"):
        operating_point(curve_of([0], 10), 0)
