"""The compiled loops that turn a block of inner products into nearest neighbours, for both of its sides."""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled
from san_tf.evaluation.distance_kernels import direct_distance
from san_tf.evaluation.list_kernels import insert

_STRIP = 128


@compiled
def scan_rows(
    tile: np.ndarray,
    squares: np.ndarray,
    other_squares: np.ndarray,
    first: int,
    other_first: int,
    indices: np.ndarray,
    distances: np.ndarray,
    largest: np.ndarray,
) -> None:
    """Turn inner products into squared distances, in place, and look along the rows for neighbours.

    Args:
        tile: `(n, m)` inner products, written.
        squares: `(n,)` squared lengths of the rows' images, in the tile's type.
        other_squares: `(m,)` of the columns' images.
        first: index of the first row's image.
        other_first: index of the first column's image.
        indices: `(N, k)` int64 lists of all images, written; an image is not in its own.
        distances: `(N, k)` likewise.
        largest: `(N,)` largest distance of each image, likewise.
    """
    width = tile.shape[1]
    farthest = np.empty(_STRIP, tile.dtype)
    zero, minus_two = tile.dtype.type(0.0), tile.dtype.type(-2.0)
    for i in range(len(tile)):
        image = first + i
        limit = distances[image, -1]
        farthest[:] = zero
        for begin in range(0, width, _STRIP):
            near = np.int32(0)
            for j in range(min(_STRIP, width - begin)):
                distance = (tile[i, begin + j] * minus_two + squares[i]) + other_squares[begin + j]
                distance = distance if distance > zero else zero
                tile[i, begin + j] = distance
                farthest[j] = distance if distance > farthest[j] else farthest[j]
                near = np.int32(near + np.int32(distance <= limit))
            if near > 0:
                for j in range(begin, min(begin + _STRIP, width)):
                    if tile[i, j] <= distances[image, -1] and other_first + j != image:
                        insert(indices[image], distances[image], other_first + j, tile[i, j])
                limit = distances[image, -1]
        for j in range(_STRIP):
            largest[image] = max(largest[image], farthest[j])


@compiled
def scan_columns(
    tile: np.ndarray,
    first: int,
    other_first: int,
    indices: np.ndarray,
    distances: np.ndarray,
    largest: np.ndarray,
) -> None:
    """Look along the columns of a tile that `scan_rows` has turned into distances; args as there."""
    width = tile.shape[1]
    limits, farthest = np.empty(_STRIP, tile.dtype), np.empty(_STRIP, tile.dtype)
    for begin in range(0, width, _STRIP):
        number = min(_STRIP, width - begin)
        image = other_first + begin
        for j in range(number):
            limits[j] = distances[image + j, -1]
            farthest[j] = largest[image + j]
        for i in range(len(tile)):
            near = np.int32(0)
            for j in range(number):
                distance = tile[i, begin + j]
                farthest[j] = distance if distance > farthest[j] else farthest[j]
                near = np.int32(near + np.int32(distance <= limits[j]))
            if near > 0:
                for j in range(number):
                    if tile[i, begin + j] <= limits[j]:
                        insert(indices[image + j], distances[image + j], first + i, tile[i, begin + j])
                        limits[j] = distances[image + j, -1]
        for j in range(number):
            largest[image + j] = farthest[j]


@compiled
def settle(
    query: np.ndarray, gallery: np.ndarray, start: int, stop: int, indices: np.ndarray, neighbours: np.ndarray
) -> None:
    """Measure listed images directly and write the nearest of them, each image itself first.

    Args:
        query: `(Q, D)` features of the images 0 to Q - 1.
        gallery: `(G, D)` features of the images from Q on.
        start: first image whose list is settled.
        stop: the one after the last.
        indices: `(Q + G, k)` int64 lists.
        neighbours: `(Q + G, n)` int32 with n <= k + 1, written.
    """
    number = indices.shape[1]
    for image in range(start, stop):
        own = query[image] if image < len(query) else gallery[image - len(query)]
        listed = np.sort(indices[image])
        direct = np.empty(number)
        for k in range(number):
            other = listed[k]
            row = query[other] if other < len(query) else gallery[other - len(query)]
            direct[k] = direct_distance(own, row, False)
        order = np.argsort(direct, kind="mergesort")  # stable: of equal distances the smaller index is first
        neighbours[image, 0] = image
        for k in range(1, neighbours.shape[1]):
            neighbours[image, k] = listed[order[k - 1]]
