"""Fits the probability of "same person" to distances, and measures how far it holds on other people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.calibration import METHODS, Calibration, check_prior
from san_tf.evaluation.counted_pairs import labelled_blocks
from san_tf.evaluation.feature_set import Distances, FeatureSet
from san_tf.evaluation.operating_points import WISHED, OperatingPoint, far_upper_bound, operating_point
from san_tf.evaluation.roc import RocCurve, roc_curve
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


# Different-person pairs that are sampled for the fit.
_SAMPLE = 2_000_000
_KNOTS = 512


def fit_calibration(
    distances: Distances,
    query: FeatureSet,
    gallery: FeatureSet,
    metric: str,
    normalized: bool,
    method: str = "platt",
    prior: float = 0.5,
    protocol: str = "market",
    wished: Sequence[float] = WISHED,
    seed: int = 0,
    strict: float = 1.0,
) -> Calibration:
    """Fit a calibration on a validation split of people not seen in training.

    Different-person pairs outnumber the others a thousandfold, so each kind is weighted by `prior`: the fit
    minimises `-prior * mean_same(log p) - (1 - prior) * mean_different(log(1 - p))`. It uses all same-person
    pairs and two million random different-person pairs. The thresholds are exact, over all pairs.

    Args:
        distances: yields blocks of distances by `metric`.
        query: Q images of the validation split; only identities and cameras are used.
        gallery: G images likewise.
        metric: "euclidean" or "cosine"; stored in the calibration.
        normalized: whether the embeddings have length 1; stored likewise.
        method: "platt": logistic in the distance (Platt, "Probabilistic Outputs for Support Vector Machines",
            1999, with his targets, so that separable data do not give probabilities of 0 or 1); "isotonic":
            any falling function (Zadrozny and Elkan, "Transforming Classifier Scores", KDD 2002); it needs
            many pairs.
        prior: share of same-person pairs in (0, 1), also stored as the default of `Calibration.probability`.
        protocol: which pairs count, see `san_tf.evaluation.counted_pairs`.
        wished: false accept rates to find thresholds for.
        seed: of the sample.
        strict: assume that where the calibration is used, so many times more pairs of different people come
            as near as here; at least 1. For validation people that are easier to tell apart than those, such
            as rendered ones: each threshold is that of a rate so many times lower, and `log(strict)` is
            taken from the log ratio.

    Raises:
        UserError: unknown method, impossible prior, `strict` below 1, pairs of one kind only, or same-person
            pairs that are not nearer than the others.

    Example:
        >>> blocks = features_distances(query, gallery, "cosine")
        >>> fit_calibration(blocks, query, gallery, "cosine", normalized=True).save("calibration.json")
    """
    if method not in METHODS:
        raise UserError(f"There is no calibration {method!r}; choose one of: {', '.join(METHODS)}.")
    check_prior(prior)
    if not 1 <= strict < np.inf:
        raise UserError(f"strict is {strict}, but it must be 1 or more, such as 10.")
    curve = roc_curve(distances, query, gallery, protocol)
    same = np.repeat(curve.thresholds, np.diff(curve.true_accepts, prepend=0)).astype(np.float64)
    different = _sample(distances, query, gallery, protocol, _SAMPLE / curve.num_different, seed)
    if method == "platt":
        intercept, slope = platt(same, different, prior)
        fitted = Calibration(method, metric, normalized, intercept - _logit(prior) - np.log(strict), slope)
        helps = slope < 0
    else:
        knots = isotonic(same, different, prior)
        ratios = tuple((place, odds - _logit(prior) - np.log(strict)) for place, odds in knots)
        fitted = Calibration(method, metric, normalized, knots=ratios)
        helps = knots[0][1] > knots[-1][1]
    if not helps:
        raise UserError(
            "Same-person pairs are not nearer than others in these features, so there is nothing to "
            "calibrate; check features and identities."
        )
    return replace(
        fitted,
        prior=prior,
        num_same=curve.num_same,
        num_different=curve.num_different,
        operating_points=tuple(_strict_point(curve, far, strict) for far in wished),
        strict=strict,
    )


def _strict_point(curve: RocCurve, far: float, strict: float) -> OperatingPoint:
    """The operating point for a rate `strict` times lower on these pairs, `far` where it is used."""
    if strict == 1:
        return operating_point(curve, far)
    point = operating_point(curve, far / strict)
    note = f"For {far:g} where {strict:g} times more others come as near: {point.note}"
    return replace(point, far=far, note=note)


# With fewer pairs of a kind not even a curve can be fitted.
FEWEST_PAIRS = 20
# The spread of false accepts over people is measured where at least so many are accepted.
_ACCEPTED = 10


def fit_pairs(
    distances: np.ndarray,
    same: np.ndarray,
    people: np.ndarray,
    metric: str = "cosine",
    normalized: bool = True,
    prior: float = 0.5,
    wished: Sequence[float] = WISHED,
    confidence: float = 0.95,
) -> Calibration:
    """Fit a calibration to chosen pairs, such as those that a person answered, or crops of tracks.

    Thresholds hold with the stated confidence for *other people*: pairs that share a person are not
    independent, so the number of pairs is divided by the design effect of false accepts over people
    (`design_effect`).

    Args:
        distances: `(M,)` distances of the pairs.
        same: `(M,)` bool, whether a pair shows one person.
        people: `(M, 2)` int, who is on each side: an identity or a track.
        metric: "euclidean" or "cosine"; stored in the calibration.
        normalized: whether the embeddings have length 1; stored likewise.
        prior: share of same-person pairs in (0, 1), stored as the default of `Calibration.probability`.
        wished: false accept rates to find thresholds for.
        confidence: confidence that the true rate is at most the wished one; in (0, 1).

    Raises:
        UserError: fewer than 20 pairs of a kind, or same-person pairs that are not nearer than the others.

    Example:
        >>> fit_pairs(distances, same, people, prior=0.001).save("calibration.json")
    """
    check_prior(prior)
    distances, same, people = np.asarray(distances, np.float64), np.asarray(same, bool), np.asarray(people)
    numbers = {"same": int(same.sum()), "different": int((~same).sum())}
    for kind, number in numbers.items():
        if number < FEWEST_PAIRS:
            raise UserError(
                f"A calibration needs at least {FEWEST_PAIRS} pairs of each kind, and {number} show "
                f"{'one person' if kind == 'same' else 'two people'}; label more pairs."
            )
    intercept, slope = platt(distances[same], distances[~same], prior)
    if slope >= 0:
        raise UserError(
            "Same-person pairs are not nearer than others in these features, so there is nothing to "
            "calibrate; check features and labels."
        )
    points = [_point(distances[same], distances[~same], people[~same], far, confidence) for far in wished]
    return Calibration(
        "platt",
        metric,
        normalized,
        intercept - _logit(prior),
        slope,
        prior=prior,
        num_same=numbers["same"],
        num_different=numbers["different"],
        operating_points=tuple(points),
    )


def design_effect(accepted: np.ndarray, people: np.ndarray) -> float:
    """How many times the variance of a rate over pairs exceeds that of as many independent pairs.

    The variance is that of dyadic data (Aronow, Samii and Assenova, "Cluster-Robust Variance Estimation for
    Dyadic Data", Political Analysis 2015): residuals of pairs that share a person are correlated.

    Args:
        accepted: `(M,)` bool.
        people: `(M, 2)` int, who is on each side.

    Returns:
        At least 1.
    """
    rate = accepted.mean()
    if not 0 < rate < 1:
        return 1.0
    residual = accepted - rate
    _, place = np.unique(people, return_inverse=True)
    place = place.reshape(people.shape)
    sums = np.bincount(place[:, 0], residual, place.max() + 1)
    sums += np.bincount(place[:, 1], residual, place.max() + 1)
    # What two pairs of the same two people share is in the sums of both.
    low, high = place.min(axis=1).astype(np.int64), place.max(axis=1).astype(np.int64)
    _, dyad = np.unique(low * (place.max() + 1) + high, return_inverse=True)
    twice = np.bincount(dyad.ravel(), residual)
    variance = (np.sum(sums**2) - np.sum(twice**2)) / len(accepted) ** 2
    return max(float(variance / (rate * (1 - rate) / len(accepted))), 1.0)


def _point(
    same: np.ndarray, different: np.ndarray, people: np.ndarray, far: float, confidence: float
) -> OperatingPoint:
    """The threshold that accepts most same-person pairs, with false accepts bounded for other people."""
    ordered = np.sort(different)
    number = len(different)

    def bound(accepts: int) -> float:
        limit = ordered[min(max(accepts, _ACCEPTED), number) - 1]
        effect = design_effect(different <= limit, people)
        return far_upper_bound(accepts / effect, number / effect, confidence)

    least = bound(0)
    if least > far:
        note = (
            f"{number} different-person pairs cannot support a false accept rate of {far:g}: even without a "
            f"single false accept it could be {least:.2g} for other people; add pairs of more people."
        )
        return OperatingPoint(far, None, 0.0, 0, number, least, confidence, False, note)
    low, high = 0, number
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if bound(middle) <= far else (low, middle)
    # Just below the first false accept that would be one too many.
    kept = same[same < ordered[low]]
    if not len(kept):
        note = f"No threshold keeps a false accept rate of {far:g}: no same-person pair is near enough."
        return OperatingPoint(far, None, 0.0, 0, number, least, confidence, True, note)
    threshold = float(kept.max())
    accepts = int(np.count_nonzero(different <= threshold))
    tar, highest = len(kept) / len(same), bound(accepts)
    note = (
        f"Accepting up to {threshold:.4g} lets in {100 * tar:.1f} % of the same-person pairs and {accepts} "
        f"of {number} others: for other people a rate of at most {highest:.2g} with {100 * confidence:g} % "
        "confidence."
    )
    return OperatingPoint(far, threshold, tar, accepts, number, highest, confidence, True, note)


def platt(same: np.ndarray, different: np.ndarray, prior: float) -> tuple[float, float]:
    """Fit `log odds = intercept + slope * distance` by Newton's method.

    Args:
        same: `(S,)` float64 distances of same-person pairs.
        different: `(D,)` float64 distances of different-person pairs.
        prior: share of same-person pairs, in (0, 1).

    Returns:
        Intercept and slope.
    """
    distance = np.concatenate([same, different])
    weight = np.concatenate(
        [np.full(len(same), prior / len(same)), np.full(len(different), (1 - prior) / len(different))]
    )
    target = np.concatenate(
        [
            np.full(len(same), (len(same) + 1) / (len(same) + 2)),
            np.full(len(different), 1 / (len(different) + 2)),
        ]
    )
    # Centred and scaled, so that one step size suits all distances.
    centre, scale = (same.mean() + different.mean()) / 2, max(distance.std(), 1e-12)
    design = np.stack([np.ones_like(distance), (distance - centre) / scale])
    parameters = np.array([_logit(prior), 0.0])
    loss = _log_loss(parameters @ design, target, weight)
    for _ in range(100):
        probability = 0.5 * (1 + np.tanh(0.5 * (parameters @ design)))
        gradient = design @ (weight * (probability - target))
        curvature = weight * probability * (1 - probability)
        step = np.linalg.solve((design * curvature) @ design.T + 1e-12 * np.eye(2), gradient)
        # Far from the minimum a whole step can overshoot.
        for _ in range(40):
            trial = parameters - step
            trial_loss = _log_loss(trial @ design, target, weight)
            if trial_loss <= loss:
                break
            step = step / 2
        gained = loss - trial_loss
        if gained >= 0:
            parameters, loss = trial, trial_loss
        if gained < 1e-13:
            break
    slope = parameters[1] / scale
    return float(parameters[0] - slope * centre), float(slope)


def isotonic(same: np.ndarray, different: np.ndarray, prior: float) -> list[tuple[float, float]]:
    """Fit falling log odds.

    Args:
        same: `(S,)` float64 distances of same-person pairs.
        different: `(D,)` float64 distances of different-person pairs.
        prior: share of same-person pairs, in (0, 1).

    Returns:
        Knots: pairs of distance and log odds, at most 512.
    """
    from sklearn.isotonic import IsotonicRegression

    distance = np.concatenate([same, different])
    label = np.repeat([1.0, 0.0], [len(same), len(different)])
    weight = np.repeat([prior / len(same), (1 - prior) / len(different)], [len(same), len(different)])
    model = IsotonicRegression(increasing=False).fit(distance, label, sample_weight=weight)
    places, values = model.X_thresholds_, model.y_thresholds_
    # No data justify a probability of 0 or 1: assume one more pair of the other kind at both ends.
    lowest = prior / (len(same) + 1)
    highest = (1 - prior) / (len(different) + 1)
    values = np.clip(values, lowest / (lowest + 1 - prior), prior / (prior + highest))
    keep = np.unique(np.linspace(0, len(places) - 1, min(_KNOTS, len(places))).round().astype(int))
    return [(float(place), _logit(value)) for place, value in zip(places[keep], values[keep], strict=True)]


def _log_loss(logit: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    return float(np.sum(weight * (np.logaddexp(0, logit) - target * logit)))


def _logit(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def _sample(
    distances: Distances, query: FeatureSet, gallery: FeatureSet, protocol: str, share: float, seed: int
) -> np.ndarray:
    """Distances of different-person pairs, each kept with probability `share`."""
    rng = np.random.default_rng(seed)
    kept = []
    for _, block, _, different in labelled_blocks(distances, query, gallery, protocol):
        others = block[different]
        kept.append(others if share >= 1 else others[rng.random(len(others), np.float32) < share])
    return np.concatenate(kept).astype(np.float64)
