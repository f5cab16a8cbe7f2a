"""Compiled loops over distances: ranking, neighbours, re-ranking and ROC counts.

The gallery is never sorted. Only a query's few true matches are sorted by distance, and the other distances
are counted against them, 256 at a time: such a stretch stays in the first-level cache, and vector registers
compare it. The farthest match is tried first. If no distance of a stretch lies before it, none lies before
the nearer matches, so most stretches of a good ranking cost one comparison per distance.

A float32 matrix product has an error of some 1e-6 of the features' squared length, more than the difference
between near duplicates. So each match has two bounds: an image below the lower one surely comes before it, an
image above the upper one surely does not. The few images between the bounds are measured again, directly in
float64. Ranks therefore depend neither on the BLAS nor on blocks and threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.compiled import compiled

# Distances that are compared together: they stay in the first-level cache.
_STRETCH = 256
# Columns of a tile that are scanned together.
_STRIP = 128


class FeatureBlock(NamedTuple):
    """Features of consecutive images of one side, the queries or the gallery."""

    first: int  # index of the first image
    rows: np.ndarray  # (n, D) float32 or float64
    squares: np.ndarray  # (n,) float64 squared lengths


class MatchLists(NamedTuple):
    """True matches of Q queries in a gallery of G images: M pairs of a query and one of its matches."""

    order: np.ndarray  # (G,) gallery indices, sorted by identity, then by index
    same: np.ndarray  # (Q, 2) where each query's identity begins and ends in `order`
    bounds: np.ndarray  # (Q + 1,) where each query's matches begin in the next three
    matches: np.ndarray  # (M,) gallery indices
    distances: np.ndarray  # (M,) float64
    counts: np.ndarray  # (M,) int64 images before each match that are not of the query's identity


class PairIds(NamedTuple):
    """Ids that determine which pairs of n queries and G gallery images count."""

    query_pids: np.ndarray  # (n,) int64; -1 is junk
    query_camids: np.ndarray  # (n,) int64
    gallery_pids: np.ndarray  # (G,) int64; -1 is junk
    gallery_camids: np.ndarray  # (G,) int64
    other_cameras_only: bool  # whether pairs under one camera do not count


class ThresholdCells(NamedTuple):
    """Rising thresholds, with a table of C cells of equal width to find them fast."""

    thresholds: np.ndarray  # (T,) rising, of the distances' type
    starts: np.ndarray  # (C + 1,) int64: thresholds below each cell's lower edge
    scale: float  # cells per unit of distance


class SparseRows(NamedTuple):
    """Sparse matrix of N rows and M values."""

    bounds: np.ndarray  # (N + 1,) int64: where each row begins in the next two
    images: np.ndarray  # (M,) int32 columns, ascending within a row
    weights: np.ndarray  # (M,) float32 values


@compiled
def direct_distance(first: np.ndarray, second: np.ndarray, cosine: bool) -> float:
    """Return the exact float64 distance of two rows: squared Euclidean, or 1 - inner product.

    Eight parallel sums fill a vector register. Their order is fixed, so the same rows always give the same
    bits.

    Args:
        first: `(D,)` float.
        second: `(D,)` float.
        cosine: whether to return 1 - inner product.
    """
    s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    size = len(first)
    whole = size - size % 8
    if cosine:
        for k in range(0, whole, 8):
            s0 += np.float64(first[k]) * np.float64(second[k])
            s1 += np.float64(first[k + 1]) * np.float64(second[k + 1])
            s2 += np.float64(first[k + 2]) * np.float64(second[k + 2])
            s3 += np.float64(first[k + 3]) * np.float64(second[k + 3])
            s4 += np.float64(first[k + 4]) * np.float64(second[k + 4])
            s5 += np.float64(first[k + 5]) * np.float64(second[k + 5])
            s6 += np.float64(first[k + 6]) * np.float64(second[k + 6])
            s7 += np.float64(first[k + 7]) * np.float64(second[k + 7])
        for k in range(whole, size):
            s0 += np.float64(first[k]) * np.float64(second[k])
        return 1.0 - (((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)))
    for k in range(0, whole, 8):
        d0 = np.float64(first[k]) - np.float64(second[k])
        d1 = np.float64(first[k + 1]) - np.float64(second[k + 1])
        d2 = np.float64(first[k + 2]) - np.float64(second[k + 2])
        d3 = np.float64(first[k + 3]) - np.float64(second[k + 3])
        d4 = np.float64(first[k + 4]) - np.float64(second[k + 4])
        d5 = np.float64(first[k + 5]) - np.float64(second[k + 5])
        d6 = np.float64(first[k + 6]) - np.float64(second[k + 6])
        d7 = np.float64(first[k + 7]) - np.float64(second[k + 7])
        s0 += d0 * d0
        s1 += d1 * d1
        s2 += d2 * d2
        s3 += d3 * d3
        s4 += d4 * d4
        s5 += d5 * d5
        s6 += d6 * d6
        s7 += d7 * d7
    for k in range(whole, size):
        d0 = np.float64(first[k]) - np.float64(second[k])
        s0 += d0 * d0
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))


@compiled
def count_between(values: np.ndarray, number: int, low: float, high: float) -> tuple[np.int32, np.int32]:
    """Return how many of the first `number` values are below `low`, and how many are at most `high`."""
    below, within = np.int32(0), np.int32(0)
    for j in range(number):
        below = np.int32(below + np.int32(values[j] < low))
        within = np.int32(within + np.int32(values[j] <= high))
    return below, within


@compiled
def list_matches(
    order: np.ndarray,
    same: np.ndarray,
    query_camids: np.ndarray,
    gallery_camids: np.ndarray,
    bounds: np.ndarray,
    matches: np.ndarray,
) -> None:
    """Write each query's true matches: its identity under another camera, in gallery order.

    With an empty `matches` it only counts them, into `bounds`. So it is called twice.

    Args:
        order: `(G,)` gallery indices, sorted by identity, then by index.
        same: `(Q, 2)` where the query's identity begins and ends in `order`.
        query_camids: `(Q,)`.
        gallery_camids: `(G,)`.
        bounds: `(Q + 1,)` where each query's matches begin in `matches`; written.
        matches: `(M,)` gallery indices; written.
    """
    total = 0
    for query in range(len(same)):
        bounds[query] = total
        for place in range(same[query, 0], same[query, 1]):
            if gallery_camids[order[place]] != query_camids[query]:
                if len(matches):
                    matches[total] = order[place]
                total += 1
    bounds[len(same)] = total


@compiled
def measure_matches(
    query_rows: np.ndarray,
    first_query: int,
    rows: np.ndarray,
    first_row: int,
    bounds: np.ndarray,
    places: np.ndarray,
    distances: np.ndarray,
    cosine: bool,
) -> None:
    """Write the direct distances of some queries to their matches in one block of rows.

    Args:
        query_rows: `(q, D)` features of the queries from `first_query` on.
        first_query: index of the first query.
        rows: `(r, D)` features of the rows from `first_row` on.
        first_row: index of the first row.
        bounds: `(Q + 1,)` as `list_matches` writes them.
        places: `(M,)` row index of each match, ascending within a query.
        distances: `(M,)` float64, written.
        cosine: see `direct_distance`.
    """
    for i in range(len(query_rows)):
        start, stop = bounds[first_query + i], bounds[first_query + i + 1]
        for m in range(start + np.searchsorted(places[start:stop], first_row), stop):
            row = places[m] - first_row
            if row >= len(rows):
                break
            distances[m] = direct_distance(query_rows[i], rows[row], cosine)


@compiled
def sort_matches(bounds: np.ndarray, matches: np.ndarray, distances: np.ndarray) -> None:
    """Sort each query's matches by distance, equal distances in gallery order.

    Args:
        bounds: `(Q + 1,)` as `list_matches` writes them.
        matches: `(M,)` gallery indices, ascending within a query; sorted in place.
        distances: `(M,)` float64; sorted in place.
    """
    for query in range(len(bounds) - 1):
        span = slice(bounds[query], bounds[query + 1])
        order = np.argsort(distances[span], kind="mergesort")  # stable, and `matches` ascend
        matches[span] = matches[span][order]
        distances[span] = distances[span][order]


@compiled
def count_product(
    products: np.ndarray,
    queries: FeatureBlock,
    gallery: FeatureBlock,
    junk: np.ndarray,
    sought: MatchLists,
    rounding: float,
    cosine: bool,
) -> None:
    """Count the images of one gallery block that come before each match of some queries.

    Junk and all images of the query's identity are not counted: the protocol removes some, and the order of
    the true matches among themselves is known.

    Args:
        products: `(q, r)` inner products of both sides' rows, rounded in their own type.
        queries: q queries.
        gallery: r gallery images.
        junk: `(r,)` bool.
        sought: all matches, sorted by `sort_matches`; its `counts` are added to.
        rounding: bound of an inner product's error, as a share of the product of both lengths.
        cosine: see `direct_distance`.
    """
    order, same, bounds = sought.order, sought.same, sought.bounds
    matches, thresholds, counts = sought.matches, sought.distances, sought.counts
    first_query, query_rows, query_squares = queries.first, queries.rows, queries.squares
    first_row, rows, squares = gallery.first, gallery.rows, gallery.squares
    kind = products.dtype.type
    ulp = 4.0 * np.finfo(kind).eps  # four roundings between product and distance
    near, direct = np.empty(_STRETCH, products.dtype), np.empty(_STRETCH, np.float64)
    minus = kind(-1.0) if cosine else kind(-2.0)
    offsets = np.empty(len(rows), products.dtype)
    for j in range(len(rows)):
        offsets[j] = np.nan if junk[j] else (0.0 if cosine else squares[j])
    longest = np.zeros((len(rows) + _STRETCH - 1) // _STRETCH)
    for j in range(len(rows)):
        longest[j // _STRETCH] = max(longest[j // _STRETCH], squares[j])
    for i in range(len(products)):
        query = first_query + i
        if bounds[query] == bounds[query + 1]:
            continue
        offset = kind(1.0 if cosine else query_squares[i])
        place = same[query, 0] + np.searchsorted(order[same[query, 0] : same[query, 1]], first_row)
        for begin in range(0, len(rows), _STRETCH):
            number = min(_STRETCH, len(rows) - begin)
            for j in range(number):
                near[j] = (products[i, begin + j] * minus + offset) + offsets[begin + j]
            # NaN is neither below nor above anything.
            while place < same[query, 1] and order[place] < first_row + begin + number:
                near[order[place] - first_row - begin] = np.nan
                place += 1
            square = longest[begin // _STRETCH]
            unsure = 2.0 * rounding * np.sqrt(query_squares[i] * square) + ulp * (query_squares[i] + square)
            unsure += 1e-36  # errors of subnormal numbers are not relative
            fresh = True
            for m in range(bounds[query + 1] - 1, bounds[query] - 1, -1):
                low, high = kind(thresholds[m] - unsure), kind(thresholds[m] + unsure)
                below, within = count_between(near, number, low, high)
                counts[m] += below
                if below < within:
                    if fresh:
                        direct[:] = np.nan
                        fresh = False
                    for j in range(number):
                        if low <= near[j] <= high:
                            if np.isnan(direct[j]):
                                direct[j] = direct_distance(query_rows[i], rows[begin + j], cosine)
                            if direct[j] < thresholds[m] or (
                                direct[j] == thresholds[m] and first_row + begin + j < matches[m]
                            ):
                                counts[m] += 1
                if within == 0:
                    break


@compiled
def count_matrix(distances: np.ndarray, first_query: int, junk: np.ndarray, sought: MatchLists) -> int:
    """Count the images before each match of some queries by given distances, which are used as they are.

    Args:
        distances: `(q, G)` of the queries from `first_query` on.
        first_query: index of the first query.
        junk: `(G,)` bool.
        sought: matches in gallery order; they are sorted by distance in place, their `distances` are written,
            and their `counts` are added to.

    Returns:
        Index of the first query with a NaN distance, or -1.
    """
    order, same, bounds = sought.order, sought.same, sought.bounds
    matches, thresholds, counts = sought.matches, sought.distances, sought.counts
    size = distances.shape[1]
    near = np.empty(_STRETCH, distances.dtype)
    for i in range(len(distances)):
        query = first_query + i
        start, stop = bounds[query], bounds[query + 1]
        for m in range(start, stop):
            thresholds[m] = distances[i, matches[m]]
        sort_matches(bounds[query : query + 2], matches, thresholds)
        place = same[query, 0]
        for begin in range(0, size, _STRETCH):
            number = min(_STRETCH, size - begin)
            broken = False
            for j in range(number):
                value = distances[i, begin + j]
                broken |= value != value
                near[j] = value
            if broken:
                return query
            for j in range(number):
                near[j] = np.nan if junk[begin + j] else near[j]
            while place < same[query, 1] and order[place] < begin + number:
                near[order[place] - begin] = np.nan
                place += 1
            for m in range(stop - 1, start - 1, -1):
                threshold = distances.dtype.type(thresholds[m])
                below, within = count_between(near, number, threshold, threshold)
                counts[m] += below
                if below < within:
                    for j in range(min(number, matches[m] - begin)):
                        counts[m] += near[j] == threshold
                if within == 0:
                    break
    return -1


@compiled
def score_queries(
    bounds: np.ndarray,
    counts: np.ndarray,
    precisions: np.ndarray,
    penalties: np.ndarray,
    first_ranks: np.ndarray,
) -> None:
    """Turn counts into each query's scores; values of queries without a match stay unchanged.

    Args:
        bounds: `(Q + 1,)` as in `list_matches`.
        counts: `(M,)` images before each match that are not of the query's identity.
        precisions: `(Q,)` float64 average precisions; written.
        penalties: `(Q,)` float64 inverse negative penalties; written.
        first_ranks: `(Q,)` int64 ranks of the first match; written.
    """
    for query in range(len(bounds) - 1):
        start, number = bounds[query], bounds[query + 1] - bounds[query]
        if number == 0:
            continue
        total = 0.0
        for k in range(number):
            # At the k-th match (from 0), k + 1 of the images up to its rank are right.
            total += (k + 1) / (k + 1 + counts[start + k])
        precisions[query] = total / number
        penalties[query] = number / (number + counts[start + number - 1])
        first_ranks[query] = 1 + counts[start]


@compiled
def insert(indices: np.ndarray, distances: np.ndarray, index: int, distance: float) -> None:
    """Insert an image into one sorted list if it is near enough; the last one is dropped.

    Of equal distances, the smaller index is first, whatever the order of insertion.

    Args:
        indices: `(k,)` int64; written.
        distances: `(k,)` ascending; written.
        index: index of the image.
        distance: distance of the image.
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
    """Insert the images of one row of distances into its sorted list; NaN is left out.

    Args:
        row: `(m,)` distances of the images from `first` on.
        first: index of the first image.
        indices: `(k,)` int64; written.
        distances: `(k,)` ascending; written.
    """
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
    """List the nearest images of some queries, after the protocol's removals.

    Junk and images of the query's identity under its own camera are removed.

    Args:
        rows: `(q, G)` distances of the queries from `first_query` on.
        first_query: index of the first query.
        query_camids: `(Q,)`.
        gallery_camids: `(G,)`.
        junk: `(G,)` bool.
        order: `(G,)` as in `list_matches`.
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
    """Measure listed images directly and sort each list by distance, then by index.

    Args:
        rows: `(n, D)` features of the images that have lists.
        others: `(m, D)` features of the listed images.
        places: `(n, k)` row in `others` of each listed image.
        indices: `(n, k)` int64 indices of the listed images, -1 where there are fewer; sorted in place.
        distances: `(n, k)`, filled in; unused places are infinite.
        cosine: see `direct_distance`.
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
    """Turn inner products into squared distances, in place, and update the neighbours of the rows.

    Args:
        tile: `(n, m)` inner products; overwritten by distances.
        squares: `(n,)` squared lengths of the rows' images, in the tile's type.
        other_squares: `(m,)` squared lengths of the columns' images.
        first: index of the first row's image.
        other_first: index of the first column's image.
        indices: `(N, k)` int64 neighbours of all images, without the image itself; written.
        distances: `(N, k)` their distances; written.
        largest: `(N,)` largest distance of each image; written.
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
    """Update the neighbours of a tile's columns, after `scan_rows`; args as there."""
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
def settle_neighbours(
    query: np.ndarray, gallery: np.ndarray, start: int, stop: int, indices: np.ndarray, neighbours: np.ndarray
) -> None:
    """Measure listed images directly and write the nearest of them, each image itself first.

    Args:
        query: `(Q, D)` features of images 0 to Q - 1.
        gallery: `(G, D)` features of the images from Q on.
        start: first image whose list is written.
        stop: one after the last image.
        indices: `(Q + G, k)` int64 neighbours from the scans.
        neighbours: `(Q + G, n)` int32 with n <= k + 1; written.
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


# Re-ranking works on sparse rows. The row of an image holds the images that describe it (ascending) and their
# weights. Rows are joined one after another, and `bounds` holds where each begins.


@compiled
def _has(neighbours: np.ndarray, image: int, number: int, wanted: int) -> bool:
    """Whether `wanted` is among the first `number` neighbours of an image."""
    found = False
    for k in range(number):
        found |= neighbours[image, k] == wanted
    return found


@compiled
def _reciprocal(neighbours: np.ndarray, image: int, number: int, out: np.ndarray) -> int:
    """Write the k-reciprocal neighbours of an image, with k `number`, and return how many there are."""
    found = 0
    for k in range(number):
        other = neighbours[image, k]
        if _has(neighbours, other, number, image):
            out[found] = other
            found += 1
    return found


@compiled
def encode_reciprocal(
    query: np.ndarray,
    gallery: np.ndarray,
    neighbours: np.ndarray,
    largest: np.ndarray,
    start: int,
    stop: int,
    k1: int,
    half: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Describe some images by their k-reciprocal neighbours (Zhong et al. 2017, sections 3.2 and 3.3).

    The `half`-reciprocal neighbours of a neighbour are added if more than two thirds of them are neighbours
    already. The weight of an image is exp(-d / largest), with d its squared distance; weights sum to 1.

    Args:
        query: `(Q, D)` features of images 0 to Q - 1.
        gallery: `(G, D)` features of the images from Q on.
        neighbours: `(N, n)` int32, each image itself first.
        largest: `(N,)` largest squared distance of each image.
        start: first image to describe.
        stop: one after the last image.
        k1: number of neighbours, the image itself included.
        half: number of neighbours for the additions, likewise.

    Returns:
        `(stop - start,)` lengths of the rows, and their joined images (int32) and weights (float32).
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
def expand_rows(
    rows: SparseRows, neighbours: np.ndarray, start: int, stop: int, k2: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replace some rows by the mean over their `k2` nearest (local query expansion, section 3.4).

    Args:
        rows: N rows.
        neighbours: `(N, n)` int32, each image itself first.
        start: first row to replace.
        stop: one after the last row.
        k2: number of neighbours, the image itself included.

    Returns:
        As `encode_reciprocal`.
    """
    bounds, images, weights = rows.bounds, rows.images, rows.weights
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
                if sums[images[m]] == 0.0:  # not met yet: weights are positive
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
def invert_rows(rows: SparseRows, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Invert the gallery's rows: for each image, list the gallery images that it describes.

    Args:
        rows: N rows.
        queries: number of first rows to leave out.

    Returns:
        `(N + 1,)` bounds, gallery indices (int32, from 0) and weights (float32).
    """
    bounds, images, weights = rows.bounds, rows.images, rows.weights
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
def square_distances(
    products: np.ndarray, squares: np.ndarray, other_squares: np.ndarray, distances: np.ndarray
) -> None:
    """Write squared distances from inner products; all arrays have one type.

    Args:
        products: `(n, m)` inner products.
        squares: `(n,)` squared lengths of the rows' images.
        other_squares: `(m,)` squared lengths of the columns' images.
        distances: `(n, m)` squared distances; written.
    """
    zero, two = products.dtype.type(0.0), products.dtype.type(2.0)
    for i in range(len(products)):
        for j in range(products.shape[1]):
            distances[i, j] = max((squares[i] - two * products[i, j]) + other_squares[j], zero)


@compiled
def blend_distances(
    distances: np.ndarray,
    first: int,
    rows: SparseRows,
    lists: SparseRows,
    largest: np.ndarray,
    original: float,
) -> None:
    """Turn squared distances of some queries to the gallery into re-ranked ones, in place.

    The Jaccard distance of two rows is 1 - s / (2 - s), where s sums the smaller of both weights over all
    images (section 3.3). Weights sum to 1, so the larger ones sum to 2 - s. Only images in both rows add to
    s, and the inverted lists name them; for most of the gallery s is 0.

    Args:
        distances: `(q, G)` squared distances of the queries from `first` on; written.
        first: index of the first query.
        rows: rows of the Q queries.
        lists: result of `invert_rows`.
        largest: `(Q,)` largest squared distance of each query.
        original: weight of the original distance (lambda), in [0, 1].
    """
    bounds, images, weights = rows.bounds, rows.images, rows.weights
    kind = distances.dtype.type
    shared = np.zeros(distances.shape[1], np.float32)
    met = np.empty(distances.shape[1], np.int32)
    for i in range(len(distances)):
        query = first + i
        number = 0
        for m in range(bounds[query], bounds[query + 1]):
            weight = weights[m]
            for n in range(lists.bounds[images[m]], lists.bounds[images[m] + 1]):
                image = lists.images[n]
                if shared[image] == 0.0:
                    met[number] = image
                    number += 1
                shared[image] += min(weight, lists.weights[n])
        scale = kind(original / largest[query]) if largest[query] > 0 else kind(0.0)
        rest = kind(1.0 - original)
        for j in range(distances.shape[1]):
            distances[i, j] = distances[i, j] * scale + rest
        for n in range(number):
            image = met[n]
            distances[i, image] -= (1.0 - original) * shared[image] / (2.0 - shared[image])
            shared[image] = 0.0


@compiled
def jaccard_rows(
    rows: SparseRows, lists: SparseRows, start: int, stop: int, largest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the images within a Jaccard distance of some images; see `blend_distances`.

    Args:
        rows: rows of N images, each with weights that sum to 1.
        lists: result of `invert_rows` without queries.
        start: first image whose neighbours are listed.
        stop: one after the last image.
        largest: largest distance, below 1: images that share nothing have the distance 1.

    Returns:
        `(stop - start,)` lengths of the lists, and their joined images (int32, ascending) and distances
        (float32). Every list holds the image itself, at distance 0.
    """
    bounds, images, weights = rows.bounds, rows.images, rows.weights
    number = len(bounds) - 1
    lengths = np.zeros(stop - start, np.int64)
    out_images = np.empty((stop - start) * 64, np.int32)
    out_distances = np.empty(len(out_images), np.float32)
    shared = np.zeros(number, np.float64)
    met = np.empty(number, np.int32)
    total = 0
    for image in range(start, stop):
        found = 0
        for m in range(bounds[image], bounds[image + 1]):
            weight = weights[m]
            for n in range(lists.bounds[images[m]], lists.bounds[images[m] + 1]):
                other = lists.images[n]
                if shared[other] == 0.0:
                    met[found] = other
                    found += 1
                shared[other] += min(weight, lists.weights[n])
        if total + found > len(out_images):
            out_images = np.concatenate((out_images, np.empty(len(out_images) + found, np.int32)))
            out_distances = np.concatenate((out_distances, np.empty(len(out_distances) + found, np.float32)))
        first = total
        for other in np.sort(met[:found]):
            # Rounded weights may sum to a little more than 1.
            distance = max(1.0 - shared[other] / (2.0 - shared[other]), 0.0)
            shared[other] = 0.0
            if other == image:
                distance = 0.0
            if distance <= largest:
                out_images[total], out_distances[total] = other, distance
                total += 1
        lengths[image - start] = total - first
    return lengths, out_images[:total].copy(), out_distances[:total].copy()


@compiled
def count_others(
    block: np.ndarray, ids: PairIds, cells: ThresholdCells, up_to: np.ndarray, below: np.ndarray
) -> int:
    """Count the different-person pairs of some queries by the lowest threshold that accepts them.

    Args:
        block: `(n, G)` distances of n queries.
        ids: of both sides.
        cells: thresholds.
        up_to: `(T + 1,)` int64, added to: pairs by the first threshold that is at least their distance.
        below: `(T + 1,)` int64, added to: pairs by the first threshold that is above their distance.

    Returns:
        Number of all counted pairs, also of those beyond the last threshold.
    """
    query_pids, query_camids = ids.query_pids, ids.query_camids
    gallery_pids, gallery_camids = ids.gallery_pids, ids.gallery_camids
    thresholds, starts = cells.thresholds, cells.starts
    number, last = 0, len(starts) - 1
    low, high = thresholds[0], thresholds[-1]
    for row in range(len(block)):
        if query_pids[row] == -1:
            continue
        for image in range(block.shape[1]):
            if gallery_pids[image] == -1 or gallery_pids[image] == query_pids[row]:
                continue
            if ids.other_cameras_only and gallery_camids[image] == query_camids[row]:
                continue
            number += 1
            distance = block[row, image]
            if distance > high:
                continue
            if distance <= low:
                place = 0
            else:
                # Search one more cell on both sides: rounding may have chosen the next one.
                cell = int((np.float64(distance) - np.float64(low)) * cells.scale)
                place = starts[max(cell - 1, 0)]
                end = starts[min(cell + 2, last)]
                while place < end:
                    middle = (place + end) // 2
                    if thresholds[middle] < distance:
                        place = middle + 1
                    else:
                        end = middle
            up_to[place] += 1
            below[place + (thresholds[place] == distance)] += 1
    return number
