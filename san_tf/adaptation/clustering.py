"""Clusters of crops that probably show one person, and a validity score that needs no identities.

Crops are compared by the Jaccard distance of their k-reciprocal neighbours (Zhong et al., CVPR 2017), kept as
a sparse graph, and clustered by DBSCAN (Ester et al., KDD 1996), as in SpCL (Ge et al., NeurIPS 2020) and
Cluster Contrast (Dai et al., ACCV 2022).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from san_tf.errors import UserError
from san_tf.evaluation.distances import l2_normalized
from san_tf.evaluation.reranking import jaccard_graph
from san_tf.short_repr import ShortRepr

OUTLIER = -1
UNKNOWN_CAMERA = -1
# Distances up to this one are kept: larger ones neither join clusters nor tell two of them apart.
_LARGEST = 0.95
# Of these, the distance whose clusters have the best score is taken.
DISTANCES = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
# A camera with fewer crops has no statistics of its own.
_FEWEST_CROPS = 16
# Clusters that hold together are the same ones at a slightly smaller distance.
_STRICTER = 0.9


@dataclass(frozen=True, repr=False)
class Clustering(ShortRepr):
    """Clusters of N crops, and how far they can be trusted.

    Attributes:
        labels: `(N,)` int64 cluster of each crop, from 0; -1 is an outlier.
        silhouette: mean silhouette over all crops in the Jaccard distance, in [-1, 1]; an outlier counts 0.
        stability: adjusted Rand index of these clusters and those at a distance smaller by a tenth, over the
            crops that are clustered here.
        spanning: share of the clusters with crops of at least two cameras; None without two cameras.
        distance: largest distance of neighbours in a cluster.
        score: validity, the product of silhouette, stability and, where it is known, `(1 + spanning) / 2`; at
            least 0, higher is better.
    """

    labels: np.ndarray
    silhouette: float
    stability: float
    spanning: float | None
    distance: float
    score: float

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.labels.max(initial=OUTLIER)) + 1

    @property
    def outliers(self) -> int:
        """Number of crops that belong to no cluster."""
        return int(np.count_nonzero(self.labels == OUTLIER))


@dataclass(frozen=True, repr=False)
class Answers(ShortRepr):
    """What a person said about M pairs of crops.

    Attributes:
        first: `(M,)` int crops.
        second: `(M,)` int crops.
        same: `(M,)` bool, whether both show one person.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class ClusterSettings:
    """How crops are clustered.

    Args:
        distance: largest Jaccard distance of neighbours in a cluster, DBSCAN's eps, in (0, 0.95]; None takes
            the one of `DISTANCES` whose clusters have the best score. A weak encoder needs a smaller one.
        fewest: neighbours that make a crop the core of a cluster, the crop itself included.
        k1: neighbours that describe a crop; about as many as a person has crops.
        k2: neighbours that descriptions are averaged over.
        centre_cameras: take each camera's mean and deviation out of the embeddings, where cameras are known.
        camera_level: nearest crops of a camera that distances to it are measured from, where cameras are
            known, see `camera_neighbours`; 0 compares distances as they are, which suits cameras that hardly
            share people.
    """

    distance: float | None = None
    fewest: int = 4
    k1: int = 14
    k2: int = 4
    centre_cameras: bool = True
    camera_level: int = 10

    def __post_init__(self) -> None:
        if self.distance is not None and not 0.0 < self.distance <= _LARGEST:
            raise UserError(
                f"The distance within clusters lies between 0 and {_LARGEST}; received {self.distance}."
            )
        for name in ("fewest", "k1", "k2"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; received {getattr(self, name)}.")
        if self.camera_level < 0:
            raise UserError(f"camera_level must be at least 0; received {self.camera_level}.")


def camera_centred(features: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Take each camera's mean and deviation out of embeddings, and scale them to length 1.

    Crops of one camera share its light, its background and its side of the people. So their embeddings share
    an offset and a spread, which make crops of other people by the same camera nearer than the same person's
    by another one. Cameras with fewer than 16 crops, and unknown ones, share one mean and deviation.

    Args:
        features: `(N, D)` float.
        cameras: `(N,)` int; -1 is unknown.

    Returns:
        `(N, D)` float32.

    Example:
        >>> graph = jaccard_graph(camera_centred(features, cameras))
    """
    rows = np.asarray(l2_normalized(np.asarray(features, np.float32)), np.float64)
    cameras = np.asarray(cameras)
    own = _own_statistics(cameras)
    if not len(own):
        return rows.astype(np.float32)
    whole = rows.std(axis=0)
    result = np.empty_like(rows)
    for chosen in [*(cameras == camera for camera in own), ~np.isin(cameras, own)]:
        if chosen.any():
            part = rows[chosen]
            deviation = part.std(axis=0)
            # A channel that hardly varies under this camera would become noise.
            scale = np.where(deviation > 0.1 * whole, whole / np.maximum(deviation, 1e-12), 1.0)
            result[chosen] = (part - part.mean(axis=0)) * scale
    centred: np.ndarray = l2_normalized(result.astype(np.float32))
    return centred


def _own_statistics(cameras: np.ndarray) -> np.ndarray:
    """Return the known cameras with enough crops for statistics of their own."""
    known, counts = np.unique(cameras[cameras != UNKNOWN_CAMERA], return_counts=True)
    own: np.ndarray = known[counts >= _FEWEST_CROPS]
    return own


def cluster(
    features: np.ndarray,
    cameras: np.ndarray | None = None,
    settings: ClusterSettings = ClusterSettings(),
    description: str | None = "Comparing all pairs",
    answers: Answers | None = None,
) -> Clustering:
    """Cluster crops by their embeddings.

    Args:
        features: `(N, D)` float embeddings.
        cameras: `(N,)` int; -1 is unknown; None if no camera is known.
        settings: how.
        description: of the progress bar; None for no bar.
        answers: pairs that a person answered; the clusters obey them, see `obeying`. Their validity is that
            of the clusters before, so that it says what the encoder alone can tell.

    Returns:
        Clusters and their validity.

    Raises:
        UserError: fewer than two crops, or features that are not finite.

    Example:
        >>> found = cluster(load_encoder("synthetic").embed(paths), cameras)
        >>> found.clusters, found.outliers
        (512, 640)
    """
    if cameras is None:
        cameras = np.full(len(features), UNKNOWN_CAMERA)
    rows: np.ndarray = l2_normalized(np.asarray(features, np.float32))
    if settings.centre_cameras:
        rows = camera_centred(features, cameras)
    graph = crop_graph(rows, cameras, settings, description)
    best = assessed_best(graph, cameras, settings)
    if answers is None or not len(answers.same):
        return best
    return dataclasses.replace(best, labels=obeying(answers, best.labels, graph))


def crop_graph(
    rows: np.ndarray, cameras: np.ndarray, settings: ClusterSettings, description: str | None
) -> csr_matrix:
    """Return the sparse Jaccard distances of crops that clusters are made of; an absent one counts as 1.

    Args:
        rows: `(N, D)` float32 of length 1, from `camera_centred` where the settings say so.
        cameras: `(N,)` int; -1 is unknown.
        settings: how.
        description: of the progress bar; None for no bar.
    """
    k1 = min(settings.k1, max(len(rows) - 1, 1))
    own = _own_statistics(cameras)
    # Crops of other cameras are compared as if these were one.
    levelled = np.where(np.isin(cameras, own), cameras, UNKNOWN_CAMERA) if len(own) > 1 else None
    bounds, images, distances = jaccard_graph(
        rows,
        k1,
        settings.k2,
        _LARGEST,
        description,
        levelled if settings.camera_level else None,
        settings.camera_level,
    )
    return csr_matrix((distances, images, bounds), shape=(len(rows), len(rows)))


def assessed_best(graph: csr_matrix, cameras: np.ndarray, settings: ClusterSettings) -> Clustering:
    """Cluster at the distance of the settings, or at the one with the best score; see `assessed`."""
    tried = DISTANCES if settings.distance is None else (settings.distance,)
    found = [assessed(graph, cameras, distance, settings.fewest) for distance in tried]
    return max(found, key=lambda one: (one.score, one.clusters > 1))


def joined_crops(crops: int, links: np.ndarray) -> np.ndarray:
    """Number the units of crops that answers join, `(crops,)` int64.

    Args:
        crops: number of crops.
        links: `(M, 2)` int pairs that show one person.
    """
    return _components(crops, links)


def obeying(answers: Answers, labels: np.ndarray, graph: csr_matrix) -> np.ndarray:
    """Change clusters so that they obey a person's answers.

    Crops that answers join are one unit. A unit's clusters become one, and a unit of outliers becomes a
    cluster of its own. Where two units that answers keep apart are then in one cluster, it is divided: each
    of its crops goes with the nearest unit, and crops that are near neither become outliers.

    Args:
        answers: pairs that a person answered.
        labels: `(N,)` clusters from 0; -1 is an outlier.
        graph: `(N, N)` sparse distances; an absent one counts as 1.

    Returns:
        `(N,)` int64 clusters from 0, without gaps.

    Raises:
        UserError: the answers contradict each other.
    """
    crops = len(labels)
    joined = answers.same.astype(bool)
    links = np.stack([answers.first, answers.second], axis=1)
    unit = _components(crops, links[joined])
    apart = unit[links[~joined]]
    if (apart[:, 0] == apart[:, 1]).any():
        first, second = links[~joined][apart[:, 0] == apart[:, 1]][0]
        raise UserError(
            f"The answers contradict each other: crops {first} and {second} are said to be two people, but "
            "other answers join them; look at their pairs again."
        )
    sizes = np.bincount(unit, minlength=unit.max() + 1)
    # Units of one crop that no cluster holds stay outliers.
    outlier = (labels == OUTLIER) & (sizes[unit] == 1)
    members = np.flatnonzero(labels != OUTLIER)
    # A node for each unit and one for each cluster; a merged cluster is a component of these.
    edges = np.stack([unit[members], len(sizes) + labels[members]], axis=1)
    result = _components(len(sizes) + int(labels.max(initial=OUTLIER)) + 1, edges)[unit]
    result[outlier] = OUTLIER
    fresh = int(result.max(initial=OUTLIER)) + 1
    inside = np.flatnonzero(~outlier)
    shared = {int(unit[crop]): int(result[crop]) for crop in inside}
    divided: dict[int, set[int]] = {}
    for one, other in apart.tolist():
        if one in shared and shared[one] == shared.get(other):
            divided.setdefault(shared[one], set()).update((one, other))
    for name, units in divided.items():
        within = np.flatnonzero(result == name)
        seeds = sorted(units)
        seated = [within[unit[within] == seed] for seed in seeds]
        rows = graph[within].tocsc()
        near = np.zeros((len(within), len(seeds)))
        for column, crops_of in enumerate(seated):
            part = rows[:, crops_of].tocoo()
            # Distances of 0 are stored, so nearness is counted from the stored entries alone.
            np.maximum.at(near[:, column], part.row, 1.0 - part.data)
        # Crops that are joined go together.
        groups = np.unique(unit[within], return_inverse=True)[1]
        together = np.zeros((groups.max() + 1, len(seeds)))
        np.maximum.at(together, groups, near)
        near = together[groups]
        for column, seed in enumerate(seeds):
            near[unit[within] == seed] = np.eye(len(seeds))[column] * 2.0
        chosen = fresh + near.argmax(axis=1)
        alone = near.max(axis=1) == 0.0
        result[within] = np.where(alone, OUTLIER, chosen)
        fresh += len(seeds)
    kept = result != OUTLIER
    result[kept] = np.unique(result[kept], return_inverse=True)[1]
    return result.astype(np.int64)


def _components(nodes: int, edges: np.ndarray) -> np.ndarray:
    """Number the connected components of a graph, `(nodes,)` int64."""
    graph = csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def dbscan(graph: csr_matrix, distance: float, fewest: int) -> np.ndarray:
    """Cluster by DBSCAN on a sparse graph of distances.

    Args:
        graph: `(N, N)` distances; those that are absent are larger than `distance`. Distances of 0 are
            stored.
        distance: largest distance of neighbours.
        fewest: neighbours of a core, itself included.

    Returns:
        `(N,)` int64 clusters from 0; -1 is an outlier.
    """
    near = csr_matrix((graph.data, graph.indices, graph.indptr), shape=graph.shape)
    found = DBSCAN(eps=distance, min_samples=fewest, metric="precomputed").fit(near)
    return found.labels_.astype(np.int64)


def assessed(graph: csr_matrix, cameras: np.ndarray, distance: float, fewest: int) -> Clustering:
    """Cluster by DBSCAN, and measure how valid the clusters are; see `Clustering`.

    Args:
        graph: `(N, N)` sparse distances; an absent one counts as 1.
        cameras: `(N,)` int; -1 is unknown.
        distance: see `dbscan`.
        fewest: likewise.
    """
    labels = dbscan(graph, distance, fewest)
    inside = labels != OUTLIER
    silhouette = float(silhouettes(graph, labels).mean())
    stability = 0.0
    if inside.any():
        stricter = dbscan(graph, _STRICTER * distance, fewest)[inside]
        # Each outlier is a cluster of its own: all of them together would look like agreement.
        alone = np.flatnonzero(stricter == OUTLIER)
        stricter[alone] = len(labels) + alone
        stability = max(float(adjusted_rand_score(labels[inside], stricter)), 0.0)
    spanning = None
    seen = inside & (cameras != UNKNOWN_CAMERA)
    if len(np.unique(cameras[cameras != UNKNOWN_CAMERA])) > 1:
        pairs = np.unique(np.stack([labels[seen], cameras[seen]]), axis=1)[0]
        spanning = float((np.bincount(pairs) > 1).sum() / (labels.max() + 1)) if inside.any() else 0.0
    factor = 1.0 if spanning is None else (1.0 + spanning) / 2.0
    score = max(silhouette, 0.0) * stability * factor
    return Clustering(labels, silhouette, stability, spanning, distance, score)


def silhouettes(graph: csr_matrix, labels: np.ndarray) -> np.ndarray:
    """Silhouette of each crop (Rousseeuw 1987): `(b - a) / max(a, b)`.

    a is the mean distance to the other crops of the crop's cluster, b the smallest mean distance to the crops
    of another cluster. So a cluster that swallowed many people scores little: most of its pairs are far
        apart.

    Args:
        graph: `(N, N)` sparse distances; an absent one counts as 1.
        labels: `(N,)` clusters from 0; -1 is an outlier.

    Returns:
        `(N,)` float64 in [-1, 1]; 0 for an outlier.
    """
    result = np.zeros(len(labels))
    number = int(labels.max(initial=OUTLIER)) + 1
    if number == 0:
        return result
    sizes = np.bincount(labels[labels >= 0], minlength=number)
    inside = np.flatnonzero(labels >= 0)
    # How much nearer than 1 each crop is to each cluster, summed: sparse, because absent pairs add nothing.
    nearness = csr_matrix((1.0 - graph.data.astype(np.float64), graph.indices, graph.indptr), graph.shape)
    member = csr_matrix((np.ones(len(inside)), (inside, labels[inside])), shape=(len(labels), number))
    sums = (nearness @ member).tocsr()
    for crop in inside:
        span = slice(sums.indptr[crop], sums.indptr[crop + 1])
        clusters, values = sums.indices[span], sums.data[span]
        own, others = clusters == labels[crop], clusters != labels[crop]
        size = sizes[labels[crop]]
        # The crop itself is at distance 0.
        a = 1.0 - (values[own].sum() - 1.0) / max(size - 1, 1)
        b = 1.0 - (values[others] / sizes[clusters[others]]).max(initial=0.0)
        result[crop] = (b - a) / max(a, b) if size > 1 and number > 1 and max(a, b) > 0 else 0.0
    return result


def change(before: np.ndarray, now: np.ndarray) -> float:
    """Adjusted Rand index of two clusterings of the same crops, over those that both cluster.

    Args:
        before: `(N,)` labels; -1 is an outlier.
        now: `(N,)` labels.

    Returns:
        1.0 for equal clusters, about 0.0 for unrelated ones or if no crop is in both.
    """
    both = (before != OUTLIER) & (now != OUTLIER)
    return float(adjusted_rand_score(before[both], now[both])) if both.any() else 0.0


def against_identities(labels: np.ndarray, pids: np.ndarray) -> dict[str, Any]:
    """Compare clusters with identities that were not used to find them.

    Args:
        labels: `(N,)` clusters; -1 is an outlier.
        pids: `(N,)` identities; below 1 is unknown.

    Returns:
        `people`, and over the clustered crops of known people: `purity`, the share that are of their
        cluster's most frequent person, and `gathered`, the mean share of a person's crops in the person's
        largest cluster.

    Example:
        >>> against_identities(np.array([0, 0, 1, -1]), np.array([5, 5, 7, 7]))
        {'people': 2, 'purity': 1.0, 'gathered': 0.75}
    """
    known = pids >= 1
    people = np.unique(pids[known])
    inside = known & (labels != OUTLIER)
    if not inside.any():
        return {"people": len(people), "purity": 0.0, "gathered": 0.0}
    pairs, counts = np.unique(np.stack([labels[inside], pids[inside]]), axis=1, return_counts=True)
    best = np.zeros(int(pairs[0].max()) + 1, np.int64)
    np.maximum.at(best, pairs[0], counts)
    place = np.searchsorted(people, pairs[1])
    largest = np.zeros(len(people), np.int64)
    np.maximum.at(largest, place, counts)
    total = np.bincount(np.searchsorted(people, pids[known]), minlength=len(people))
    return {
        "people": len(people),
        "purity": float(best.sum() / inside.sum()),
        "gathered": float((largest / total).mean()),
    }


def as_plain(found: Clustering) -> dict[str, Any]:
    """Return a clustering's numbers as JSON values, without its labels."""
    values = {"clusters": found.clusters, "outliers": found.outliers, **dataclasses.asdict(found)}
    values.pop("labels")
    return values
