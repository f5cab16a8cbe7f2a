"""Each protocol against hand arithmetic, against all draws there are, and against the loop it stands for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation import protocols
from san_tf.evaluation.feature_set import FeatureSet, rows_per_block, told_apart
from san_tf.evaluation.protocols import PROTOCOLS, evaluate_protocol, vehicleid_draws
from san_tf.evaluation.ranking import evaluate_ranking


def line(places, pids, camids) -> FeatureSet:
    """Images on a line, so that distances can be seen."""
    return FeatureSet(np.array(places, np.float32)[:, None], np.array(pids), np.array(camids))


def random_sets(seed: int, queries: int = 30, images: int = 120, people: int = 12, cameras: int = 4):
    rng = np.random.default_rng(seed)
    # Small whole numbers: exact in float32, and many ties.
    q = rng.integers(-2, 3, (queries, 4)).astype(np.float32)
    g = rng.integers(-2, 3, (images, 4)).astype(np.float32)
    return (
        FeatureSet(q, rng.integers(1, people + 1, queries), rng.integers(0, cameras, queries)),
        FeatureSet(g, rng.integers(-1, people + 1, images), rng.integers(0, cameras, images)),
    )


def naive(query: FeatureSet, gallery: FeatureSet, keep):
    """Mean CMC, AP and INP of a ranking, one query at a time, of the images that `keep` lets stay."""
    cmc, precisions, penalties = [], [], []
    for feature, pid, camid in zip(query.features, query.pids, query.camids, strict=True):
        distance = ((gallery.features - feature) ** 2).sum(axis=1)
        order = [
            g
            for g in np.argsort(distance, kind="stable")
            if gallery.pids[g] != -1 and keep(pid, camid, gallery.pids[g], gallery.camids[g])
        ]
        right = gallery.pids[order] == pid
        if not right.any():
            continue
        places = np.flatnonzero(right) + 1
        cmc.append(np.arange(1, 51) >= places[0])
        precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
        penalties.append(len(places) / places[-1])
    return np.mean(cmc, axis=0), np.mean(precisions), np.mean(penalties)


KEEP = {
    "market": lambda pid, camid, other, camera: not (pid == other and camid == camera),
    "cross-camera": lambda pid, camid, other, camera: camid != camera,
    "partial": lambda *_: True,
}


@pytest.mark.parametrize("protocol", KEEP)
@pytest.mark.parametrize("seed", range(5))
def test_protocols_without_draws_equal_the_naive_loop(protocol, seed):
    query, gallery = random_sets(seed)
    cmc, precision, penalty = naive(query, gallery, KEEP[protocol])
    result = evaluate_protocol(query, gallery, protocol)
    np.testing.assert_allclose(result.cmc, cmc, atol=1e-12)
    assert (result.mAP, result.mINP) == pytest.approx((precision, penalty), abs=1e-12)
    assert result.repeats == 1
    assert not result.cmc_spread.any()
    assert np.nanmean(result.per_query.mAP) == pytest.approx(result.mAP)
    assert np.nanmean(result.per_query.rank1) == pytest.approx(result.cmc[0])


def test_protocols_differ_in_what_they_remove():
    query = line([0], [7], [0])
    #                place: 1  2  3  4  5
    gallery = line([1, 2, 3, 4, 5], [7, 8, 9, 7, -1], [0, 0, 1, 1, 1])
    # market: (7, camera 0) goes:            8 9 7 -> rank 3
    # cross-camera: all of camera 0 goes:    9 7   -> rank 2
    # partial: all stay but junk:            7 8 9 7 -> ranks 1 and 4, AP (1/1 + 2/4) / 2
    assert evaluate_protocol(query, gallery, "market").mAP == pytest.approx(1 / 3)
    assert evaluate_protocol(query, gallery, "cross-camera").mAP == pytest.approx(1 / 2)
    assert evaluate_protocol(query, gallery, "partial").mAP == pytest.approx(3 / 4)
    assert evaluate_protocol(query, gallery, "partial").mINP == pytest.approx(2 / 4)


def all_cuhk03_cmcs(query: FeatureSet, gallery: FeatureSet) -> np.ndarray:
    """The CMC that an endless number of draws would have: the mean over every draw there is."""
    curves = []
    for feature, pid, camid in zip(query.features, query.pids, query.camids, strict=True):
        distance = ((gallery.features - feature) ** 2).sum(axis=1)
        kept = [
            g
            for g in np.argsort(distance, kind="stable")
            if gallery.pids[g] != -1 and not (gallery.pids[g] == pid and gallery.camids[g] == camid)
        ]
        if not (gallery.pids[kept] == pid).any():
            continue
        groups = [[g for g in kept if gallery.pids[g] == p] for p in np.unique(gallery.pids[kept])]
        curve = np.zeros(50)
        draws = list(itertools.product(*groups))
        for draw in draws:
            order = [g for g in kept if g in draw]
            curve += np.arange(1, 51) > np.flatnonzero(gallery.pids[order] == pid)[0]
        curves.append(curve / len(draws))
    return np.mean(curves, axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_cuhk03_draws_tend_to_the_mean_of_all_draws(seed):
    query, gallery = random_sets(seed, queries=12, images=14, people=4, cameras=3)
    expected = all_cuhk03_cmcs(query, gallery)
    result = evaluate_protocol(query, gallery, "cuhk03", repeats=4000, seed=seed)
    error = result.cmc_spread / np.sqrt(4000)
    assert (np.abs(result.cmc - expected) <= 5 * error + 1e-12).all()
    # mAP and mINP stay those of the whole gallery, as torchreid has them.
    market = evaluate_protocol(query, gallery, "market")
    assert (result.mAP, result.mINP) == (market.mAP, market.mINP)


def test_cuhk03_by_hand():
    query = line([0], [7], [0])
    # Person 7 under other cameras: places 2 and 5, each drawn with 1/2; person 8: place 3; 9: places 4 and 9.
    # Drawn 2: rank 1. Drawn 5: behind 3, and behind 4 with 1/2: rank 2 or 3. CMC: 1/2, 3/4, 1.
    gallery = line([1, 2, 5, 3, 4, 9], [7, 7, 7, 8, 9, 9], [0, 1, 2, 0, 0, 1])
    result = evaluate_protocol(query, gallery, "cuhk03", repeats=5_000)
    np.testing.assert_allclose(result.cmc[:4], [1 / 2, 3 / 4, 1, 1], atol=0.02)
    # One draw's rank-1 is 0 or 1 with 1/2 each: standard deviation 1/2.
    assert result.cmc_spread[0] == pytest.approx(0.5, abs=0.01)
    assert result.per_query.rank1[0] == result.cmc[0]
    again = evaluate_protocol(query, gallery, "cuhk03", repeats=5_000)
    other = evaluate_protocol(query, gallery, "cuhk03", repeats=5_000, seed=1)
    assert again.cmc.tolist() == result.cmc.tolist() != other.cmc.tolist()


def test_cuhk03_leaves_queries_without_a_match_out_and_takes_any_block():
    query, gallery = random_sets(3, queries=20, images=60, people=8)
    stranger = FeatureSet(
        np.concatenate([query.features, query.features[:1]]),
        np.append(query.pids, 99),
        np.append(query.camids, 0),
    )
    result = evaluate_protocol(stranger, gallery, "cuhk03", repeats=5)
    expected = evaluate_protocol(query, gallery, "cuhk03", repeats=5)
    assert result.cmc.tolist() == expected.cmc.tolist()
    assert np.isnan(result.per_query.rank1[-1])
    matrix = ((stranger.features[:, None] - gallery.features) ** 2).sum(axis=2)
    blocks = [(start, matrix[start : start + 7]) for start in range(0, len(matrix), 7)]
    given_blocks = evaluate_protocol(stranger, gallery, "cuhk03", repeats=5, distances=lambda: blocks)
    assert given_blocks.cmc.tolist() == result.cmc.tolist()
    assert given_blocks.mAP == pytest.approx(result.mAP)


def test_vehicleid_by_hand(monkeypatch):
    # Two vehicles with two images each. The gallery holds one of each, the others are queries: four draws.
    #   image:  a1 at 0, a2 at 3 (person 1);  b1 at 1, b2 at 9 (person 2)
    #   drawn a1 b1: query a2 (3): b1 nearer than a1, rank 2;  query b2 (9): b1, rank 1
    #   drawn a1 b2: query a2 (3): a1, rank 1;                 query b1 (1): a1 nearer, rank 2
    #   drawn a2 b1: query a1 (0): b1 nearer, rank 2;          query b2 (9): a2 nearer (6 < 8), rank 2
    #   drawn a2 b2: query a1 (0): a2, rank 1;                 query b1 (1): a2 nearer, rank 2
    # Mean rank-1 (1/2 + 1/2 + 0 + 1/2) / 4 = 3/8; mAP with one match is the mean of 1 / rank: 11/16.
    four = [
        (np.array(queries), np.array(drawn))
        for queries, drawn in (([1, 3], [0, 2]), ([1, 2], [0, 3]), ([0, 3], [1, 2]), ([0, 2], [1, 3]))
    ]
    monkeypatch.setattr(protocols, "vehicleid_draws", lambda pids, repeats, rng: four)
    images = line([0, 3, 1, 9], [1, 1, 2, 2], [0, 0, 0, 0])
    result = evaluate_protocol(images, images, "vehicleid", repeats=4)
    assert result.cmc[0] == 3 / 8
    assert result.mAP == pytest.approx(11 / 16)
    assert result.cmc[1] == 1
    assert result.cmc_spread[0] == pytest.approx(np.std([1 / 2, 1 / 2, 0, 1 / 2], ddof=1))
    assert (result.num_queries, result.repeats) == (2, 4)
    # Each image is a query twice; b1 is never first.
    np.testing.assert_allclose(result.per_query.rank1, [1 / 2, 1 / 2, 0, 1 / 2])


def test_vehicleid_draws_one_image_an_identity_each_as_often():
    pids = np.array([4, 4, 4, -1, 2, 2, 7])
    drawn_times = np.zeros(7)
    for queries, drawn in vehicleid_draws(pids, 3000, np.random.default_rng(0)):
        assert sorted(pids[drawn]) == [2, 4, 7]
        assert sorted([*queries, *drawn]) == [0, 1, 2, 4, 5, 6]
        drawn_times[drawn] += 1
    np.testing.assert_allclose(drawn_times / 3000, [1 / 3, 1 / 3, 1 / 3, 0, 1 / 2, 1 / 2, 1], atol=0.05)


def test_vehicleid_pools_both_files():
    images = random_sets(0)[1]
    images = images.select(images.pids >= 0)
    halves = images.select(slice(0, 20)), images.select(slice(20, None))
    whole = evaluate_protocol(images, images, "vehicleid", repeats=3)
    assert evaluate_protocol(*halves, "vehicleid", repeats=3).cmc.tolist() == whole.cmc.tolist()
    assert whole.pids.tolist() == images.pids.tolist()
    assert (whole.cmc != evaluate_protocol(*halves, "vehicleid", repeats=3, seed=1).cmc).any()


def test_vehicleid_leaves_junk_out_and_keeps_single_images_as_distractors():
    # Junk (-1) lies nearest to everybody; the vehicle with one image is always in the gallery.
    images = line([0, 2, 1, 0], [1, 1, 2, -1], [0, 0, 0, 0])
    result = evaluate_protocol(images, images, "vehicleid", repeats=8)
    # The query is 0 or 2, the gallery its other image, 2 away, and the single image, 1 away: always rank 2.
    assert (result.cmc[0], result.cmc[1], result.mAP) == (0, 1, 0.5)
    assert np.isnan(result.per_query.mAP[2:]).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cross_camera_is_the_ranking_of_each_cameras_own_gallery(seed):
    query, gallery = random_sets(seed)
    expected = np.full(len(query), np.nan)
    for camera in np.unique(query.camids):
        index = np.flatnonzero(query.camids == camera)
        q, g = query.select(index), gallery.select(gallery.camids != camera)
        try:
            expected[index] = evaluate_ranking(
                q.features, q.pids, q.camids, g.features, g.pids, g.camids
            ).average_precisions
        except UserError:
            continue
    np.testing.assert_allclose(evaluate_protocol(query, gallery, "cross-camera").per_query.mAP, expected)


def test_missing_cameras_remove_nothing_and_are_told():
    query, gallery = random_sets(0)
    unknown = [FeatureSet(s.features, s.pids, np.full(len(s), -1)) for s in (query, gallery)]
    partial = evaluate_protocol(query, gallery, "partial")
    result = evaluate_protocol(*unknown, "market")
    assert result.mAP == partial.mAP
    assert "150 of 150 images have no camera" in result.notes[0]
    assert evaluate_protocol(query, gallery, "market").notes == ()
    with pytest.raises(UserError, match="needs the camera of every image, but 150 have none"):
        evaluate_protocol(*unknown, "cross-camera")
    # Knowing the camera of one query more removes no more than its own.
    camids = np.full(len(gallery), -1)
    camids[0] = 3
    mixed = evaluate_protocol(query, FeatureSet(gallery.features, gallery.pids, camids), "market")
    assert mixed.mAP <= partial.mAP + 1e-12
    assert "119 of 150" in mixed.notes[0]


def test_told_apart_equals_nothing():
    q, g = told_apart(np.array([-1, 2, -1]), np.array([-1, 2, 3]))
    assert (q[1], g[1], g[2]) == (2, 2, 3)
    assert not np.isin(q[[0, 2]], g).any()
    assert not np.isin(g[0], q)


def test_blocks_stay_small_however_large_the_gallery():
    assert rows_per_block(10) == 256
    assert rows_per_block(1_000_000) * 1_000_000 <= 2**26
    assert rows_per_block(10**9) == 1


def test_mistakes_are_named():
    query, gallery = random_sets(0)
    with pytest.raises(UserError, match="no protocol 'markt'; choose one of: " + ", ".join(PROTOCOLS)):
        evaluate_protocol(query, gallery, "markt")
    with pytest.raises(UserError, match="repeats is 0"):
        evaluate_protocol(query, gallery, "cuhk03", repeats=0)
    with pytest.raises(UserError, match="leave re-ranking out"):
        evaluate_protocol(query, gallery, "vehicleid", distances=list)
    strangers = FeatureSet(query.features, query.pids + 100, query.camids)
    for protocol in ("market", "cuhk03", "cross-camera", "partial"):
        with pytest.raises(UserError, match="No query has"):
            evaluate_protocol(strangers, gallery, protocol)
    singles = FeatureSet(query.features, np.arange(len(query)), query.camids)
    with pytest.raises(UserError, match="No identity has two images"):
        evaluate_protocol(singles, singles, "vehicleid")
