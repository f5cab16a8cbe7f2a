from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation.distances import distance_blocks
from san_tf.evaluation.ranking import evaluate_distances, evaluate_ranking, top_matches

PARITY = Path(__file__).resolve().parents[2].parent / "shared" / "parity" / "ranking.npz"


def naive(distances, q_pids, q_camids, g_pids, g_camids):
    """The protocol, spelt out one query and one image at a time."""
    cmc, precisions, penalties = [], [], []
    for row, pid, camid in zip(distances, q_pids, q_camids, strict=True):
        order = sorted(range(len(row)), key=lambda g: (row[g], g))
        kept = [g for g in order if g_pids[g] != -1 and not (g_pids[g] == pid and g_camids[g] == camid)]
        right = [g_pids[g] == pid for g in kept]
        if pid == -1 or not any(right):
            continue
        cmc.append([any(right[:k]) for k in range(1, 51)])
        seen, precision = 0, []
        for rank, is_right in enumerate(right, 1):
            if is_right:
                seen += 1
                precision.append(seen / rank)
                last = rank
        precisions.append(sum(precision) / seen)
        penalties.append(seen / last)
    return cmc, precisions, penalties


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 70), st.integers(1, 5), st.integers(1, 6))
def test_equals_the_naive_loop_ties_junk_and_distractors_included(seed, queries, images, people, levels):
    rng = np.random.default_rng(seed)
    # Few different distances, so that most are tied.
    distances = rng.integers(0, levels, (queries, images)).astype(np.float32)
    q_pids, q_camids = rng.integers(1, people + 1, queries), rng.integers(0, 3, queries)
    g_pids, g_camids = rng.integers(-1, people + 1, images), rng.integers(0, 3, images)
    cmc, precisions, penalties = naive(distances, q_pids, q_camids, g_pids, g_camids)
    blocks = [(start, distances[start : start + 3]) for start in range(0, queries, 3)]
    if not cmc:
        with pytest.raises(UserError, match="No query has a true match"):
            evaluate_distances(blocks, q_pids, q_camids, g_pids, g_camids)
        return
    result = evaluate_distances(blocks, q_pids, q_camids, g_pids, g_camids)
    np.testing.assert_allclose(result.cmc, np.mean(cmc, axis=0), atol=1e-12)
    assert result.mAP == pytest.approx(np.mean(precisions), abs=1e-12)
    assert result.mINP == pytest.approx(np.mean(penalties), abs=1e-12)
    assert (result.num_valid, result.num_queries) == (len(cmc), queries)


def test_by_hand():
    # Query: person 7, camera 0.   distance: .1  .2  .3  .4  .5  .6
    pids = np.array([7, -1, 0, 7, 9, 7])
    cams = np.array([0, 1, 2, 1, 1, 2])
    # Left after removing (7, camera 0) and junk:        0   7   9   7  -> right at ranks 2 and 4.
    distances = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    result = evaluate_distances([(0, distances)], [7], [0], pids, cams)
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mINP == pytest.approx(2 / 4)
    assert result.cmc[:4].tolist() == [0, 1, 1, 1]
    assert (result.rank1, result.rank5, result.rank10, result.rank20) == (0, 1, 1, 1)
    assert len(result.cmc) == 50
    assert result.row("ours")["method"] == "ours"
    assert result.row("ours")["mAP"] == pytest.approx(0.5)


def test_queries_without_a_match_are_left_out_and_counted():
    features = np.eye(4, dtype=np.float32)
    result = evaluate_ranking(features[:2], [1, 2], [0, 0], features, [1, 2, 5, 6], [1, 0, 1, 1])
    assert (result.num_valid, result.num_queries, result.rank1) == (1, 2, 1.0)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_any_block_size_gives_the_same(block):
    rng = np.random.default_rng(0)
    # Small whole numbers: exact in float32 in any order of summation.
    q, g = rng.integers(-3, 4, (20, 8)).astype(np.float32), rng.integers(-3, 4, (90, 8)).astype(np.float32)
    labels = [
        rng.integers(0, 5, 20),
        rng.integers(0, 2, 20),
        g,
        rng.integers(-1, 5, 90),
        rng.integers(0, 2, 90),
    ]
    assert evaluate_ranking(q, *labels, block=block).row("") == evaluate_ranking(q, *labels).row("")


@pytest.mark.skipif(not PARITY.is_file(), reason="the reference numbers are not beside this checkout")
def test_equals_the_reference_implementation():
    data = np.load(PARITY)
    result = evaluate_ranking(
        data["q_features"], data["q_pids"], data["q_camids"],
        data["g_features"], data["g_pids"], data["g_camids"], block=17,
    )  # fmt: skip
    np.testing.assert_allclose(result.cmc, data["cmc"], atol=1e-6)
    assert result.mAP == pytest.approx(float(data["mAP"]), abs=1e-6)
    assert result.mINP == pytest.approx(float(data["mINP"]), abs=1e-6)
    assert result.num_queries - result.num_valid == 3


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distances_equal_a_loop(metric):
    rng = np.random.default_rng(0)
    q, g = rng.standard_normal((9, 5)), rng.standard_normal((11, 5))
    got = np.concatenate([rows for _, rows in distance_blocks(q, g, metric, block=4)])
    for i in range(9):
        for j in range(11):
            if metric == "euclidean":
                expected = ((q[i] - g[j]) ** 2).sum()
            else:
                expected = 1 - q[i] @ g[j] / np.sqrt((q[i] ** 2).sum() * (g[j] ** 2).sum())
            assert got[i, j] == pytest.approx(expected, abs=1e-10)
    single = np.concatenate([rows for _, rows in distance_blocks(q.astype(np.float32), g, metric)])
    np.testing.assert_allclose(single, got, atol=1e-5)


def test_distances_come_in_blocks():
    blocks = list(distance_blocks(np.ones((10, 3)), np.ones((7, 3)), block=4))
    assert [(start, rows.shape) for start, rows in blocks] == [(0, (4, 7)), (4, (4, 7)), (8, (2, 7))]


def test_top_matches_follow_the_protocol():
    gallery = np.arange(6, dtype=np.float32)[:, None]
    pids, cams = np.array([7, -1, 0, 7, 9, 7]), np.array([0, 1, 2, 1, 1, 2])
    top = top_matches(np.zeros((1, 1), np.float32), [7], [0], gallery, pids, cams, k=3)
    assert top.indices.tolist() == [[2, 3, 4]]
    assert top.correct.tolist() == [[False, True, False]]
    assert top.distances.tolist() == [[4.0, 9.0, 16.0]]
    top = top_matches(np.zeros((1, 1), np.float32), [7], [0], gallery, pids, cams, k=6)
    assert top.indices.tolist() == [[2, 3, 4, 5, -1, -1]]
    assert top.correct.tolist() == [[False, True, False, True, False, False]]
    assert np.isinf(top.distances[0, 4:]).all()


def test_mistakes_are_named():
    good, labels = np.ones((3, 4), np.float32), ([1, 1, 1], [0, 1, 2])
    with pytest.raises(UserError, match="'manhattan'; choose one of: euclidean, cosine"):
        evaluate_ranking(good, *labels, good, *labels, metric="manhattan")
    with pytest.raises(UserError, match="have 4 dimensions and gallery features 5"):
        evaluate_ranking(good, *labels, np.ones((3, 5)), *labels)
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(UserError, match=r"gallery features are not finite \(first in row 2\)"):
        evaluate_ranking(good, *labels, bad, *labels)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        evaluate_ranking(good[0], *labels, good, *labels)
