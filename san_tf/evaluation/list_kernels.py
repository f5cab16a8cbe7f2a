"""The compiled loops that keep the nearest few of many distances, in sorted lists."""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled
from san_tf.evaluation.distance_kernels import direct_distance

_STRETCH = 256


@compiled
def insert(indices: np.ndarray, distances: np.ndarray, index: int, distance: float) -> None:
    """Put an image in its place in one sorted list, if it is near enough; the last falls out.

    Of equal distances, that of the smaller index is first, in whatever order images come.

    Args:
        indices: `(k,)` int64.
        distances: `(k,)` ascending.
        index: of the image.
        distance: of the image.
    """
    place = len(indices)
    while place > 0 and (
        distance < distances[place - 1]
        or (distance == distances[place - 1] and (index < indices[place - 1] or indices[place - 1] < 0))
    ):
        place -= 1
    if place == len(indices):
        return
    for k in range(len(indices) - 1, place, -1):
        indices[k] = indices[k - 1]
        distances[k] = distances[k - 1]
    indices[place] = index
    distances[place] = distance


@compiled
def insert_row(row: np.ndarray, first: int, indices: np.ndarray, distances: np.ndarray) -> None:
    """Insert the images of one row of distances, numbered from `first` on; NaN is left out."""
    for begin in range(0, len(row), _STRETCH):
        stop = min(begin + _STRETCH, len(row))
        limit = distances[-1]
        near = np.int32(0)
        for j in range(begin, stop):
            near = np.int32(near + np.int32(row[j] <= limit))
        if near > 0:
            for j in range(begin, stop):
                if row[j] <= distances[-1]:
                    insert(indices, distances, first + j, row[j])


@compiled
def insert_kept(
    rows: np.ndarray,
    first_query: int,
    query_camids: np.ndarray,
    gallery_camids: np.ndarray,
    junk: np.ndarray,
    order: np.ndarray,
    same: np.ndarray,
    indices: np.ndarray,
    distances: np.ndarray,
) -> None:
    """List the nearest images of some queries that the protocol keeps: no junk, nor the own camera's.

    Args:
        rows: `(q, G)` distances of the queries from `first_query` on.
        first_query: index of the first query.
        query_camids: `(Q,)`.
        gallery_camids: `(G,)`.
        junk: `(G,)` bool.
        order: `(G,)` as in `ranking_kernels.list_matches`.
        same: `(Q, 2)` likewise.
        indices: `(Q, k)` int64, written.
        distances: `(Q, k)` of the rows' type, written.
    """
    kept = np.empty(rows.shape[1], rows.dtype)
    for i in range(len(rows)):
        query = first_query + i
        for j in range(rows.shape[1]):
            kept[j] = np.nan if junk[j] else rows[i, j]
        for place in range(same[query, 0], same[query, 1]):
            if gallery_camids[order[place]] == query_camids[query]:
                kept[order[place]] = np.nan
        insert_row(kept, 0, indices[query], distances[query])


@compiled
def measure_lists(
    rows: np.ndarray,
    others: np.ndarray,
    places: np.ndarray,
    indices: np.ndarray,
    distances: np.ndarray,
    cosine: bool,
) -> None:
    """Measure listed images directly and sort each list anew, by distance and then by index.

    Args:
        rows: `(n, D)` features of those that have the lists.
        others: `(m, D)` features of those that are listed.
        places: `(n, k)` rows of `others` that are listed.
        indices: `(n, k)` int64 their indices, -1 at the end where there are fewer; sorted in place.
        distances: `(n, k)` written, infinite where there is no image.
        cosine: see `distance_kernels.direct_distance`.
    """
    size = indices.shape[1]
    for i in range(len(rows)):
        by_index = np.argsort(indices[i])
        listed = indices[i][by_index]
        direct = np.empty(size)
        for k in range(size):
            if listed[k] < 0:
                direct[k] = np.inf
            else:
                direct[k] = direct_distance(rows[i], others[places[i, by_index[k]]], cosine)
        order = np.argsort(direct, kind="mergesort")
        for k in range(size):
            indices[i, k] = listed[order[k]]
            distances[i, k] = direct[order[k]]
