import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation import reranking as neighbours
from san_tf.evaluation import threads
from san_tf.evaluation.ranking import evaluate_distances, top_of_distances
from san_tf.evaluation.reranking import (
    Reranking,
    camera_neighbours,
    jaccard_graph,
    nearest_neighbours,
    rerank,
)


def descriptions(features, k1, k2):
    """The paper's descriptions with sets and whole matrices; squared distances as shares of the largest."""
    images = range(len(features))
    distance = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    largest = np.maximum(distance.max(axis=1), 1e-300)
    order = [sorted(images, key=lambda j: (j != i, distance[i, j], j)) for i in images]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    described = np.zeros((len(features), len(features)))
    for i in images:
        core = reciprocal(i, k1)
        whole = set(core)
        for j in core:
            more = reciprocal(j, int(np.around(k1 / 2)))
            if len(more & core) > 2 / 3 * len(more):
                whole |= more
        for j in whole:
            described[i, j] = np.exp(-distance[i, j] / largest[i])
        described[i] /= described[i].sum()
    described = np.array([described[order[i][:k2]].mean(axis=0) for i in images])
    return described, distance / largest[:, None]


def dense(query, gallery, k1, k2, share):
    """The paper, one pair at a time."""
    described, original = descriptions(np.concatenate([query, gallery]).astype(np.float64), k1, k2)
    result = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            other = len(query) + j
            smaller = np.minimum(described[i], described[other]).sum()
            larger = np.maximum(described[i], described[other]).sum()
            result[i, j] = (1 - share) * (1 - smaller / larger) + share * original[i, other]
    return result


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(1, 12),
    st.integers(1, 8),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([3, 16, 1024]),
)
def test_equals_the_dense_definition(seed, queries, images, k1, k2, share, whole_numbers, dtype, tile):
    rng = np.random.default_rng(seed)
    if whole_numbers:  # tied distances and images that are there twice
        features = rng.integers(0, 3, (queries + images, 3)).astype(dtype)
    else:
        features = rng.standard_normal((queries + images, 4)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_TILE", tile)
        got = rerank(features[:queries], features[queries:], k1, k2, share)
    # More neighbours than there are images: the lists end with the images.
    np.testing.assert_allclose(got, dense(features[:queries], features[queries:], k1, k2, share), atol=1e-5)


def test_equals_the_reference_implementation(parity):
    data = np.load(parity / "ranking.npz")
    reranking = Reranking.of(data["q_features"], data["g_features"], k1=20, k2=6, lambda_value=0.3)
    matrix = reranking.matrix()
    np.testing.assert_allclose(matrix, data["reranked"], atol=1e-5)
    ours = np.argsort(matrix, axis=1, kind="stable")
    theirs = np.sort(data["reranked"], axis=1)
    np.testing.assert_allclose(
        np.take_along_axis(data["reranked"], ours, 1), theirs, atol=1e-6
    )  # but for ties
    ids = [data[key] for key in ("q_pids", "q_camids", "g_pids", "g_camids")]
    result = evaluate_distances(reranking.blocks(block=17), *ids)
    np.testing.assert_allclose(result.cmc, data["reranked_cmc"], atol=1e-6)
    assert result.mAP == pytest.approx(float(data["reranked_mAP"]), abs=1e-6)


def clustered(seed, queries, images, people, dimensions=16):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, dimensions))
    pids = rng.integers(0, people, queries + images)
    features = (centres[pids] + 0.7 * rng.standard_normal((len(pids), dimensions))).astype(np.float32)
    return features[:queries], features[queries:], pids[:queries], pids[queries:]


def test_blocks_are_the_matrix_and_rank_better_than_the_distances():
    q, g, q_pids, g_pids = clustered(0, 50, 900, 30)
    reranking, (q_camids, g_camids) = Reranking.of(q, g), (np.zeros(50), np.ones(900))
    matrix = reranking.matrix()
    pieces = list(reranking.blocks(block=7, description=None))
    assert [start for start, _ in pieces] == list(range(0, 50, 7))
    np.testing.assert_allclose(np.concatenate([rows for _, rows in pieces]), matrix, atol=1e-6)
    plain = evaluate_distances(
        Reranking.of(q, g, lambda_value=1.0).blocks(), q_pids, q_camids, g_pids, g_camids
    )
    better = evaluate_distances(reranking.blocks(), q_pids, q_camids, g_pids, g_camids)
    assert better.mAP > plain.mAP + 0.02
    top = top_of_distances(pieces, q_pids, q_camids, g_pids, g_camids, k=5)
    assert top.indices.tolist() == np.argsort(matrix, axis=1, kind="stable")[:, :5].tolist()


def test_lambda_of_one_leaves_the_original_order():
    q, g, _, _ = clustered(1, 10, 300, 20)
    exact = ((q.astype(float)[:, None] - g.astype(float)[None]) ** 2).sum(axis=2)
    ours = np.argsort(rerank(q, g, lambda_value=1.0), axis=1)
    assert ours.tolist() == np.argsort(exact, axis=1).tolist()


