"""Thresholds for a wished false accept rate, with what the data can vouch for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.roc import RocCurve

WISHED = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its rates on the data it was found on.

    Attributes:
        far: the wished false accept rate.
        threshold: accept pairs up to this distance; None where no threshold keeps the wish.
        tar: share of same-person pairs accepted.
        false_accepts: different-person pairs accepted.
        num_different: of so many.
        far_bound: upper confidence bound of the false accept rate, at most `far` where there is a threshold.
        confidence: of the bound.
        supported: whether the data are enough for the wish; if not, no threshold could have kept it.
        note: one sentence for people.
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


def far_upper_bound(false_accepts: int, num_different: int, confidence: float = 0.95) -> float:
    """One-sided upper bound of a rate of which `false_accepts` in `num_different` were seen.

    The exact bound of Clopper and Pearson (1934). Without any false accept it is the rule of three: 3 / n at
    95 %. It takes pairs as independent and the threshold as chosen beforehand. Pairs share images and people,
    and `operating_point` chooses by the same pairs, so the truth is somewhat wider: where much depends on it,
    measure the threshold again on other people.

    Example:
        >>> round(far_upper_bound(0, 3000), 6)
        0.000998
    """
    from scipy.special import betaincinv

    if false_accepts >= num_different:
        return 1.0
    return float(betaincinv(false_accepts + 1, num_different - false_accepts, confidence))


def operating_point(curve: RocCurve, far: float, confidence: float = 0.95) -> OperatingPoint:
    """Find the threshold that accepts most same-person pairs while the bound of its rate keeps the wish.

    Args:
        curve: of the validation data.
        far: wished false accept rate, in (0, 1).
        confidence: that the true rate, on data like these, is at most `far`.

    Raises:
        UserError: a rate or confidence that is none.

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
    """The largest number of false accepts whose bound keeps `far`, by bisection; 0 is known to keep it."""
    low, high = 0, different
    while low + 1 < high:
        middle = (low + high) // 2
        if far_upper_bound(middle, different, confidence) <= far:
            low = middle
        else:
            high = middle
    return low
