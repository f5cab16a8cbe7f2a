"""Scores of each query, for confidence intervals and comparisons of runs."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from san_tf.evaluation.ranking import RankingResult
from san_tf.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class QueryScores(ShortRepr):
    """Scores of each query, `(Q,)` float64 in [0, 1]; NaN where a query has no true match.

    The names are those of their means, as `results.json` has them.

    Attributes:
        rank1: 1 where the first image is right, else 0; a share where the protocol draws repeatedly.
        mAP: average precision.
        mINP: inverse negative penalty.
    """

    rank1: np.ndarray
    mAP: np.ndarray  # the field's name
    mINP: np.ndarray

    @classmethod
    def of(cls, ranking: RankingResult) -> QueryScores:
        """Return the scores of each query of a ranking."""
        valid = ranking.first_ranks > 0
        rank1 = np.where(valid, (ranking.first_ranks == 1).astype(np.float64), np.nan)
        return cls(rank1, ranking.average_precisions, ranking.inverse_penalties)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the scores by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def valid(self) -> np.ndarray:
        """Return `(Q,)` bool: whether each query has a true match."""
        return np.isfinite(self.mAP)
