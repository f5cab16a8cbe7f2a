"""Clusters and their validity, against dense definitions, naive loops and hand arithmetic."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN
from sklearn.metrics import silhouette_samples

from san_tf import UserError
from san_tf.adaptation.clustering import (
    Answers,
    ClusterSettings,
    against_identities,
    camera_centred,
    change,
    cluster,
    dbscan,
    obeying,
    silhouettes,
)

# About as many neighbours as a person has crops here.
FEW = ClusterSettings(k1=8)


def people(seed, number, crops, dimensions=32, noise=0.5, cameras=2, shift=0.0):
    """Embeddings of people by several cameras, which shift all of theirs."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((number, dimensions))
    offsets = shift * rng.standard_normal((cameras, dimensions))
    pids = np.repeat(np.arange(number), crops)
    camids = np.tile(np.arange(crops) % cameras, number)
    features = centres[pids] + offsets[camids] + noise * rng.standard_normal((len(pids), dimensions))
    return features.astype(np.float32), pids + 1, camids


def sparse(distances, largest):
    kept = distances <= largest
    columns = np.nonzero(kept)[1]
    bounds = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return csr_matrix((distances[kept], columns, bounds), shape=distances.shape)


def test_clusters_are_the_people_where_these_are_far_apart():
    features, pids, camids = people(0, 12, 8, noise=0.2)
    found = cluster(features, camids, FEW)
    assert found.clusters == 12 and found.outliers == 0
    assert against_identities(found.labels, pids) == {"people": 12, "purity": 1.0, "gathered": 1.0}
    assert found.spanning == 1.0 and found.stability == 1.0 and found.silhouette > 0.5
    assert found.score == pytest.approx(found.silhouette)


@pytest.mark.parametrize(("distance", "fewest"), [(0.3, 2), (0.5, 4), (0.7, 5)])
def test_dbscan_on_the_graph_is_dbscan_on_the_matrix(distance, fewest):
    rng = np.random.default_rng(3)
    points = rng.random((150, 2))
    points[100:110] = points[:10]  # copies, at distance 0
    distances = np.minimum(9 * np.linalg.norm(points[:, None] - points[None], axis=2), 1.0)
    whole = DBSCAN(eps=distance, min_samples=fewest, metric="precomputed").fit(distances).labels_
    found = dbscan(sparse(distances, 0.9), distance, fewest)
    assert (found == -1).any() and found.max() > 1
    np.testing.assert_array_equal(found, whole)


def test_silhouettes_are_those_of_the_matrix():
    rng = np.random.default_rng(4)
    points = rng.random((60, 2))
    distances = np.minimum(2 * np.linalg.norm(points[:, None] - points[None], axis=2), 1.0)
    labels = (points[:, 0] * 3).astype(int)
    # Absent distances count as 1.
    filled = np.where(distances <= 0.8, distances, 1.0)
    np.testing.assert_allclose(
        silhouettes(sparse(distances, 0.8), labels), silhouette_samples(filled, labels, metric="precomputed")
    )
    labels[:20] = -1
    found = silhouettes(sparse(distances, 0.8), labels)
    assert (found[:20] == 0).all()
    inside = filled[20:, 20:]
    np.testing.assert_allclose(
        found[20:], silhouette_samples(inside, labels[20:], metric="precomputed"), atol=1e-12
    )


def test_silhouettes_by_hand():
    # Crops 0 and 1 are a cluster, 2 and 3 another one; crop 4 is an outlier.
    distances = np.ones((5, 5))
    np.fill_diagonal(distances, 0.0)
    for i, j, d in ((0, 1, 0.2), (2, 3, 0.4), (1, 2, 0.5)):
        distances[i, j] = distances[j, i] = d
    found = silhouettes(sparse(distances, 0.9), np.array([0, 0, 1, 1, -1]))
    # Crop 1: a = 0.2, b = (0.5 + 1) / 2 = 0.75.
    np.testing.assert_allclose(found, [0.8, 0.55 / 0.75, 0.35 / 0.75, 0.6, 0.0])


def test_one_cluster_of_everything_and_outliers_alone_score_nothing():
    features, _, camids = people(1, 10, 6)
    assert cluster(features, camids, ClusterSettings(fewest=60)).clusters == 0
    nothing = cluster(features, camids, ClusterSettings(fewest=60))
    assert nothing.score == 0.0 and nothing.outliers == 60
    copies = cluster(np.ones((40, 8), np.float32), None)
    assert copies.clusters <= 1 and copies.score == 0.0
    # Noise has clusters by chance; how good they look depends on the processor's rounding, but they are far
    # from those of people.
    features, _, camids = people(0, 12, 8, noise=0.2)
    good = cluster(features, camids, FEW).score
    for seed in range(4):
        noise = np.random.default_rng(seed).standard_normal((40, 8)).astype(np.float32)
        assert cluster(noise, None).score < 0.6 * good


def test_worse_embeddings_score_less():
    scores = []
    for noise in (0.3, 0.6, 1.0, 1.6):
        features, _, camids = people(2, 30, 8, noise=noise)
        scores.append(cluster(features, camids, FEW).score)
    assert scores == sorted(scores, reverse=True) and scores[0] > 2 * scores[-1]


def test_cameras_that_shift_their_embeddings_are_centred():
    features, pids, camids = people(5, 40, 8, noise=0.4, shift=3.0)
    apart = cluster(features, camids, ClusterSettings(k1=8, centre_cameras=False))
    found = cluster(features, camids, FEW)
    assert apart.spanning < 0.1 < 0.9 < found.spanning
    purity = against_identities(found.labels, pids)
    assert purity["purity"] > 0.95 and purity["gathered"] > 0.9
    assert against_identities(apart.labels, pids)["gathered"] < 0.6
    assert found.score > apart.score


