"""Exact CMC, mAP and mINP by the Market-1501 protocol, in bounded memory.

For each query, gallery images of the same identity *and* camera, and junk (identity -1), are removed;
distractors (identity 0) stay. The others are ranked by distance, equal distances in gallery order. The
measures need only the ranks of the true matches, and a rank is a count of smaller distances. So the gallery
is not sorted: each block of distances is counted while it is in the cache, then dropped (`ranking_kernels`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation import ranking_kernels as kernels
from san_tf.evaluation.distances import FeatureRows, distance_blocks, feature_rows
from san_tf.evaluation.inputs import checked_distances
from san_tf.evaluation.threads import finish_blocks, ranges
from san_tf.evaluation.true_matches import TrueMatches
from san_tf.progress import with_bar
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


__all__ = ["MAX_RANK", "RankingResult", "TopMatches", "evaluate_distances", "evaluate_ranking", "top_matches"]

MAX_RANK = 50
# Gallery images in a tile: their distances to a block of queries fit into the cache.
_TILE = 1024


@dataclass(frozen=True)
class RankingResult:
    """Scores of a ranking, as shares in [0, 1].

    Args:
        cmc: `(50,)` float64 cumulative matching characteristic: `cmc[k - 1]` is the share of queries with a
            true match among the first k.
        mAP: mean average precision.
        mINP: mean inverse negative penalty, the share of true matches up to the hardest one (Ye et al., "Deep
            Learning for Person Re-identification: A Survey and Outlook", 2021).
        num_valid: queries that have a true match; the others are left out of all means.
        num_queries: all queries.
        average_precisions: `(Q,)` float64 of each query, NaN where it has no true match.
        inverse_penalties: `(Q,)` float64, likewise.
        first_ranks: `(Q,)` int64 rank (from 1) of the first true match, -1 where there is none.
    """

    cmc: np.ndarray
    mAP: float  # the field's name
    mINP: float
    num_valid: int
    num_queries: int
    average_precisions: np.ndarray
    inverse_penalties: np.ndarray
    first_ranks: np.ndarray

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(rank-1 {self.cmc[0]:.1%}, mAP {self.mAP:.1%}, mINP {self.mINP:.1%}, "
            f"{self.num_valid:,} of {self.num_queries:,} queries have a true match)"
        )

    @classmethod
    def of_queries(
        cls, average_precisions: np.ndarray, inverse_penalties: np.ndarray, first_ranks: np.ndarray
    ) -> RankingResult:
        """Take the means over the queries that have a true match.

        Args:
            average_precisions: `(Q,)` float64, NaN without a true match.
            inverse_penalties: `(Q,)` float64, likewise.
            first_ranks: `(Q,)` int64, from 1; -1 without a true match.

        Raises:
            UserError: no query has a true match.
        """
        valid = first_ranks > 0
        number = int(np.count_nonzero(valid))
        if not number:
            raise UserError(
                "No query has a true match in the gallery under another camera, so nothing can be measured; "
                "check that query and gallery belong together and that cameras differ."
            )
        found = np.bincount(np.minimum(first_ranks[valid], MAX_RANK + 1), minlength=MAX_RANK + 2)
        return cls(
            cmc=np.cumsum(found[1 : MAX_RANK + 1]) / number,
            mAP=float(np.mean(average_precisions[valid])),
            mINP=float(np.mean(inverse_penalties[valid])),
            num_valid=number,
            num_queries=len(first_ranks),
            average_precisions=average_precisions,
            inverse_penalties=inverse_penalties,
            first_ranks=first_ranks,
        )

    @property
    def rank1(self) -> float:
        """Share of queries whose first image is a true match."""
        return float(self.cmc[0])

    @property
    def rank5(self) -> float:
        """Share of queries with a true match among the first 5."""
        return float(self.cmc[4])

    @property
    def rank10(self) -> float:
        """Share of queries with a true match among the first 10."""
        return float(self.cmc[9])

    @property
    def rank20(self) -> float:
        """Share of queries with a true match among the first 20."""
        return float(self.cmc[19])

    def row(self, method: str) -> dict[str, str | float]:
        """Return the method's row of `results.json`."""
        return {
            "method": method,
            "rank1": self.rank1,
            "rank5": self.rank5,
            "rank10": self.rank10,
            "rank20": self.rank20,
            "mAP": self.mAP,
            "mINP": self.mINP,
        }


def evaluate_ranking(
    query_features: np.ndarray,
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_features: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    metric: str = "euclidean",
    block: int = 256,
) -> RankingResult:
    """Rank the gallery for each query and measure the result.

    Ranks follow direct float64 distances: the sum of squared differences of the given features, or 1 - inner
    product of rows of length 1 for "cosine". So equal gallery rows are tied, near duplicates are in their
    true order, and neither `block` nor the number of cores changes a rank. A float32 matrix product still
    decides most ranks, see `ranking_kernels`. The error of an inner product is assumed to be at most
    8 sqrt(D) roundings, which fails once in 1e10 products (Higham and Mary, "A new approach to probabilistic
    rounding error analysis", SIAM J. Sci. Comput., 2019).

    Args:
        query_features: `(Q, D)` numbers.
        query_pids: `(Q,)` int identities.
        query_camids: `(Q,)` int cameras; -1 is unknown and equals no camera.
        gallery_features: `(G, D)`; may be a memory map, which is read block by block.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.
        metric: "euclidean" or "cosine".
        block: queries at a time; memory is some 20 MB plus `block * 4` kB for each core.

    Returns:
        Means over the queries that have a true match, and the scores of each query.

    Raises:
        UserError: unknown metric, features that are not finite, ids that do not fit, or no query has a true
            match.

    Example:
        >>> result = evaluate_ranking(q, query.pids, query.camids, g, gallery.pids, gallery.camids)
        >>> f"{result.rank1:.1%} {result.mAP:.1%}"
        '96.1% 88.0%'
    """
    ids = query_pids, query_camids, gallery_features, gallery_pids, gallery_camids
    return score_matches(rank_matches(query_features, *ids, metric, block))


def rank_matches(
    query_features: np.ndarray,
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_features: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    metric: str = "euclidean",
    block: int = 256,
) -> TrueMatches:
    """Find the places of each query's true matches in its ranking; args as `evaluate_ranking`.

    Returns:
        The true matches, nearest first, each with the number of images before it that are not of the query's
        identity. CMC, mAP and mINP need no more, for all matches or for some (see `conditions`).

    Raises:
        UserError: unknown metric, features that are not finite, or ids that do not fit.
    """
    query, gallery = feature_rows(query_features, gallery_features, metric)
    sought = TrueMatches.of(query_pids, query_camids, len(query), gallery_pids, gallery_camids, len(gallery))
    if not len(sought.matches):
        return sought
    cosine, dimensions = metric == "cosine", query.features.shape[1]
    _measure_matches(query, gallery, sought, cosine, block)
    # At most D roundings are certain. The direct measure rounds too, in float64.
    rounding = min(dimensions, 8.0 * dimensions**0.5) * (np.finfo(query.dtype).eps / 2 + 2.0**-53)
    firsts = range(0, len(gallery), gallery.rows_a_block)
    # Show a bar only if it takes seconds: two cores do some 1e11 multiplications a second.
    shown = "Ranking" if len(query) * len(gallery) * dimensions > 2e11 else None
    for first in with_bar(firsts, shown, len(firsts)):
        rows, squares = gallery.block(first, min(first + gallery.rows_a_block, len(gallery)))

        def count(
            span: tuple[int, int],
            first: int = first,
            rows: np.ndarray = rows,
            squares: np.ndarray = squares,
        ) -> None:
            queries = kernels.FeatureBlock(span[0], *query.block(*span))
            buffer = np.empty(len(queries.rows) * _TILE, query.dtype)
            for start in range(0, len(rows), _TILE):
                tile = slice(start, start + _TILE)
                products = buffer[: len(queries.rows) * len(rows[tile])].reshape(len(queries.rows), -1)
                np.matmul(queries.rows, rows[tile].T, out=products)
                images = kernels.FeatureBlock(first + start, rows[tile], squares[tile])
                junk = sought.junk[first:][tile]
                kernels.count_product(products, queries, images, junk, sought.lists, rounding, cosine)

        finish_blocks(count, ranges(len(query), block))
    return sought


def evaluate_distances(
    blocks: Iterable[tuple[int, np.ndarray]],
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
) -> RankingResult:
    """Measure a ranking from its distances, given block by block.

    Args:
        blocks: pairs of the first query's index and `(rows, G)` distances, as from `distance_blocks`;
            `[(0, matrix)]` for a whole matrix. Equal distances rank in gallery order.
        query_pids: `(Q,)` int.
        query_camids: `(Q,)` int.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.

    Raises:
        UserError: ids or distances that do not fit, distances that are NaN, or no query has a true match.
    """
    number, size = len(query_pids), len(gallery_pids)
    sought = TrueMatches.of(query_pids, query_camids, number, gallery_pids, gallery_camids, size)
    missing = np.ones(number, bool)
    for first, distances in blocks:
        checked = checked_distances(distances, first, number, size)

        def count(span: tuple[int, int], first: int = first, distances: np.ndarray = checked) -> None:
            rows = np.ascontiguousarray(distances[slice(*span)])
            broken = kernels.count_matrix(rows, first + span[0], sought.junk, sought.lists)
            if broken >= 0:
                raise UserError(f"A distance of query {broken} is NaN; look for NaN in the features.")

        if not missing[first : first + len(checked)].all():
            raise UserError(f"The distances from query {first} on are given twice; give each query's once.")
        missing[first : first + len(checked)] = False
        finish_blocks(count, ranges(len(checked), 64))
    if missing.any():
        raise UserError(f"The distances of query {int(np.argmax(missing))} are missing; give every query's.")
    return score_matches(sought)


def score_matches(sought: TrueMatches) -> RankingResult:
    """Compute CMC, mAP and mINP from the output of `rank_matches`.

    Raises:
        UserError: no query has a true match.
    """
    precisions, penalties = np.full((2, len(sought.same)), np.nan)
    first_ranks = np.full(len(sought.same), -1, np.int64)
    kernels.score_queries(sought.bounds, sought.counts, precisions, penalties, first_ranks)
    return RankingResult.of_queries(precisions, penalties, first_ranks)


def _measure_matches(
    query: FeatureRows, gallery: FeatureRows, sought: TrueMatches, cosine: bool, block: int
) -> None:
    """Measure and sort the true matches; only their gallery rows are read."""
    rows_wanted, places = np.unique(sought.matches, return_inverse=True)
    for first in range(0, len(rows_wanted), gallery.rows_a_block):
        rows, _ = gallery.take(rows_wanted[first : first + gallery.rows_a_block])

        def measure(span: tuple[int, int], first: int = first, rows: np.ndarray = rows) -> None:
            kernels.measure_matches(
                query.block(*span)[0], span[0], rows, first, sought.bounds, places, sought.distances, cosine
            )

        finish_blocks(measure, ranges(len(query), block))
    kernels.sort_matches(sought.bounds, sought.matches, sought.distances)
