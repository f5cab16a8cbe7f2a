import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.evaluation.ranking import top_matches, top_of_distances


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


def test_top_matches_tell_near_duplicates_apart():
    rng = np.random.default_rng(4)
    q = (100 + 1e-3 * rng.standard_normal((3, 8))).astype(np.float32)
    g = (100 + 1e-3 * rng.standard_normal((40, 8))).astype(np.float32)
    exact = ((q.astype(float)[:, None] - g.astype(float)[None]) ** 2).sum(axis=2)
    top = top_matches(q, [1, 1, 1], [0, 0, 0], g, np.ones(40), np.ones(40), k=35)
    assert top.indices.tolist() == np.argsort(exact, axis=1)[:, :35].tolist()
    np.testing.assert_allclose(top.distances, np.sort(exact, axis=1)[:, :35], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 12))
def test_top_of_distances_equals_a_sorted_list(seed, images, k):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 9, (4, images)).astype(np.float32)
    q_pids, q_camids = rng.integers(0, 6, 4), rng.integers(0, 3, 4)
    g_pids, g_camids = rng.integers(-1, 6, images), rng.integers(0, 3, images)
    top = top_of_distances([(0, distances[:3]), (3, distances[3:])], q_pids, q_camids, g_pids, g_camids, k)
    for query in range(4):
        kept = [
            g
            for g in sorted(range(images), key=lambda g: (distances[query, g], g))
            if g_pids[g] != -1 and not (g_pids[g] == q_pids[query] and g_camids[g] == q_camids[query])
        ][:k]
        assert top.indices[query].tolist() == kept + [-1] * (k - len(kept))
        assert top.correct[query, : len(kept)].tolist() == [g_pids[g] == q_pids[query] for g in kept]
