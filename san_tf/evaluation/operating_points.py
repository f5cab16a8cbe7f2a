"""Thresholds for a target false accept rate, with a confidence bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.roc import RocCurve

WISHED = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its rates on the data it was chosen on.

    Attributes:
        far: target false accept rate.
        threshold: accept pairs up to this distance; None where no threshold meets the target.
        tar: share of same-person pairs accepted.
        false_accepts: number of different-person pairs accepted.
        num_different: number of different-person pairs.
        far_bound: upper confidence bound of the false accept rate, at most `far` where there is a threshold.
        confidence: confidence of the bound.
        supported: whether there are enough pairs for the target; if not, no threshold could meet it.
        note: one sentence that explains the point.
    """

    far: float
    threshold: float | None
    tar: float
    false_accepts: int
    num_different: int
    far_bound: float
    confidence: float
    supported: bool
    note: str


def far_upper_bound(false_accepts: float, num_different: float, confidence: float = 0.95) -> float:
    """Return the one-sided upper confidence bound of a false accept rate.

    This is the exact bound of Clopper and Pearson (1934). Without any false accept it is the rule of three:
    3 / n at 95 %. It assumes independent pairs and a threshold chosen beforehand. But pairs share images and
    people, and `operating_point` chooses by the same pairs, so the true bound is somewhat wider. Measure an
    important threshold again on other people.

    Args:
        false_accepts: number of different-person pairs accepted; a fraction of them for pairs that are not
            independent.
        num_different: number of different-person pairs, likewise.
        confidence: in (0, 1).

    Example:
        >>> round(far_upper_bound(0, 3000), 6)
        0.000998
    """
    from scipy.special import betaincinv

    if false_accepts >= num_different:
        return 1.0
    return float(betaincinv(false_accepts + 1, num_different - false_accepts, confidence))


def operating_point(curve: RocCurve, far: float, confidence: float = 0.95) -> OperatingPoint:
    """Find the threshold that accepts most same-person pairs at a target false accept rate.

    Args:
        curve: ROC curve of the validation data.
        far: target false accept rate, in (0, 1).
        confidence: confidence that the true rate, on such data, is at most `far`; in (0, 1).

    Raises:
        UserError: `far` or `confidence` is not between 0 and 1.

    Example:
        >>> point = operating_point(curve, 1e-3)
        >>> point.threshold, point.note
        (0.412, 'Accepting up to 0.412 lets in 87.1 % of the same-person pairs; ...')
    """
    for name, value in (("far", far), ("confidence", confidence)):
        if not 0 < value < 1:
            raise UserError(f"{name} is {value}, but it must lie between 0 and 1, such as 0.01.")
    different = curve.num_different
    least = far_upper_bound(0, different, confidence)
    if least > far:
        needed = int(np.ceil(np.log1p(-confidence) / np.log1p(-far)))
        note = (
            f"{different} different-person pairs cannot support a false accept rate of {far:g}: even without "
            f"a single false accept it could be {least:.2g}; {needed} pairs are needed."
        )
        return OperatingPoint(far, None, 0.0, 0, different, least, confidence, False, note)
    allowed = _most_allowed(different, far, confidence)
    within = int(np.searchsorted(curve.false_accepts, allowed, side="right"))
    if not within:
        note = (
            f"No threshold keeps a false accept rate of {far:g}: the nearest same-person pair already lets "
            f"in {curve.false_accepts[0]} of {different} others."
        )
        bound = far_upper_bound(int(curve.false_accepts[0]), different, confidence)
        return OperatingPoint(far, None, 0.0, 0, different, bound, confidence, True, note)
    place = within - 1
    accepted, threshold = int(curve.false_accepts[place]), float(curve.thresholds[place])
    bound = far_upper_bound(accepted, different, confidence)
    tar = float(curve.tar[place])
    note = (
        f"Accepting up to {threshold:.4g} lets in {100 * tar:.1f} % of the same-person pairs and {accepted} "
        f"of {different} others: a rate of at most {bound:.2g} with {100 * confidence:g} % confidence."
    )
    return OperatingPoint(far, threshold, tar, accepted, different, bound, confidence, True, note)


def _most_allowed(different: int, far: float, confidence: float) -> int:
    """Largest number of false accepts whose bound is at most `far`, by bisection; 0 must meet it."""
    low, high = 0, different
    while low + 1 < high:
        middle = (low + high) // 2
        if far_upper_bound(middle, different, confidence) <= far:
            low = middle
        else:
            high = middle
    return low
