"""Lists the first gallery images of each query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation import ranking_kernels as kernels
from san_tf.evaluation.distances import distance_blocks, feature_rows
from san_tf.evaluation.inputs import checked_distances
from san_tf.evaluation.threads import finish_blocks, ranges
from san_tf.evaluation.true_matches import TrueMatches
from san_tf.short_repr import ShortRepr

# Images beyond the first k that are measured again, because rounding may have put them just behind.
_SPARE = 8


@dataclass(frozen=True, repr=False)
class TopMatches(ShortRepr):
    """The first k gallery images of each query.

    Args:
        indices: `(Q, k)` int64 into the gallery, -1 where fewer than k images remain.
        distances: `(Q, k)` distances (squared for "euclidean"), infinite where `indices` is -1.
        correct: `(Q, k)` bool: whether the image shows the query's identity.
    """

    indices: np.ndarray
    distances: np.ndarray
    correct: np.ndarray


def top_matches(
    query_features: np.ndarray,
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_features: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    k: int = 10,
    metric: str = "euclidean",
) -> TopMatches:
    """Return the first k gallery images of each query by the Market-1501 protocol.

    A few more than k are found by distances in the features' type. Their distances are measured again in
    float64, as in `evaluate_ranking`, so that near duplicates are in their true order.

    Args:
        query_features: `(Q, D)` numbers.
        query_pids: `(Q,)` int identities.
        query_camids: `(Q,)` int cameras; -1 is unknown.
        gallery_features: `(G, D)` numbers; may be a memory map.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.
        k: images per query.
        metric: "euclidean" or "cosine".

    Raises:
        UserError: features or ids that do not fit, unknown metric, or k too small.
    """
    query, gallery = feature_rows(query_features, gallery_features, metric)
    top = top_of_distances(
        distance_blocks(query_features, gallery_features, metric),
        query_pids, query_camids, gallery_pids, gallery_camids, k + _SPARE,
    )  # fmt: skip
    for start, stop in ranges(len(query), 256):
        rows, _ = query.block(start, stop)
        listed, places = np.unique(top.indices[start:stop], return_inverse=True)
        others, _ = gallery.take(np.maximum(listed, 0))
        kernels.measure_lists(
            rows, others, places.reshape(stop - start, -1), top.indices[start:stop],
            top.distances[start:stop], metric == "cosine",
        )  # fmt: skip
    indices = top.indices[:, :k].copy()
    correct = (np.asarray(gallery_pids)[indices] == np.asarray(query_pids)[:, None]) & (indices >= 0)
    return TopMatches(indices, top.distances[:, :k].copy(), correct)


def top_of_distances(
    blocks: Iterable[tuple[int, np.ndarray]],
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    k: int = 10,
) -> TopMatches:
    """Return the first k gallery images of each query by given distances, such as re-ranked ones.

    Args:
        blocks: pairs of the first query's index and `(rows, G)` distances.
        query_pids: `(Q,)` int.
        query_camids: `(Q,)` int.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.
        k: images per query.

    Raises:
        UserError: ids or distances that do not fit, or k below 1.
    """
    if k < 1:
        raise UserError(f"A ranked list holds at least 1 image, not {k}.")
    number, size = len(query_pids), len(gallery_pids)
    sought = TrueMatches.of(query_pids, query_camids, number, gallery_pids, gallery_camids, size)
    indices = np.full((number, k), -1, np.int64)
    nearest = np.full((number, k), np.inf, np.float32)
    for first, distances in blocks:
        checked = checked_distances(distances, first, number, size)

        def insert(span: tuple[int, int], first: int = first, distances: np.ndarray = checked) -> None:
            kernels.insert_kept(
                np.ascontiguousarray(distances[slice(*span)], np.float32), first + span[0],
                sought.query_camids, sought.gallery_camids, sought.junk, sought.order, sought.same,
                indices, nearest,
            )  # fmt: skip

        finish_blocks(insert, ranges(len(checked), 64))
    correct = (sought.gallery_pids[indices] == sought.query_pids[:, None]) & (indices >= 0)
    return TopMatches(indices, nearest, correct)
