"""From a distance to the probability of "same person", as a file that goes with an encoder."""

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
    """What a distance says, as a log likelihood ratio, and thresholds for wished false accept rates.

    The ratio `log p(distance | same) / p(distance | different)` does not depend on how often a pair shows the
    same person; the prior does, and is the user's to name: in a gallery of a thousand people a pair at random
    is the same person once in a thousand.

    Attributes:
        method: "platt": the ratio is `intercept + slope * distance`; "isotonic": it falls in steps, linear
            between `knots`.
        metric: of the distances: "euclidean" (squared, as `distance_blocks` gives them) or "cosine".
        normalized: whether embeddings are scaled to length 1 before they are compared.
        intercept: of "platt".
        slope: of "platt", below 0.
        knots: of "isotonic": pairs of distance and log ratio, rising in distance, falling in ratio.
        prior: probability of "same person" where none is given.
        num_same: same-person pairs it was fitted on.
        num_different: different-person pairs it was fitted on.
        operating_points: thresholds for wished false accept rates.
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
            prior: probability of "same person" before looking, in (0, 1); the stored one where None.

        Raises:
            UserError: the prior is not a probability.

        Example:
            >>> Calibration("platt", "cosine", True, intercept=6.0, slope=-15.0).probability(0.4)
            array(0.5)
        """
        prior = self.prior if prior is None else prior
        check_prior(prior)
        logit = self.log_ratio(distances) + np.log(prior) - np.log1p(-prior)
        return 0.5 * (1.0 + np.tanh(0.5 * logit))  # the logistic function, without overflow

    def same_person(self, first: np.ndarray, second: np.ndarray, prior: float | None = None) -> np.ndarray:
        """Probability that two embeddings are of one person, pair by pair.

        Args:
            first: `(N, D)` float, as the encoder gives them.
            second: `(N, D)`, or `(1, D)` to compare with one.
            prior: as `probability` takes it.

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
        """As JSON can hold it."""
        return {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, whole or not at all."""
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def from_dict(cls, values: Any, source: str = "calibration") -> Calibration:
        """Read what `to_dict` gave.

        Raises:
            UserError: it is none, or its values cannot be.
        """
        problem = f"{source} is not a calibration of this package"
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise UserError(f"{problem}; make one with `python -m san_tf.evaluate --calibrate FILE`.")
        if values.get("version") != _VERSION:
            raise UserError(
                f"{source} is a calibration of version {values.get('version')!r}, and this package reads "
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
                and np.isfinite(numbers).all()
                and (result.method == "platt" or len(result.knots) >= 2)
                and bool((np.diff([place for place, _ in result.knots]) > 0).all())
            )
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{problem}: values are missing or wrong ({error}); make it anew.") from error
        if not fits:
            raise UserError(f"{problem}: a value cannot be; make it anew.")
        return result

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, or no calibration.
        """
        try:
            values = json.loads(Path(path).read_text())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UserError(f"{path} is not a calibration: it is not JSON.") from error
        return cls.from_dict(values, str(path))


def check_prior(prior: float) -> None:
    """Raise `UserError` unless `prior` is a probability that leaves a doubt."""
    if not 0 < prior < 1:
        raise UserError(f"prior is {prior}, but a probability between 0 and 1 is wanted, such as 0.001.")
