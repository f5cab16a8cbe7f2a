"""The breakdown by camera against hand arithmetic and against the evaluation of each pair alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.evaluation.assessment import camera_pairs
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.ranking import evaluate_ranking


def random_set(seed: int, number: int) -> FeatureSet:
    rng = np.random.default_rng(seed)
    return FeatureSet(
        rng.standard_normal((number, 4)), rng.integers(-1, 12, number), rng.choice([-1, 0, 3, 7], number)
    )


def test_equals_the_evaluation_of_each_pair_alone():
    query, gallery = random_set(0, 60), random_set(1, 200)
    pairs = camera_pairs(query, gallery)
    assert pairs.query_cameras.tolist() == pairs.gallery_cameras.tolist() == [0, 3, 7]
    for a, asking in enumerate(pairs.query_cameras):
        for b, holding in enumerate(pairs.gallery_cameras):
            q, g = query.select(query.camids == asking), gallery.select(gallery.camids == holding)
            if asking == holding:
                assert np.isnan([pairs.rank1[a, b], pairs.mAP[a, b]]).all()
                assert pairs.queries[a, b] == 0
                continue
            alone = evaluate_ranking(q.features, q.pids, q.camids, g.features, g.pids, g.camids)
            assert pairs.rank1[a, b] == pytest.approx(alone.rank1)
            assert pairs.mAP[a, b] == pytest.approx(alone.mAP)
            assert pairs.queries[a, b] == alone.num_valid


def test_by_hand():
    # One query under camera 0 at 0. Camera 1: stranger at 1, person at 2: rank 2. Camera 2: person at 3.
    # Camera 3 never saw the person.
    query = FeatureSet(np.zeros((1, 1)), np.array([5]), np.array([0]))
    gallery = FeatureSet(
        np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([6, 5, 5, 6]), np.array([1, 1, 2, 3])
    )
    pairs = camera_pairs(query, gallery)
    np.testing.assert_array_equal(pairs.rank1, [[0, 1, np.nan]])
    np.testing.assert_array_equal(pairs.mAP, [[0.5, 1, np.nan]])
    assert pairs.queries.tolist() == [[1, 1, 0]]
    assert json.loads(json.dumps(pairs.as_dict(), allow_nan=False))["mAP"] == [[0.5, 1.0, None]]


def test_mistakes_are_named():
    query, gallery = random_set(0, 60), random_set(1, 200)
    unknown = FeatureSet(gallery.features, gallery.pids, np.full(200, -1))
    with pytest.raises(UserError, match="needs camids"):
        camera_pairs(query, unknown)
    one = FeatureSet(gallery.features, gallery.pids, np.zeros(200, int))
    with pytest.raises(UserError, match="under another camera"):
        camera_pairs(one, one)
