"""Who is to be found: the true matches of every query, listed once from the ids."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from san_tf.evaluation import ranking_kernels as kernels
from san_tf.evaluation.feature_set import told_apart
from san_tf.evaluation.inputs import checked_ids
from san_tf.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class TrueMatches(ShortRepr):
    """The true matches of every query and what is counted of them, for `ranking_kernels`.

    Queries are `Q`, gallery images `G`, pairs of a query and one of its matches `M`.
    """

    query_pids: np.ndarray  # (Q,) int64; likewise
    query_camids: np.ndarray
    gallery_pids: np.ndarray  # (G,) int64; likewise
    gallery_camids: np.ndarray
    order: np.ndarray  # (G,) gallery indices by identity
    same: np.ndarray  # (Q, 2) where in `order` each query's identity begins and ends
    junk: np.ndarray  # (G,) bool
    bounds: np.ndarray  # (Q + 1,) where in the next three each query's matches begin
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
        """Check the ids and list the matches of `number` queries among `size` images.

        Unknown cameras (-1) are told apart: two images of unknown cameras are never taken for images of one.
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
    def owners(self) -> np.ndarray:
        """`(M,)` int64: the query of each match."""
        return np.repeat(np.arange(len(self.same)), np.diff(self.bounds))

    def only(self, kept: np.ndarray) -> TrueMatches:
        """Leave matches out, as if they were junk: neither found nor in the way.

        Args:
            kept: `(M,)` bool. The counts of a ranked match are of other identities alone, so they stay right.
        """
        bounds = np.concatenate([[0], np.cumsum(kept)])[self.bounds]
        return replace(
            self,
            bounds=bounds.astype(np.int64),
            matches=self.matches[kept],
            distances=self.distances[kept],
            counts=self.counts[kept],
        )
