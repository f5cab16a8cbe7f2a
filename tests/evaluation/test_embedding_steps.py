"""Expansion, augmentation, camera means and fusion against loops over single images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation import embedding_steps as expansion
from san_tf.evaluation.embedding_steps import augment_database, expand_queries, prepared, without_camera_bias
from san_tf.evaluation.feature_set import FeatureSet, concatenated
from san_tf.evaluation.options import Preparation
from san_tf.evaluation.protocols import evaluate_protocol


def unit(vector):
    return vector / np.linalg.norm(vector)


def naive_expansion(query, gallery, k, alpha, itself=None):
    """One image at a time: nearest first, of equal ones the first."""
    expanded = []
    for i, feature in enumerate(query):
        feature = unit(feature)
        pool = [(-feature @ unit(other), g) for g, other in enumerate(gallery) if itself is None or g != i]
        total = feature.copy()
        for distance, g in sorted(pool)[:k]:
            total += max(-distance, 0) ** alpha * unit(gallery[g])
        expanded.append(unit(total))
    return np.array(expanded)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.0, 1.0, 3.0, 2.5]))
def test_expansion_and_augmentation_equal_the_loop(seed, k, alpha):
    rng = np.random.default_rng(seed)
    q, g = rng.standard_normal((7, 5)), rng.standard_normal((11, 5))
    np.testing.assert_allclose(expand_queries(q, g, k, alpha), naive_expansion(q, g, k, alpha), atol=1e-12)
    np.testing.assert_allclose(
        augment_database(g, k, alpha), naive_expansion(g, g, k, alpha, itself=True), atol=1e-12
    )


def test_equally_near_images_count_in_gallery_order(monkeypatch):
    # Exact similarities: axes of length 1 only. The query is as near to 0, 2 and 3.
    gallery = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    marked = gallery + 0
    similarity = np.array([[1.0, 0, 1, 1]])
    assert expansion._nearest(similarity, 2).tolist() == [[0, 2]]
    assert expansion._nearest(similarity, 3).tolist() == [[0, 2, 3]]
    assert expansion._nearest(similarity, 4).tolist() == [[0, 1, 2, 3]]
    assert expansion._nearest(np.zeros((2, 5)), 2).tolist() == [[0, 1], [0, 1]]
    # Blocks of one row give what one block gives.
    rng = np.random.default_rng(0)
    q, g = rng.standard_normal((9, 4)), np.concatenate([marked, rng.standard_normal((20, 4))])
    whole = expand_queries(q, g, 4), augment_database(g, 4)
    monkeypatch.setattr(expansion, "rows_per_block", lambda size: 1)
    np.testing.assert_allclose(expand_queries(q, g, 4), whole[0], atol=1e-12)
    np.testing.assert_allclose(augment_database(g, 4), whole[1], atol=1e-12)


def test_expansion_by_hand():
    # Query (1, 0); gallery at cosine 0.8, 0.6 and -1.  alpha 1, k 2:
    # (1, 0) + 0.8 (0.8, 0.6) + 0.6 (0.6, 0.8) = (2, 0.96)
    q, g = np.array([[2.0, 0]]), np.array([[0.8, 0.6], [3.0, 4.0], [-1, 0]])
    np.testing.assert_allclose(expand_queries(q, g, 2, 1.0)[0], unit(np.array([2, 0.96])))
    # AQE: (1, 0) + (0.8, 0.6) + (0.6, 0.8) = (2.4, 1.4)
    np.testing.assert_allclose(expand_queries(q, g, 2, 0.0)[0], unit(np.array([2.4, 1.4])))
    # An image on the other side has no weight, unless all have the same.
    np.testing.assert_allclose(expand_queries(q, g, 99, 1.0)[0], unit(np.array([2, 0.96])))
    assert expand_queries(q.astype(np.float32), g, 2).dtype == np.float32


def people(seed=0, images=300, cameras=3, bias=0.0):
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((40, 16))
    pids, camids = rng.integers(0, 40, images), rng.integers(0, cameras, images)
    features = means[pids] + 1.2 * rng.standard_normal((images, 16))
    features += bias * np.random.default_rng(99).standard_normal((cameras, 16))[camids]
    return FeatureSet(features.astype(np.float32), pids, camids)


def test_expansion_and_augmentation_help_where_people_form_clusters():
    query, gallery = people(1, 80), people(2, 600)
    gallery = FeatureSet(gallery.features, gallery.pids, gallery.camids)
    plain = evaluate_protocol(*prepared(query, gallery, Preparation(normalize=True))).mAP
    expanded = evaluate_protocol(
        *prepared(query, gallery, Preparation(normalize=True, query_expansion=5))
    ).mAP
    both = evaluate_protocol(
        *prepared(query, gallery, Preparation(query_expansion=5, database_augmentation=5))
    ).mAP
    assert plain < expanded < both


def test_camera_means_equal_the_loop_and_unknown_cameras_lose_the_overall_mean(monkeypatch):
    rng = np.random.default_rng(0)
    sets = [FeatureSet(rng.standard_normal((n, 4)), np.zeros(n), rng.choice([-1, 2, 5], n)) for n in (30, 50)]
    monkeypatch.setattr("san_tf.evaluation.embedding_steps._CHUNK", 7)
    features, camids = (np.concatenate([getattr(s, name) for s in sets]) for name in ("features", "camids"))
    for before, after in zip(sets, without_camera_bias(sets), strict=True):
        for row in range(len(before)):
            camera = before.camids[row]
            mean = features.mean(axis=0) if camera == -1 else features[camids == camera].mean(axis=0)
            np.testing.assert_allclose(after.features[row], before.features[row] - mean, atol=1e-12)


def test_a_cameras_own_offset_is_taken_out():
    query, gallery = people(1, 100, bias=3.0), people(2, 400, bias=3.0)
    clean = evaluate_protocol(people(1, 100), people(2, 400)).mAP
    biased = evaluate_protocol(query, gallery).mAP
    cured = evaluate_protocol(*prepared(query, gallery, Preparation(camera_bias_removal=True))).mAP
    assert biased < 0.5 * clean
    assert cured == pytest.approx(clean, rel=0.05)


def test_fused_cosine_is_the_weighted_mean_of_the_models_cosines():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((6, 3)), 100 * rng.standard_normal((6, 8))
    fused = concatenated([first, second], [3, 1])
    assert fused.shape == (6, 11)
    for i in range(6):
        for j in range(6):
            expected = 0.75 * unit(first[i]) @ unit(first[j]) + 0.25 * unit(second[i]) @ unit(second[j])
            assert fused[i] @ fused[j] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(np.linalg.norm(concatenated([first, second]), axis=1), 1)
    np.testing.assert_allclose(concatenated([first]), first / np.linalg.norm(first, axis=1, keepdims=True))


def test_defaults_change_nothing_and_the_order_is_the_documented_one():
    query, gallery = people(1, 20), people(2, 60)
    same = prepared(query, gallery, Preparation())
    assert same[0] is query and same[1] is gallery
    q, g = prepared(query, gallery, Preparation(True, True, 3, 4, 2.0))
    rows = [FeatureSet(np.array([unit(f) for f in s.features]), s.pids, s.camids) for s in (query, gallery)]
    a, b = without_camera_bias(rows)
    augmented = naive_expansion(b.features, b.features, 3, 2.0, itself=True)
    np.testing.assert_allclose(g.features, augmented, atol=1e-5)
    np.testing.assert_allclose(q.features, naive_expansion(a.features, augmented, 4, 2.0), atol=1e-5)


def test_mistakes_are_named():
    features = np.eye(3)
    with pytest.raises(UserError, match="k is 0"):
        expand_queries(features, features, 0)
    with pytest.raises(UserError, match="alpha is -1"):
        augment_database(features, 1, -1.0)
    with pytest.raises(UserError, match="no features"):
        concatenated([])
    with pytest.raises(UserError, match=r"different numbers of images \(3, 2\)"):
        concatenated([features, features[:2]])
    for weights in ([1], [1, 0], [1, np.nan]):
        with pytest.raises(UserError, match="each of the 2 models"):
            concatenated([features, features], weights)
