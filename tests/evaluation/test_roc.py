"""The ROC curve against scikit-learn on all pairs, against hand arithmetic, and in any blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from san_tf.errors import UserError
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.protocols import features_distances
from san_tf.evaluation.roc import roc_curve


def labels(pids, camids) -> FeatureSet:
    return FeatureSet(np.zeros((len(pids), 1), np.float32), np.array(pids), np.array(camids))


def all_pairs(matrix, query, gallery, removed):
    """Distances and "same person" of each pair that counts, one pair at a time."""
    distances, same = [], []
    for q, pid in enumerate(query.pids):
        for g, other in enumerate(gallery.pids):
            if other == -1 or pid == -1 or removed(pid, query.camids[q], other, gallery.camids[g]):
                continue
            distances.append(matrix[q, g])
            same.append(pid == other)
    return np.array(distances), np.array(same)


REMOVED = {
    "market": lambda pid, camid, other, camera: pid == other and camid == camera,
    "cross-camera": lambda pid, camid, other, camera: camid == camera,
    "partial": lambda *_: False,
}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(REMOVED)), st.integers(2, 40))
def test_equals_scikit_learn_on_all_pairs(seed, protocol, levels):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, levels, (9, 31)).astype(np.float32)
    query = labels(rng.integers(-1, 4, 9), rng.integers(0, 3, 9))
    gallery = labels(rng.integers(-1, 4, 31), rng.integers(0, 3, 31))
    distances, same = all_pairs(matrix, query, gallery, REMOVED[protocol])
    blocks = [(start, matrix[start : start + 4]) for start in range(0, 9, 4)]
    if same.all() or not same.any():
        with pytest.raises(UserError, match="no pair"):
            roc_curve(lambda: blocks, query, gallery, protocol)
        return
    curve = roc_curve(lambda: blocks, query, gallery, protocol)
    assert (curve.num_same, curve.num_different) == (same.sum(), (~same).sum())
    far, tar, cuts = metrics.roc_curve(same, -distances, drop_intermediate=False)
    at = {-cut: (f, t) for f, t, cut in zip(far, tar, cuts, strict=True)}
    for threshold, f, t in zip(curve.thresholds, curve.far, curve.tar, strict=True):
        assert (f, t) == pytest.approx(at[threshold], abs=1e-12)
    assert curve.auc == pytest.approx(metrics.roc_auc_score(same, -distances), abs=1e-12)
    # The equal error rate is where the polygon of all points meets the falling diagonal.
    assert curve.eer == pytest.approx(np.interp(0.0, far - (1 - tar), far), abs=1e-9)
    for wished in (0.0, 0.01, 0.1, 0.5, 1.0):
        best = max(t for f, t in zip(far, tar, strict=True) if f <= wished + 1e-12)
        assert curve.tar_at(wished)[0] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
def test_counts_equal_a_sorted_list_for_any_spread_of_thresholds(dtype, spread):
    rng = np.random.default_rng(0)
    # Thresholds in two clumps far apart, so that most cells are empty and a few are full.
    matrix = (1 + spread * rng.standard_normal((20, 400)) ** 5).astype(dtype)
    query, gallery = labels(np.arange(20) % 5, [0] * 20), labels(np.arange(400) % 40, [1] * 400)
    same = query.pids[:, None] == gallery.pids
    curve = roc_curve(lambda: [(0, matrix[:7]), (7, matrix[7:])], query, gallery)
    others = np.sort(matrix[~same])
    np.testing.assert_array_equal(curve.thresholds, np.unique(matrix[same]))
    np.testing.assert_array_equal(curve.false_accepts, np.searchsorted(others, curve.thresholds, "right"))
    np.testing.assert_array_equal(curve.false_below, np.searchsorted(others, curve.thresholds, "left"))
    assert curve.num_different == len(others)


def test_by_hand():
    # distances   same: 1 3 4 8    different: 2 4 5 6 7
    matrix = np.array([[1, 3, 4, 8, 2, 4, 5, 6, 7]], np.float32)
    query, gallery = labels([1], [0]), labels([1, 1, 1, 1, 2, 3, 4, 5, 6], [1] * 9)
    curve = roc_curve(lambda: [(0, matrix)], query, gallery)
    assert curve.thresholds.tolist() == [1, 3, 4, 8]
    assert curve.true_accepts.tolist() == [1, 2, 3, 4]
    assert curve.false_below.tolist() == [0, 1, 1, 5]
    assert curve.false_accepts.tolist() == [0, 1, 2, 5]
    # A same-person pair is nearer: 1 than all 5; 3 than 4; 4 than 3 and a half; 8 than none: 12.5 of 20.
    assert curve.auc == pytest.approx(12.5 / 20)
    # At threshold 4: false accepts 2/5, false rejects 1/4. Just below: 1/5 and 1/2. On the line between:
    # 1/5 + s/5 = 1/2 - s/4 gives s = 2/3, rate 1/3.
    assert curve.eer == pytest.approx(1 / 3)
    assert curve.tar_at(0.0) == (0.25, 1.0)
    assert curve.tar_at(0.2) == (0.5, 3.0)
    assert curve.tar_at(0.39) == (0.5, 3.0)
    assert curve.tar_at(0.4) == (0.75, 4.0)
    assert curve.tar_at(1.0) == (1.0, 8.0)


def test_no_threshold_where_the_nearest_pair_is_of_strangers():
    query, gallery = labels([1], [0]), labels([1, 2], [1, 1])
    curve = roc_curve(lambda: [(0, np.array([[2.0, 1.0]]))], query, gallery)
    assert curve.tar_at(0.5) == (0.0, None)
    assert curve.eer == 1.0
    assert curve.auc == 0.0


def test_features_in_any_blocks():
    rng = np.random.default_rng(0)
    query = FeatureSet(rng.integers(-3, 4, (40, 6)).astype(np.float32), rng.integers(0, 9, 40), np.zeros(40))
    gallery = FeatureSet(
        rng.integers(-3, 4, (200, 6)).astype(np.float32), rng.integers(-1, 9, 200), np.ones(200)
    )
    matrix = ((query.features[:, None] - gallery.features) ** 2).sum(axis=2)
    whole = roc_curve(lambda: [(0, matrix)], query, gallery)
    blocks = roc_curve(features_distances(query, gallery), query, gallery)
    for name in ("thresholds", "true_accepts", "false_accepts", "false_below"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocks, name))
