import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation import distances as distances_module
from san_tf.evaluation.distances import distance_blocks
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.ranking import evaluate_distances, evaluate_ranking, top_matches


def naive(distances, q_pids, q_camids, g_pids, g_camids):
    """The protocol, spelt out one query and one image at a time."""
    cmc, precisions, penalties, first_ranks = [], [], [], []
    for row, pid, camid in zip(distances, q_pids, q_camids, strict=True):
        order = sorted(range(len(row)), key=lambda g: (row[g], g))
        kept = [g for g in order if g_pids[g] != -1 and not (g_pids[g] == pid and g_camids[g] == camid)]
        right = [g_pids[g] == pid for g in kept]
        if pid == -1 or not any(right):
            precisions.append(np.nan)
            penalties.append(np.nan)
            first_ranks.append(-1)
            continue
        first_ranks.append(right.index(True) + 1)
        cmc.append([any(right[:k]) for k in range(1, 51)])
        seen, precision = 0, []
        for rank, is_right in enumerate(right, 1):
            if is_right:
                seen += 1
                precision.append(seen / rank)
                last = rank
        precisions.append(sum(precision) / seen)
        penalties.append(seen / last)
    return cmc, precisions, penalties, first_ranks


def check_against_naive(result, distances, q_pids, q_camids, g_pids, g_camids):
    cmc, precisions, penalties, first_ranks = naive(distances, q_pids, q_camids, g_pids, g_camids)
    np.testing.assert_allclose(result.average_precisions, precisions, atol=1e-12)
    np.testing.assert_allclose(result.inverse_penalties, penalties, atol=1e-12)
    assert result.first_ranks.tolist() == first_ranks
    assert result.first_ranks.dtype == np.int64
    np.testing.assert_allclose(result.cmc, np.mean(cmc, axis=0), atol=1e-12)
    assert result.mAP == pytest.approx(np.nanmean(precisions), abs=1e-12)
    assert result.mINP == pytest.approx(np.nanmean(penalties), abs=1e-12)
    assert (result.num_valid, result.num_queries) == (len(cmc), len(q_pids))


def random_ids(rng, queries, images, people, cameras=3):
    """Identities and cameras of queries (a few of them junk) and of a gallery with junk and distractors."""
    return (
        np.where(rng.random(queries) < 0.1, -1, rng.integers(0, people + 1, queries)),
        rng.integers(0, cameras, queries),
        rng.integers(-1, people + 1, images),
        rng.integers(0, cameras, images),
    )


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.integers(1, 600),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([np.float32, np.float64]),
)
def test_equals_the_naive_loop_ties_junk_and_distractors_included(
    seed, queries, images, people, levels, cameras, dtype
):
    rng = np.random.default_rng(seed)
    # Few different distances, so that most are tied.
    distances = rng.integers(0, levels, (queries, images)).astype(dtype)
    ids = random_ids(rng, queries, images, people, cameras)
    blocks = [(start, distances[start : start + 3]) for start in range(0, queries, 3)]
    if not naive(distances, *ids)[0]:
        with pytest.raises(UserError, match="No query has a true match"):
            evaluate_distances(blocks, *ids)
        return
    check_against_naive(evaluate_distances(blocks, *ids), distances, *ids)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 600),
    st.integers(1, 20),
    st.integers(1, 30),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([1, 7, 256]),
)
def test_features_rank_as_their_distances_in_whole_numbers(
    seed, queries, images, dimensions, people, dtype, block
):
    rng = np.random.default_rng(seed)
    # Small whole numbers: distances are exact however they are summed, and many are tied.
    q = rng.integers(-2, 3, (queries, dimensions))
    g = rng.integers(-2, 3, (images, dimensions))
    q_pids, q_camids, g_pids, g_camids = random_ids(rng, queries, images, people)
    distances = ((q[:, None] - g[None]) ** 2).sum(axis=2)
    arguments = (q.astype(dtype), q_pids, q_camids, g.astype(dtype), g_pids, g_camids)
    if not naive(distances, q_pids, q_camids, g_pids, g_camids)[0]:
        with pytest.raises(UserError, match="No query has a true match"):
            evaluate_ranking(*arguments)
        return
    result = evaluate_ranking(*arguments, block=block)
    check_against_naive(result, distances, q_pids, q_camids, g_pids, g_camids)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("rows_a_block", [256, 700, 10**6])