def test_cosine_is_euclidean_between_rows_of_length_1():
    q, g, _, _ = clustered(2, 10, 200, 20)
    q[3] *= 50.0
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (q, g)]
    np.testing.assert_allclose(rerank(q, g, metric="cosine"), rerank(*unit), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_neither_threads_nor_tiles_nor_memory_maps_change_it(dtype, monkeypatch, tmp_path):
    q, g, _, _ = clustered(3, 40, 700, 30)
    q, g = q.astype(dtype), g.astype(dtype)
    g[300:350] = g[:50]
    first = Reranking.of(q, g)
    np.save(tmp_path / "g.npy", g)
    for cores, tile in ((1, 1024), (3, 50), (7, 333)):
        monkeypatch.setattr(threads, "core_count", lambda cores=cores: cores)
        monkeypatch.setattr(neighbours, "_TILE", tile)
        again = Reranking.of(q, np.load(tmp_path / "g.npy", mmap_mode="r"))
        np.testing.assert_array_equal(again.neighbours.nearest, first.neighbours.nearest)
        np.testing.assert_array_equal(again.queries.images, first.queries.images)
        np.testing.assert_array_equal(again.lists.images, first.lists.images)
        np.testing.assert_allclose(again.matrix(), first.matrix(), atol=1e-6)


def test_neighbours_are_those_of_a_sorted_matrix_near_duplicates_included():
    rng = np.random.default_rng(4)
    features = (5.0 + 0.02 * rng.standard_normal((400, 24))).astype(np.float32)
    features[200:240] = features[:40]  # and some are there twice
    exact = ((features.astype(float)[:, None] - features.astype(float)[None]) ** 2).sum(axis=2)
    np.fill_diagonal(exact, -1.0)
    found = nearest_neighbours(features[:30], features[30:], 6)
    wanted = np.argsort(exact, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(found.nearest, wanted)
    np.testing.assert_allclose(found.largest, exact.max(axis=1), atol=24 * 25 * 1e-6)
    # The product alone would not do: in float32 it leaves some of them in the wrong order.
    product = (features**2).sum(axis=1) - 2 * features @ features.T
    np.fill_diagonal(product, -1e9)
    assert (np.argsort(product, axis=1, kind="stable")[:, :6] != wanted).any()


def test_every_pair_of_blocks_is_compared_once():
    pairs = list(neighbours._pairs(7))
    assert sorted(pairs) == [(i, j) for i in range(7) for j in range(i, 7)]


def test_memory_grows_with_the_images_not_with_their_square(monkeypatch):
    monkeypatch.setattr(neighbours, "_TILE", 128)  # so that the tiles themselves do not count

    def cost(images):
        q, g, _, _ = clustered(5, images // 6, images, images // 10, dimensions=8)
        rerank(q[:5], g[:50])
        tracemalloc.start()
        try:
            reranking = Reranking.of(q, g)
            return len(reranking.lists.images), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (entries, peak), (more_entries, more_peak) = cost(2000), cost(6000)
    assert 2.5 < more_entries / entries < 3.5  # three times the images; nine times the pairs
    assert more_peak / peak < 4.0
    assert more_peak < 7000**2 * 4 / 8  # an eighth of one float32 matrix of all pairs


def test_a_handful_of_images_and_images_all_alike():
    assert rerank(np.ones((1, 3)), np.ones((1, 3))).tolist() == [[0.0]]
    np.testing.assert_allclose(rerank(np.ones((2, 3)), np.ones((30, 3)), k1=3).max(), 0.7, atol=0.7)
    got = rerank(np.array([[0.0]]), np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(got, dense(np.array([[0.0]]), np.array([[1.0], [2.0]]), 20, 6, 0.3), atol=1e-6)


def test_mistakes_are_named():
    good = np.ones((3, 4), np.float32)
    with pytest.raises(UserError, match="k1 and k2 of re-ranking must be at least 1, not 0 and 6"):
        rerank(good, good, k1=0)
    with pytest.raises(UserError, match=r"give 0 to 1, not 1\.5"):
        rerank(good, good, lambda_value=1.5)
    with pytest.raises(UserError, match="have 4 dimensions and gallery features 5"):
        rerank(good, np.ones((3, 5)))
    bad = good.copy()
    bad[1, 1] = np.inf
    with pytest.raises(UserError, match=r"gallery features hold NaN or infinity \(first in row 1\)"):
        rerank(good, bad)
    with pytest.raises(UserError, match="query features are empty"):
        rerank(good[:0], good)


def whole(graph, images, absent=1.0):
    bounds, columns, distances = graph
    matrix = np.full((images, images), absent)
    for image in range(images):
        span = slice(bounds[image], bounds[image + 1])
        matrix[image, columns[span]] = distances[span]
    return matrix


@pytest.mark.parametrize(("k1", "k2", "largest"), [(20, 6, 0.95), (5, 1, 0.6), (8, 3, 0.0)])
def test_the_jaccard_graph_is_the_dense_definition_with_lambda_0(k1, k2, largest):
    q, g, _, _ = clustered(6, 10, 140, 12)
    features = np.concatenate([q, g])
    features[60:64] = features[:4]  # some are there twice
    described, _ = descriptions(features.astype(np.float64), k1, k2)
    smaller = np.minimum(described[:, None], described[None]).sum(axis=2)
    exact = 1 - smaller / np.maximum(described[:, None], described[None]).sum(axis=2)
    graph = jaccard_graph(features, k1, k2, largest, description=None)
    found = whole(graph, 150)
    np.testing.assert_allclose(found[exact <= largest - 1e-5], exact[exact <= largest - 1e-5], atol=1e-5)
    assert (found[exact > largest + 1e-5] == 1.0).all()
    np.testing.assert_array_equal(found, found.T)
    assert (np.diag(found) == 0).all()


def test_a_jaccard_distance_by_hand():
    # Two pairs far apart on a line. With k1 = 1 an image is described by itself and its twin.
    features = np.array([[0.0], [1.0], [100.0], [102.0]])
    graph = jaccard_graph(features, k1=1, k2=1, largest=0.9, description=None)
    a, b = 1.0, np.exp(-1 / 102**2)  # image 0: itself, and image 1 as a share of the farthest, image 3
    first = np.array([a, b]) / (a + b)
    a, b = np.exp(-1 / 101**2), 1.0
    second = np.array([a, b]) / (a + b)
    smaller, larger = np.minimum(first, second).sum(), np.maximum(first, second).sum()
    matrix = whole(graph, 4)
    assert matrix[0, 1] == pytest.approx(1 - smaller / larger, abs=1e-6)
    assert (matrix[:2, 2:] == 1).all()


def test_memory_of_the_jaccard_graph_grows_with_the_images(monkeypatch):
    monkeypatch.setattr(neighbours, "_TILE", 128)

    def entries(images):
        features = np.concatenate(clustered(5, 1, images - 1, images // 10, dimensions=8)[:2])
        return len(jaccard_graph(features, description=None).images)

    assert 2.0 < entries(3000) / entries(1000) < 4.5  # three times the images; nine times the pairs


def test_mistakes_of_the_jaccard_graph_are_named():
    with pytest.raises(UserError, match="k1 and k2 of Jaccard distances must be at least 1, not 0 and 6"):
        jaccard_graph(np.ones((3, 4)), k1=0)
    with pytest.raises(UserError, match=r"lies in \[0, 1\); received 1"):
        jaccard_graph(np.ones((3, 4)), largest=1.0)
    with pytest.raises(UserError, match="at least two images; received 1"):
        jaccard_graph(np.ones((1, 4)))
    with pytest.raises(UserError, match="NaN or infinity"):
        jaccard_graph(np.full((4, 4), np.nan))


@pytest.mark.parametrize("block_bytes", [2**26, 4096])
def test_neighbours_by_camera_pair_are_the_definition(monkeypatch, block_bytes):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(11)
    features = rng.standard_normal((70, 6)).astype(np.float32)
    cameras = rng.integers(0, 3, 70)
    features[cameras == 1] += 1.5  # a camera that shifts its embeddings
    cameras[:2] = 7, 8  # cameras with one image
    squared = ((features[:, None].astype(float) - features[None]) ** 2).sum(axis=2)
    level = np.full((70, 9), np.nan)
    for image in range(70):
        for camera in set(cameras):
            there = (cameras == camera) & (np.arange(70) != image)
            if there.any():
                level[image, camera] = np.sort(squared[image, there])[:4].mean()
    for image in (0, 1):  # its own camera holds nothing else
        level[image, cameras[image]] = np.nanmean(level[image])
    compared = np.empty((70, 70))
    for i in range(70):
        for j in range(70):
            compared[i, j] = squared[i, j] - level[i, cameras[j]] / 2 - level[j, cameras[i]] / 2
    np.fill_diagonal(compared, -np.inf)
    found = camera_neighbours(features, cameras, 12, level=4, description=None)
    np.testing.assert_array_equal(found.nearest, np.argsort(compared, axis=1)[:, :12])
    np.testing.assert_allclose(found.largest, squared.max(axis=1), rtol=1e-5)


def test_a_camera_that_shifts_its_embeddings_gives_neighbours_of_both_cameras():
    rng = np.random.default_rng(12)
    people = np.repeat(np.arange(30), 8)
    cameras = np.tile([0, 1], 120)
    features = rng.standard_normal((30, 16))[people] + 0.3 * rng.standard_normal((240, 16))
    features[cameras == 1] += 2.0
    shared = []
    for known in (None, cameras):
        graph = whole(jaccard_graph(features, 7, 3, 0.9, None, known, 4), 240)
        crossing = (people[:, None] == people) & (cameras[:, None] != cameras)
        shared.append((graph[crossing] < 0.7).mean())
    assert shared[0] < 0.05 and shared[1] > 0.3


def test_odd_input_of_neighbours_by_camera():
    features = np.random.default_rng(13).standard_normal((50, 5))
    with pytest.raises(UserError, match="not finite"):
        jaccard_graph(np.full((4, 4), np.nan), cameras=np.zeros(4, int))
    assert camera_neighbours(features, np.zeros(50, int), 80, description=None).nearest.shape == (50, 50)
