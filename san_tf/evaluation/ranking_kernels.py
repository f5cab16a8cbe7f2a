"""The compiled loops of ranking: how many gallery images lie before each true match.

Nothing here sorts the gallery. A query's true matches are sorted by distance (there are a handful), and the
other distances are counted against them, 256 at a time so that they stay in the first-level cache and the
comparison runs in vector registers. The matches are tried from the farthest: once nothing of a stretch lies
before one, nothing lies before the nearer ones, so most stretches of a good ranking cost one comparison each.

A matrix product in float32 leaves a distance uncertain by some 1e-6 of the features' squared length, which is
more than the difference between near duplicates. So distances from a product only decide where they can: each
match has a lower bound, below which an image surely comes before it, and an upper one; the few images between
the two are measured again in float64, directly. What counts is that measure alone, hence ranks depend neither
on the BLAS nor on blocks and threads.
"""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled
from san_tf.evaluation.distance_kernels import direct_distance

STRETCH = 256


@compiled
def count_between(values: np.ndarray, number: int, low: float, high: float) -> tuple[np.int32, np.int32]:
    """Return how many of the first `number` values are below `low`, and how many at most `high`."""
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

    Called first with an empty `matches`, it only counts them, into `bounds`.

    Args:
        order: `(G,)` gallery indices, sorted by identity, then by themselves.
        same: `(Q, 2)` where in `order` the query's identity begins and ends.
        query_camids: `(Q,)`.
        gallery_camids: `(G,)`.
        bounds: `(Q + 1,)` where in `matches` each query's begin.
        matches: `(M,)` gallery indices.
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
    """Write the direct distances of some queries to those of their matches that lie in one block of rows.

    Args:
        query_rows: `(q, D)` features of the queries from `first_query` on.
        first_query: index of their first.
        rows: `(r, D)` features; `places` numbers them from `first_row` on.
        first_row: number of their first.
        bounds: `(Q + 1,)` as `list_matches` writes them.
        places: `(M,)` row of each match, ascending within a query.
        distances: `(M,)` float64, written.
        cosine: see `distance_kernels.direct_distance`.
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
    """Sort each query's matches by distance, those of equal distance in gallery order."""
    for query in range(len(bounds) - 1):
        span = slice(bounds[query], bounds[query + 1])
        order = np.argsort(distances[span], kind="mergesort")  # stable, and `matches` ascend
        matches[span] = matches[span][order]
        distances[span] = distances[span][order]


@compiled
def count_product(
    products: np.ndarray,
    query_rows: np.ndarray,
    query_squares: np.ndarray,
    first_query: int,
    rows: np.ndarray,
    squares: np.ndarray,
    junk: np.ndarray,
    first_row: int,
    order: np.ndarray,
    same: np.ndarray,
    bounds: np.ndarray,
    matches: np.ndarray,
    thresholds: np.ndarray,
    counts: np.ndarray,
    rounding: float,
    cosine: bool,
) -> None:
    """Count, for each match of some queries, the images of one block of the gallery that come before it.

    Left out are junk and every image of the query's identity: some are removed by the protocol, and where the
    true matches stand among themselves is known.

    Args:
        products: `(q, r)` inner products of `query_rows` and `rows`, rounded in their own type.
        query_rows: `(q, D)` features of the queries from `first_query` on.
        query_squares: `(q,)` float64 squared lengths.
        first_query: index of the first query.
        rows: `(r, D)` features of the gallery from `first_row` on.
        squares: `(r,)` float64 squared lengths.
        junk: `(r,)` bool.
        first_row: gallery index of the first row.
        order: `(G,)` as in `list_matches`.
        same: `(Q, 2)` likewise.
        bounds: `(Q + 1,)` likewise.
        matches: `(M,)` sorted by `sort_matches`.
        thresholds: `(M,)` float64, likewise.
        counts: `(M,)` int64, added to.
        rounding: bound of an inner product's error as a share of both lengths' product.
        cosine: see `distance_kernels.direct_distance`.
    """
    kind = products.dtype.type
    ulp = 4.0 * np.finfo(kind).eps  # four roundings between product and distance
    near, direct = np.empty(STRETCH, products.dtype), np.empty(STRETCH, np.float64)
    minus = kind(-1.0) if cosine else kind(-2.0)
    offsets = np.empty(len(rows), products.dtype)
    for j in range(len(rows)):
        offsets[j] = np.nan if junk[j] else (0.0 if cosine else squares[j])
    longest = np.zeros((len(rows) + STRETCH - 1) // STRETCH)
    for j in range(len(rows)):
        longest[j // STRETCH] = max(longest[j // STRETCH], squares[j])
    for i in range(len(products)):
        query = first_query + i
        if bounds[query] == bounds[query + 1]:
            continue
        offset = kind(1.0 if cosine else query_squares[i])
        place = same[query, 0] + np.searchsorted(order[same[query, 0] : same[query, 1]], first_row)
        for begin in range(0, len(rows), STRETCH):
            number = min(STRETCH, len(rows) - begin)
            for j in range(number):
                near[j] = (products[i, begin + j] * minus + offset) + offsets[begin + j]
            # Not a number is neither below nor above anything.
            while place < same[query, 1] and order[place] < first_row + begin + number:
                near[order[place] - first_row - begin] = np.nan
                place += 1
            square = longest[begin // STRETCH]
            unsure = 2.0 * rounding * np.sqrt(query_squares[i] * square) + ulp * (query_squares[i] + square)
            unsure += 1e-36  # below the smallest normal numbers nothing is relative
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
def count_matrix(
    distances: np.ndarray,
    first_query: int,
    junk: np.ndarray,
    order: np.ndarray,
    same: np.ndarray,
    bounds: np.ndarray,
    matches: np.ndarray,
    thresholds: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Do all the same for whole rows of given distances, which are taken at their word.

    Args:
        distances: `(q, G)` of the queries from `first_query` on; the rest as in `count_product`, except that
            `matches` come in gallery order and `thresholds` unset: both are written.
        first_query: index of the first query.
        junk: `(G,)` bool.
        order: `(G,)`.
        same: `(Q, 2)`.
        bounds: `(Q + 1,)`.
        matches: `(M,)`.
        thresholds: `(M,)`.
        counts: `(M,)`.

    Returns:
        The first query with a distance that is not a number, or -1.
    """
    size = distances.shape[1]
    near = np.empty(STRETCH, distances.dtype)
    for i in range(len(distances)):
        query = first_query + i
        start, stop = bounds[query], bounds[query + 1]
        for m in range(start, stop):
            thresholds[m] = distances[i, matches[m]]
        sort_matches(bounds[query : query + 2], matches, thresholds)
        place = same[query, 0]
        for begin in range(0, size, STRETCH):
            number = min(STRETCH, size - begin)
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
def score(
    bounds: np.ndarray,
    counts: np.ndarray,
    precisions: np.ndarray,
    penalties: np.ndarray,
    first_ranks: np.ndarray,
) -> None:
    """Turn counts into each query's measures; queries without a match keep what was there.

    Args:
        bounds: `(Q + 1,)` as in `list_matches`.
        counts: `(M,)` images before each match that are not of the query's identity.
        precisions: `(Q,)` float64, written; likewise
        penalties: `(Q,)` float64 and
        first_ranks: `(Q,)` int64.
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