def test_near_duplicates_stand_in_their_true_order(metric, rows_a_block, monkeypatch):
    rng = np.random.default_rng(1)
    dimensions = 96
    monkeypatch.setattr(distances_module, "BLOCK_BYTES", rows_a_block * dimensions * 4)
    # Everything lies within 1e-4 of one far point: in float32, |q|^2 + |g|^2 - 2 q.g is noise.
    place = 10.0 + rng.standard_normal(dimensions)
    q = (place + 1e-4 * rng.standard_normal((30, dimensions))).astype(np.float32)
    g = (place + 1e-4 * rng.standard_normal((2500, dimensions))).astype(np.float32)
    g[rng.integers(0, 2500, 900)] = g[rng.integers(0, 2500, 900)]  # and a third is there twice or more often
    ids = random_ids(rng, 30, 2500, 25)
    if metric == "cosine":
        rows, others = (distances_module.l2_normalized(x).astype(np.float64) for x in (q, g))
        exact = np.array([[1.0 - (row * other).sum() for other in others] for row in rows])
    else:
        exact = np.array(
            [[((row - other) ** 2).sum() for other in g.astype(float)] for row in q.astype(float)]
        )
    result = evaluate_ranking(q, *ids[:2], g, *ids[2:], metric=metric, block=11)
    if metric == "euclidean":
        check_against_naive(result, exact, *ids)
        product = evaluate_distances(distance_blocks(q, g), *ids)
        assert not np.allclose(product.average_precisions, result.average_precisions, 1e-6, equal_nan=True)
    else:  # 1 - cosine is itself rounded, to 1e-16: nearly the same
        naive_precisions = naive(exact, *ids)[1]
        np.testing.assert_allclose(result.average_precisions, naive_precisions, rtol=0.02)


def test_neither_order_of_the_gallery_nor_blocks_change_tied_rows():
    rng = np.random.default_rng(2)
    # All images are one and the same but for their ids, so ranks are places in the gallery.
    row = rng.standard_normal(300).astype(np.float32)
    g = np.repeat(row[None], 1300, axis=0)
    q = rng.standard_normal((5, 300)).astype(np.float32)
    q_pids, g_pids = np.arange(5), np.full(1300, 9)
    places = [0, 255, 256, 1024, 1299]
    g_pids[places] = q_pids
    for block in (1, 2, 256):
        result = evaluate_ranking(q, q_pids, np.zeros(5), g, g_pids, np.ones(1300), block=block)
        assert result.first_ranks.tolist() == [place + 1 for place in places]


def test_a_memory_map_is_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(distances_module, "BLOCK_BYTES", 1)  # the smallest blocks: 256 rows
    rng = np.random.default_rng(3)
    q, g = rng.standard_normal((40, 16)), rng.standard_normal((3000, 16)).astype(np.float16)
    ids = random_ids(rng, 40, 3000, 50)
    np.save(tmp_path / "gallery.npy", g)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    sizes = []
    taken = distances_module.FeatureRows._prepared
    monkeypatch.setattr(
        distances_module.FeatureRows,
        "_prepared",
        lambda self, rows, numbers: sizes.append(len(rows)) or taken(self, rows, numbers),
    )
    result = evaluate_ranking(q, *ids[:2], mapped, *ids[2:])
    assert max(sizes) == 256
    exact = ((q.astype(np.float32).astype(float)[:, None] - g.astype(float)[None]) ** 2).sum(axis=2)
    check_against_naive(result, exact, *ids)


def test_cmc_goes_on_beyond_a_small_gallery():
    result = evaluate_ranking(np.zeros((1, 2)), [3], [0], np.ones((2, 2)), [5, 3], [1, 1])
    assert result.cmc.tolist() == [0.0] + [1.0] * 49


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


def test_equals_the_reference_implementation(parity):
    data = np.load(parity / "ranking.npz")
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


@pytest.mark.parametrize("known", [False, True])
def test_images_of_unknown_cameras_are_not_taken_for_images_of_one_camera(known):
    # Gallery: the query's person at distances 1 and 9, another person at 4. With all cameras unknown both
    # matches count: AP = (1/1 + 2/3) / 2 = 5/6. With the query's camera known to be that of the first, it is
    # removed, and the other match is second: AP = 1/2.
    query_camids, gallery_camids = (
        (np.array([2]), np.array([2, -1, -1])) if known else (-np.ones(1), -np.ones(3))
    )
    gallery = np.array([[1.0], [2.0], [3.0]])
    ids = (np.array([7]), query_camids, gallery, np.array([7, 5, 7]), gallery_camids)
    result = evaluate_ranking(np.zeros((1, 1)), *ids)
    assert result.mAP == pytest.approx(1 / 2 if known else 5 / 6)
    top = top_matches(np.zeros((1, 1)), *ids, k=3)
    assert top.indices.tolist() == [[1, 2, -1] if known else [0, 1, 2]]


def test_results_are_shown_in_one_line():
    rng = np.random.default_rng(0)
    features, pids, camids = rng.normal(size=(2000, 4)), np.arange(2000) // 4, np.arange(2000) % 2
    result = evaluate_ranking(features, pids, camids, features, pids, camids)
    text = f"rank-1 {result.rank1:.1%}, mAP {result.mAP:.1%}"
    assert text in repr(result) and "2,000 of 2,000 queries" in repr(result)
    shown = [result, FeatureSet(features, pids, camids)]
    assert all("\n" not in repr(one) and len(repr(one)) < 200 for one in shown)
    assert repr(shown[1]).startswith("FeatureSet(features=(2000, 4) float")
