"""Calibration: turns a distance into the probability of "same person"; stored beside an encoder."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.evaluation.distances import l2_normalized
from san_tf.evaluation.inputs import METRICS
from san_tf.evaluation.operating_points import OperatingPoint

METHODS = ("platt", "isotonic")
_FORMAT, _VERSION = "san_tf calibration", 1


@dataclass(frozen=True)
class Calibration:
    """Log likelihood ratio of a distance, with thresholds for given false accept rates.

    The ratio is `log(p(distance | same) / p(distance | different))`. It does not depend on how often a pair
    shows the same person. The user states that share as the prior: in a gallery of a thousand people, one
    random pair in a thousand shows the same person.

    Attributes:
        method: "platt": the ratio is `intercept + slope * distance`; "isotonic": it falls, linear between
            `knots`.
        metric: of the distances: "euclidean" (squared, as from `distance_blocks`) or "cosine".
        normalized: whether embeddings are scaled to length 1 before they are compared.
        intercept: of "platt".
        slope: of "platt", below 0.
        knots: of "isotonic": pairs of distance and log ratio, rising in distance, falling in ratio.
        prior: default probability of "same person", in (0, 1).
        num_same: same-person pairs it was fitted on.
        num_different: different-person pairs it was fitted on.
        operating_points: thresholds for given false accept rates.
        strict: how many times more often pairs of different people were assumed to come as near, where the
            calibration is used, as on the pairs it was fitted on. Ratio and thresholds include it.
    """

    method: str
    metric: str
    normalized: bool
    intercept: float = 0.0
    slope: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    prior: float = 0.5
    num_same: int = 0
    num_different: int = 0
    operating_points: tuple[OperatingPoint, ...] = ()
    strict: float = 1.0

    def log_ratio(self, distances: np.ndarray) -> np.ndarray:
        """Log likelihood ratio of distances, of any shape."""
        distances = np.asarray(distances, np.float64)
        if self.method == "platt":
            return self.intercept + self.slope * distances
        places, ratios = np.array(self.knots).T
        return np.interp(distances, places, ratios)

    def probability(self, distances: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Probability that the pairs at these distances show the same person.

        Args:
            distances: of any shape, of this calibration's `metric`.
            prior: probability of "same person" before looking, in (0, 1); None for the stored one.

        Raises:
            UserError: the prior is not between 0 and 1.

        Example:
            >>> Calibration("platt", "cosine", True, intercept=6.0, slope=-15.0).probability(0.4)
            array(0.5)
        """
        prior = self.prior if prior is None else prior
        check_prior(prior)
        logit = self.log_ratio(distances) + np.log(prior) - np.log1p(-prior)
        return 0.5 * (1.0 + np.tanh(0.5 * logit))  # the logistic function, without overflow

    def of_scores(self, scores: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Probability of "same person" for cosine similarities, such as those of a gallery's hits.

        Args:
            scores: of any shape, in [-1, 1].
            prior: as in `probability`; for a search, one over the number of entries.

        Raises:
            UserError: the calibration is of embeddings that are not scaled to length 1.

        Example:
            >>> calibration.of_scores([hit.score for hit in hits], prior=1 / len(gallery))
            array([0.81, 0.02])
        """
        scores = np.asarray(scores, np.float64)
        if self.metric == "cosine":
            return self.probability(1.0 - scores, prior)
        if not self.normalized:
            raise UserError(
                "This calibration is of distances between embeddings that are not scaled to length 1, which "
                "scores do not tell; make one with `san-tf calibrate`."
            )
        return self.probability(2.0 - 2.0 * scores, prior)

    def same_person(self, first: np.ndarray, second: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Probability that each pair of embeddings shows the same person.

        Args:
            first: `(N, D)` float embeddings from the encoder.
            second: `(N, D)`, or `(1, D)` to compare all with one.
            prior: as in `probability`.

        Returns:
            `(N,)` float64.
        """
        first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
        if self.normalized or self.metric == "cosine":
            first, second = l2_normalized(first), l2_normalized(second)
        if self.metric == "cosine":
            return self.probability(1.0 - (first * second).sum(axis=1), prior)
        return self.probability(((first - second) ** 2).sum(axis=1), prior)

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        return {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file; a failure leaves no partial file."""
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def from_dict(cls, values: Any, source: str = "calibration") -> Calibration:
        """Read the output of `to_dict`; `source` names it in messages.

        Raises:
            UserError: `values` is not a calibration, or a value is impossible.
        """
        problem = f"{source} is not a calibration of this package"
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise UserError(f"{problem}; make one with `python -m san_tf.evaluate --calibrate FILE`.")
        if values.get("version") != _VERSION:
            raise UserError(
                f"{source} is a calibration of version {values.get('version')!r}, but this package reads "
                f"version {_VERSION}; make it anew."
            )
        values = {key: value for key, value in values.items() if key not in ("format", "version")}
        try:
            points = tuple(OperatingPoint(**point) for point in values.pop("operating_points"))
            knots = tuple((float(place), float(ratio)) for place, ratio in values.pop("knots"))
            result = cls(**values, knots=knots, operating_points=points)
            numbers = [float(result.intercept), float(result.slope), *np.ravel(result.knots)]
            fits = (
                result.method in METHODS
                and result.metric in METRICS
                and isinstance(result.normalized, bool)
                and 0 < result.prior < 1
                and 1 <= result.strict < np.inf
                and np.isfinite(numbers).all()
                and (result.method == "platt" or len(result.knots) >= 2)
                and bool((np.diff([place for place, _ in result.knots]) > 0).all())
            )
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{problem}: values are missing or wrong ({error}); make it anew.") from error
        if not fits:
            raise UserError(f"{problem}: a value is impossible; make it anew.")
        return result

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file written by `save`.

        Raises:
            UserError: the file is missing, or not a calibration.
        """
        try:
            values = json.loads(Path(path).read_text())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UserError(f"{path} is not a calibration: it is not JSON.") from error
        return cls.from_dict(values, str(path))


def check_prior(prior: float) -> None:
    """Raise `UserError` unless `prior` lies strictly between 0 and 1."""
    if not 0 < prior < 1:
        raise UserError(f"prior is {prior}, but it must be a probability between 0 and 1, such as 0.001.")
