"""The compiled loops of k-reciprocal re-ranking, on sparse rows.

A sparse row holds the images that an image is described by (ascending) and their weights; many rows lie one
after another, and `bounds` says where each begins.
"""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled
from san_tf.evaluation.distance_kernels import direct_distance


@compiled
def _has(neighbours: np.ndarray, image: int, number: int, wanted: int) -> bool:
    """Whether `wanted` is among the first `number` neighbours of an image."""
    found = False
    for k in range(number):
        found |= neighbours[image, k] == wanted
    return found


@compiled
def _reciprocal(neighbours: np.ndarray, image: int, number: int, out: np.ndarray) -> int:
    """Write those of an image's first neighbours that have it among theirs, and return how many."""
    found = 0
    for k in range(number):
        other = neighbours[image, k]
        if _has(neighbours, other, number, image):
            out[found] = other
            found += 1
    return found


@compiled
def encode(
    query: np.ndarray,
    gallery: np.ndarray,
    neighbours: np.ndarray,
    largest: np.ndarray,
    start: int,
    stop: int,
    k1: int,
    half: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Describe some images by their k-reciprocal neighbours (the paper's sections 3.2 and 3.3).

    A neighbour's own reciprocal neighbours within `half` are added if more than two thirds of them are there
    already. The weight of an image falls with its distance as a share of the largest one, exp(-d / largest);
    weights sum to 1.

    Args:
        query: `(Q, D)` features of the images 0 to Q - 1.
        gallery: `(G, D)` of the images from Q on.
        neighbours: `(N, n)` int32, each image itself first.
        largest: `(N,)` largest squared distance of each image.
        start: first image to describe.
        stop: the one after the last.
        k1: neighbours that count, the image itself included.
        half: the same for the additions.

    Returns:
        `(stop - start,)` lengths of the rows, and their images (int32) and weights (float32), joined.
    """
    lengths = np.zeros(stop - start, np.int64)
    images = np.empty((stop - start) * k1 * 2, np.int32)
    weights = np.empty(len(images), np.float32)
    core, more = np.empty(k1, np.int32), np.empty(half, np.int32)
    union = np.empty(k1 + k1 * half, np.int32)
    total = 0
    for image in range(start, stop):
        size = _reciprocal(neighbours, image, k1, core)
        union[:size] = core[:size]
        joined = size
        for k in range(size):
            added = _reciprocal(neighbours, core[k], half, more)
            shared = 0
            for a in range(added):
                for b in range(size):
                    shared += more[a] == core[b]
            if shared > 2.0 / 3.0 * added:
                union[joined : joined + added] = more[:added]
                joined += added
        ordered = np.sort(union[:joined])
        if total + joined > len(images):
            images = np.concatenate((images, np.empty(len(images) + joined, np.int32)))
            weights = np.concatenate((weights, np.empty(len(weights) + joined, np.float32)))
        own = query[image] if image < len(query) else gallery[image - len(query)]
        scale = 1.0 / largest[image] if largest[image] > 0.0 else 0.0
        first, whole = total, 0.0
        for k in range(joined):
            other = ordered[k]
            if k > 0 and ordered[k - 1] == other:
                continue
            row = query[other] if other < len(query) else gallery[other - len(query)]
            weight = np.exp(-direct_distance(own, row, False) * scale)
            images[total], weights[total] = other, weight
            whole += weight
            total += 1
        for k in range(first, total):
            weights[k] /= whole
        lengths[image - start] = total - first
    return lengths, images[:total].copy(), weights[:total].copy()


@compiled
def expand(
    bounds: np.ndarray,
    images: np.ndarray,
    weights: np.ndarray,
    neighbours: np.ndarray,
    start: int,
    stop: int,
    k2: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replace some rows by the mean of their `k2` nearest (local query expansion, section 3.4).

    Args:
        bounds: `(N + 1,)`.
        images: `(M,)` int32.
        weights: `(M,)` float32.
        neighbours: `(N, n)` int32.
        start: first row to replace.
        stop: the one after the last.
        k2: neighbours, the image itself included.

    Returns:
        As `encode`.
    """
    lengths = np.zeros(stop - start, np.int64)
    out_images = np.empty((stop - start) * 64, np.int32)
    out_weights = np.empty(len(out_images), np.float32)
    sums = np.zeros(len(neighbours), np.float32)
    total = 0
    for image in range(start, stop):
        most = 0
        for k in range(k2):
            most += bounds[neighbours[image, k] + 1] - bounds[neighbours[image, k]]
        if total + most > len(out_images):
            out_images = np.concatenate((out_images, np.empty(len(out_images) + most, np.int32)))
            out_weights = np.concatenate((out_weights, np.empty(len(out_weights) + most, np.float32)))
        first = total
        for k in range(k2):
            for m in range(bounds[neighbours[image, k]], bounds[neighbours[image, k] + 1]):
                if sums[images[m]] == 0.0:  # weights are positive: not met yet
                    out_images[total] = images[m]
                    total += 1
                sums[images[m]] += weights[m]
        out_images[first:total] = np.sort(out_images[first:total])
        for m in range(first, total):
            out_weights[m] = sums[out_images[m]] / np.float32(k2)
            sums[out_images[m]] = 0.0
        lengths[image - start] = total - first
    return lengths, out_images[:total].copy(), out_weights[:total].copy()


@compiled
def invert(
    bounds: np.ndarray, images: np.ndarray, weights: np.ndarray, queries: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gallery's rows the other way round: for each image, who is described by it.

    Args:
        bounds: `(N + 1,)`.
        images: `(M,)` int32.
        weights: `(M,)` float32.
        queries: rows to leave out, the first ones.

    Returns:
        `(N + 1,)` bounds, gallery indices (int32, from 0) and weights (float32).
    """
    number = len(bounds) - 1
    out_bounds = np.zeros(number + 1, np.int64)
    for m in range(bounds[queries], bounds[number]):
        out_bounds[images[m] + 1] += 1
    for image in range(number):
        out_bounds[image + 1] += out_bounds[image]
    place = out_bounds[:-1].copy()
    out_images = np.empty(out_bounds[number], np.int32)
    out_weights = np.empty(out_bounds[number], np.float32)
    for row in range(queries, number):
        for m in range(bounds[row], bounds[row + 1]):
            out_images[place[images[m]]] = row - queries
            out_weights[place[images[m]]] = weights[m]
            place[images[m]] += 1
    return out_bounds, out_images, out_weights


@compiled
def squared(
    products: np.ndarray, squares: np.ndarray, other_squares: np.ndarray, distances: np.ndarray
) -> None:
    """Write squared distances from inner products; all of one type.

    Args:
        products: `(n, m)`.
        squares: `(n,)` squared lengths.
        other_squares: `(m,)` squared lengths.
        distances: `(n, m)` written.
    """
    zero, two = products.dtype.type(0.0), products.dtype.type(2.0)
    for i in range(len(products)):
        for j in range(products.shape[1]):
            distances[i, j] = max((squares[i] - two * products[i, j]) + other_squares[j], zero)


@compiled
def blend(
    distances: np.ndarray,
    first: int,
    bounds: np.ndarray,
    images: np.ndarray,
    weights: np.ndarray,
    list_bounds: np.ndarray,
    listed: np.ndarray,
    list_weights: np.ndarray,
    largest: np.ndarray,
    original: float,
) -> None:
    """Turn squared distances of some queries to the gallery into re-ranked ones, in place.

    The Jaccard distance of two rows is 1 - s / (2 - s), where s sums the smaller of the two weights over all
    images (section 3.3): weights sum to 1, so the larger ones sum to 2 - s. Only images that both rows hold
    add to s, and the inverted lists lead straight to them; for most of the gallery s is 0.

    Args:
        distances: `(q, G)` squared distances of the queries from `first` on; written.
        first: index of the first query.
        bounds: `(Q + 1,)` of the queries' rows.
        images: their images.
        weights: their weights.
        list_bounds: `(N + 1,)` as `invert` returns them, like the next two.
        listed: gallery indices.
        list_weights: weights.
        largest: `(Q,)` largest squared distance of each query.
        original: share of the original distance (lambda).
    """
    kind = distances.dtype.type
    shared = np.zeros(distances.shape[1], np.float32)
    met = np.empty(distances.shape[1], np.int32)
    for i in range(len(distances)):
        query = first + i
        number = 0
        for m in range(bounds[query], bounds[query + 1]):
            weight = weights[m]
            for n in range(list_bounds[images[m]], list_bounds[images[m] + 1]):
                image = listed[n]
                if shared[image] == 0.0:
                    met[number] = image
                    number += 1
                shared[image] += min(weight, list_weights[n])
        scale = kind(original / largest[query]) if largest[query] > 0 else kind(0.0)
        rest = kind(1.0 - original)
        for j in range(distances.shape[1]):
            distances[i, j] = distances[i, j] * scale + rest
        for n in range(number):
            image = met[n]
            distances[i, image] -= (1.0 - original) * shared[image] / (2.0 - shared[image])
            shared[image] = 0.0