def test_cameras_that_know_themselves_better_than_people_still_share_clusters():
    # The cameras' statistics are equal, but each adds something of its own to every person.
    rng = np.random.default_rng(8)
    number, crops = 60, 8
    pids = np.repeat(np.arange(number), crops)
    camids = np.tile(np.arange(crops) % 2, number)
    shared, own = rng.standard_normal((number, 24)), rng.standard_normal((2, number, 24))
    features = shared[pids] + 0.7 * own[camids, pids] + 0.6 * rng.standard_normal((len(pids), 24))
    found, before = (
        cluster(features, camids, ClusterSettings(k1=10, k2=4, camera_level=level)) for level in (4, 0)
    )
    numbers = [against_identities(one.labels, pids + 1) for one in (found, before)]
    assert found.spanning > before.spanning + 0.15
    assert numbers[0]["gathered"] > numbers[1]["gathered"] + 0.03
    assert numbers[0]["purity"] > 0.9


def test_centring_by_hand():
    rng = np.random.default_rng(6)
    unit = rng.standard_normal((60, 5))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    camids = np.repeat([3, 7, -1], 20)
    expected = np.empty_like(unit)
    for camera in (3, 7, -1):
        part = unit[camids == camera]
        expected[camids == camera] = (part - part.mean(axis=0)) / part.std(axis=0) * unit.std(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(camera_centred(9 * unit, camids), expected, atol=1e-5)
    # No camera has enough crops: nothing is taken out.
    np.testing.assert_allclose(camera_centred(unit, np.arange(60)), unit, atol=1e-6)


def test_numbers_of_identities_by_hand():
    labels = np.array([0, 0, 0, 1, 1, -1, -1])
    pids = np.array([5, 5, 7, 7, 7, 9, -1])
    # 4 of 5 are their cluster's most frequent person; 5: 2 of 2, 7: 2 of 3, 9: none of 1.
    assert against_identities(labels, pids) == {
        "people": 3,
        "purity": 0.8,
        "gathered": pytest.approx((1 + 2 / 3 + 0) / 3),
    }
    assert change(labels, np.array([4, 4, 4, 2, 2, 0, 0])) == 1.0
    assert change(labels, np.full(7, -1)) == 0.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"distance": 0.0}, "lies between 0 and 0.95; received 0.0"),
        ({"distance": float("nan")}, "received nan"),
        ({"fewest": 0}, "fewest must be at least 1"),
        ({"k1": 0}, "k1 must be at least 1"),
        ({"camera_level": -1}, "camera_level must be at least 0"),
    ],
)
def test_impossible_settings_are_told(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        ClusterSettings(**settings)


def answers(*rows):
    first, second, same = zip(*rows, strict=True)
    return Answers(np.array(first), np.array(second), np.array(same))


def test_answers_join_and_divide_clusters_by_hand():
    distances = np.ones((9, 9))
    np.fill_diagonal(distances, 0.0)
    for i, j, d in ((0, 1, 0.1), (0, 2, 0.2), (2, 3, 0.1), (0, 3, 0.5), (4, 5, 0.1)):
        distances[i, j] = distances[j, i] = d
    graph = sparse(distances, 0.9)
    labels = np.array([0, 0, 0, 0, 1, 1, -1, -1, -1])
    # An outlier joins a cluster, two outliers make one, and the third stays.
    found = obeying(answers((4, 6, True), (7, 8, True)), labels, graph)
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 1, 1, 1, 2, 2])
    # Two clusters become one.
    np.testing.assert_array_equal(
        obeying(answers((0, 4, True)), labels, graph), [0, 0, 0, 0, 0, 0, -1, -1, -1]
    )
    # 0 and 3 are two people: 1 is nearest to 0, and 2 to 3.
    found = obeying(answers((0, 3, False)), labels, graph)
    assert found[0] == found[1] != found[2] == found[3] and found[4] == found[5] and found.max() == 2
    # A crop that is near neither becomes an outlier; one joined to a near one goes with it.
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 0, -1])
    found = obeying(answers((0, 3, False), (1, 7, True)), labels, graph)
    assert found[6] == -1 and found[7] == found[1] == found[0]
    # What is apart already stays as it is.
    np.testing.assert_array_equal(obeying(answers((0, 4, False)), labels, graph), labels)


def test_clusters_obey_many_answers_and_get_better():
    features, pids, camids = people(9, 30, 8, noise=1.0)
    rng = np.random.default_rng(9)
    first, second = rng.integers(0, len(pids), (2, 3000))
    chosen = first != second
    told = Answers(first[chosen], second[chosen], (pids[first] == pids[second])[chosen])
    before, found = cluster(features, camids, FEW), cluster(features, camids, FEW, answers=told)
    together = found.labels[told.first] == found.labels[told.second]
    clustered = (found.labels[told.first] >= 0) & (found.labels[told.second] >= 0)
    assert (together & clustered)[told.same].all() and not (together & clustered)[~told.same].any()
    one, other = (against_identities(c.labels, pids) for c in (before, found))
    assert other["purity"] >= one["purity"] and other["gathered"] > one["gathered"]


def test_answers_that_contradict_each_other_are_told():
    graph = sparse(1.0 - np.eye(4), 0.9)
    with pytest.raises(UserError, match="crops 0 and 2 are said to be two people"):
        obeying(answers((0, 1, True), (1, 2, True), (0, 2, False)), np.zeros(4, int), graph)
