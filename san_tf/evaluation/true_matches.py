"""Lists the true matches of every query from the ids."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from san_tf.evaluation import ranking_kernels as kernels
from san_tf.evaluation.feature_set import told_apart
from san_tf.evaluation.inputs import checked_ids
from san_tf.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class TrueMatches(ShortRepr):
    """True matches of every query, with their distances and counts, for `ranking_kernels`.

    There are Q queries, G gallery images, and M pairs of a query and one of its matches.
    """

    query_pids: np.ndarray  # (Q,) int64
    query_camids: np.ndarray  # (Q,) int64
    gallery_pids: np.ndarray  # (G,) int64
    gallery_camids: np.ndarray  # (G,) int64
    order: np.ndarray  # (G,) gallery indices sorted by identity
    same: np.ndarray  # (Q, 2) where each query's identity begins and ends in `order`
    junk: np.ndarray  # (G,) bool
    bounds: np.ndarray  # (Q + 1,) where each query's matches begin in the next three
    matches: np.ndarray  # (M,) gallery indices
    distances: np.ndarray  # (M,) float64
    counts: np.ndarray  # (M,) int64 images before each match that are not of the query's identity

    @classmethod
    def of(
        cls,
        query_pids: np.ndarray,
        query_camids: np.ndarray,
        number: int,
        gallery_pids: np.ndarray,
        gallery_camids: np.ndarray,
        size: int,
    ) -> TrueMatches:
        """Check the ids and list the true matches; unknown cameras (-1) equal no other camera.

        Args:
            query_pids: `(Q,)` int identities.
            query_camids: `(Q,)` int cameras.
            number: number of queries, Q.
            gallery_pids: `(G,)` int identities.
            gallery_camids: `(G,)` int cameras.
            size: number of gallery images, G.

        Raises:
            UserError: ids that do not fit.
        """
        query_pids = checked_ids("query pids", query_pids, number)
        query_camids = checked_ids("query camids", query_camids, number)
        gallery_pids = checked_ids("gallery pids", gallery_pids, size)
        gallery_camids = checked_ids("gallery camids", gallery_camids, size)
        query_camids, gallery_camids = told_apart(query_camids, gallery_camids)
        order = np.argsort(gallery_pids, kind="stable")
        ordered = gallery_pids[order]
        same = np.stack([np.searchsorted(ordered, query_pids, side) for side in ("left", "right")], axis=1)
        same[query_pids == -1] = 0  # junk matches nothing
        bounds = np.zeros(number + 1, np.int64)
        kernels.list_matches(order, same, query_camids, gallery_camids, bounds, np.empty(0, np.int64))
        matches = np.empty(bounds[-1], np.int64)
        kernels.list_matches(order, same, query_camids, gallery_camids, bounds, matches)
        distances, counts = np.empty(len(matches)), np.zeros(len(matches), np.int64)
        return cls(
            query_pids, query_camids, gallery_pids, gallery_camids, order, same, gallery_pids == -1, bounds,
            matches, distances, counts,
        )  # fmt: skip

    @property
    def lists(self) -> kernels.MatchLists:
        """The arrays that kernels read and write."""
        return kernels.MatchLists(
            self.order, self.same, self.bounds, self.matches, self.distances, self.counts
        )

    @property
    def owners(self) -> np.ndarray:
        """Index of the query of each match, `(M,)` int64."""
        return np.repeat(np.arange(len(self.same)), np.diff(self.bounds))

    def only(self, kept: np.ndarray) -> TrueMatches:
        """Keep some matches and treat the others as junk.

        Counts stay right, because they count only images of other identities.

        Args:
            kept: `(M,)` bool.
        """
        bounds = np.concatenate([[0], np.cumsum(kept)])[self.bounds]
        return replace(
            self,
            bounds=bounds.astype(np.int64),
            matches=self.matches[kept],
            distances=self.distances[kept],
            counts=self.counts[kept],
        )
