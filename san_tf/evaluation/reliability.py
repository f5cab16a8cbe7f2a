"""Reliability of probabilities: of the pairs given 70 %, 70 % should show the same person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.counted_pairs import labelled_blocks
from san_tf.evaluation.feature_set import Distances, FeatureSet
from san_tf.short_repr import ShortRepr

# Pairs converted in one step: float64 probabilities of a whole block would take twice its memory.
_CHUNK = 2**20


@dataclass(frozen=True, repr=False)
class Reliability(ShortRepr):
    """Predicted and observed probabilities, in bins of equal width of the predicted one.

    Attributes:
        predicted: `(B,)` mean predicted probability of each bin; NaN in an empty one.
        observed: `(B,)` share of same-person pairs, likewise.
        weight: `(B,)` share of all pairs, sums to 1.
        pairs: `(B,)` int64 number of pairs.
    """

    predicted: np.ndarray
    observed: np.ndarray
    weight: np.ndarray
    pairs: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean |predicted - observed| (Naeini et al., AAAI 2015)."""
        some = self.weight > 0
        return float(np.sum(self.weight[some] * np.abs(self.predicted[some] - self.observed[some])))

    def as_dict(self) -> dict[str, Any]:
        """Return the bins that are not empty as JSON values."""
        some = self.weight > 0
        return {
            "ece": self.ece,
            **{
                name: getattr(self, name)[some].tolist()
                for name in ("predicted", "observed", "weight", "pairs")
            },
        }


def reliability(
    calibration: Calibration,
    distances: Distances,
    query: FeatureSet,
    gallery: FeatureSet,
    protocol: str = "market",
    prior: float | None = None,
    bins: int = 15,
) -> Reliability:
    """Test a calibration on pairs that it was not fitted on.

    Same-person pairs are rare, so both kinds are weighted by `prior`. The error is then the one a user sees
    whose pairs show the same person that often.

    Args:
        calibration: fitted on other people.
        distances: yields blocks of distances by the calibration's metric.
        query: Q images; only identities and cameras are used.
        gallery: G images likewise.
        protocol: which pairs count, see `san_tf.evaluation.counted_pairs`.
        prior: share of same-person pairs, in (0, 1); None for the calibration's own.
        bins: number of bins of equal width.

    Raises:
        UserError: pairs of one kind only.

    Example:
        >>> f"{reliability(Calibration.load('calibration.json'), blocks, query, gallery).ece:.1%}"
        '1.3%'
    """
    prior = calibration.prior if prior is None else prior
    counts, sums = np.zeros((2, bins), np.int64), np.zeros((2, bins))
    for _, block, same, different in labelled_blocks(distances, query, gallery, protocol):
        for kind, chosen in enumerate((different, same)):
            values = block[chosen]
            for start in range(0, len(values), _CHUNK):
                probability = calibration.probability(values[start : start + _CHUNK], prior)
                place = np.minimum((probability * bins).astype(np.int64), bins - 1)
                counts[kind] += np.bincount(place, minlength=bins)
                sums[kind] += np.bincount(place, probability, bins)
    total = counts.sum(axis=1)
    if not total.all():
        raise UserError("A reliability diagram needs pairs of both kinds; give query and gallery with both.")
    share = np.array([1 - prior, prior]) / total
    weight = share @ counts
    with np.errstate(invalid="ignore"):
        predicted, observed = (share @ sums) / weight, share[1] * counts[1] / weight
    return Reliability(predicted, observed, weight, counts.sum(axis=0))
