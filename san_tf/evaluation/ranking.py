"""CMC, mAP and mINP by the Market-1501 protocol, exact, without sorting and within bounded memory.

For each query, gallery images of the same identity *and* camera, and junk (identity -1), are removed;
distractors (identity 0) stay. What remains is ranked by distance, equal distances in gallery order. All
measures need only the ranks of the true matches, and a rank is a count of smaller distances: a query has a
handful of matches, so counting is several times faster than sorting the whole gallery.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.distances import distance_blocks

MAX_RANK = 50


@dataclass(frozen=True)
class RankingResult:
    """What a ranking is worth; all values are shares in [0, 1].

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

    @classmethod
    def of_queries(
        cls, average_precisions: np.ndarray, inverse_penalties: np.ndarray, first_ranks: np.ndarray
    ) -> RankingResult:
        """Take the means over the queries that have a true match; args as the fields of the same names.

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
        """Share of queries whose first image is right."""
        return float(self.cmc[0])

    @property
    def rank5(self) -> float:
        """Share of queries with a right image among the first 5."""
        return float(self.cmc[4])

    @property
    def rank10(self) -> float:
        """Share of queries with a right image among the first 10."""
        return float(self.cmc[9])

    @property
    def rank20(self) -> float:
        """Share of queries with a right image among the first 20."""
        return float(self.cmc[19])

    def row(self, method: str) -> dict[str, str | float]:
        """Return the row that `results.json` holds for a method."""
        return {
            "method": method,
            "rank1": self.rank1,
            "rank5": self.rank5,
            "rank10": self.rank10,
            "rank20": self.rank20,
            "mAP": self.mAP,
            "mINP": self.mINP,
        }


@dataclass(frozen=True)
class TopMatches:
    """The first k gallery images of each query, for ranked-list figures.

    Args:
        indices: `(Q, k)` int64 into the gallery, -1 where fewer than k images remain.
        distances: `(Q, k)` distances (squared for "euclidean"), infinite where `indices` is -1.
        correct: `(Q, k)` bool: whether it is the query's identity.
    """

    indices: np.ndarray
    distances: np.ndarray
    correct: np.ndarray


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

    Args:
        query_features: `(Q, D)` float.
        query_pids: `(Q,)` int identities.
        query_camids: `(Q,)` int cameras.
        gallery_features: `(G, D)` float.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.
        metric: "euclidean" or "cosine".
        block: queries at a time; memory is about `block * G * 4` bytes.

    Returns:
        The measures, means over the queries that have a true match.

    Raises:
        UserError: unknown metric, features that are not finite, or no query has a true match.

    Example:
        >>> result = evaluate_ranking(q, query.pids, query.camids, g, gallery.pids, gallery.camids)
        >>> f"{result.rank1:.1%} {result.mAP:.1%}"
        '96.1% 88.0%'
    """
    blocks = distance_blocks(query_features, gallery_features, metric, block)
    return evaluate_distances(blocks, query_pids, query_camids, gallery_pids, gallery_camids)


def evaluate_distances(
    blocks: Iterable[tuple[int, np.ndarray]],
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
) -> RankingResult:
    """Measure a ranking from its distances, given block by block (as `distance_blocks` yields them).

    Args:
        blocks: pairs of the first query's index and `(rows, G)` distances; `[(0, matrix)]` for a whole
            matrix.
        query_pids: `(Q,)` int.
        query_camids: `(Q,)` int.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.

    Raises:
        UserError: no query has a true match.
    """
    query_pids, query_camids = np.asarray(query_pids), np.asarray(query_camids)
    gallery_pids, gallery_camids = np.asarray(gallery_pids), np.asarray(gallery_camids)
    precisions, penalties = np.full((2, len(query_pids)), np.nan)
    first_ranks = np.full(len(query_pids), -1, np.int64)
    for start, distances in blocks:
        for query, row in enumerate(distances, start):
            removed = _removed(query_pids[query], query_camids[query], gallery_pids, gallery_camids)
            matches = np.flatnonzero((gallery_pids == query_pids[query]) & ~removed)
            if not len(matches):
                continue
            ranks = _ranks(row, removed, matches)
            first_ranks[query] = ranks[0]
            # At the i-th match (from 1), i of the images up to its rank are right.
            precisions[query] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
            penalties[query] = len(ranks) / ranks[-1]
    return RankingResult.of_queries(precisions, penalties, first_ranks)


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
    """Return the first k gallery images of each query, after the removals; args as `evaluate_ranking`."""
    gallery_pids, gallery_camids = np.asarray(gallery_pids), np.asarray(gallery_camids)
    number = len(query_pids)
    indices = np.full((number, k), -1, np.int64)
    nearest = np.full((number, k), np.inf, np.float32)
    for start, distances in distance_blocks(query_features, gallery_features, metric):
        for query, row in enumerate(distances, start):
            kept = np.flatnonzero(
                ~_removed(query_pids[query], query_camids[query], gallery_pids, gallery_camids)
            )
            order = kept[np.argsort(row[kept], kind="stable")[:k]]
            indices[query, : len(order)] = order
            nearest[query, : len(order)] = row[order]
    correct = (gallery_pids[indices] == np.asarray(query_pids)[:, None]) & (indices >= 0)
    return TopMatches(indices, nearest, correct)


def _removed(pid: int, camid: int, gallery_pids: np.ndarray, gallery_camids: np.ndarray) -> np.ndarray:
    """Which gallery images the protocol removes for a query: its own under the same camera, and junk."""
    return ((gallery_pids == pid) & (gallery_camids == camid)) | (gallery_pids == -1)


def _ranks(row: np.ndarray, removed: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Return the ranks (from 1, ascending) of the gallery images `matches` in one row of distances."""
    row = np.where(removed, np.nan, row)  # NaN is neither smaller than nor equal to anything
    ranks = np.empty(len(matches), np.int64)
    for position, match in enumerate(matches):
        # Of equal distances, the image that comes first in the gallery is first, as in a stable sort.
        nearer = np.count_nonzero(row < row[match])
        ranks[position] = 1 + nearer + np.count_nonzero(row[:match] == row[match])
    ranks.sort()
    return ranks
