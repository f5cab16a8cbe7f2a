"""Options of an evaluation: flags of `python -m san_tf.evaluate`, some also of recipes.

This module imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from san_tf.errors import UserError

ProtocolName = Literal["market", "cuhk03", "vehicleid", "cross-camera", "partial"]
Metric = Literal["euclidean", "cosine"]
Unit = Literal["query", "identity"]


@dataclass(frozen=True)
class Preparation:
    """Steps before embeddings are ranked, in this order; the defaults change nothing."""

    normalize: bool = False
    """Scale embeddings to unit length."""
    camera_bias_removal: bool = False
    """Subtract from each embedding the mean embedding of its camera (and scale again, if scaled before)."""
    database_augmentation: int = 0
    """Nearest gallery images added to each gallery image (DBA); 0 for none. Scales to unit length."""
    query_expansion: int = 0
    """Nearest gallery images added to each query (alpha query expansion); 0 for none. Scales likewise."""
    alpha: float = 3.0
    """Exponent of the similarity in augmentation and expansion; 0 for plain averages (AQE)."""

    def check(self) -> None:
        """Raise `UserError` for the first impossible value."""
        for name in ("database_augmentation", "query_expansion", "alpha"):
            value = getattr(self, name)
            if not value >= 0:
                raise UserError(f"{name} is {value}, but it cannot be negative.")


@dataclass(frozen=True)
class Ranking:
    """How the gallery is ranked for each query."""

    metric: Metric = "euclidean"
    """Distance between embeddings."""
    repeats: int = 10
    """Number of random galleries of the protocols `cuhk03` and `vehicleid`, drawn from the seed."""
    rerank: bool = False
    """Also measure after k-reciprocal re-ranking (Zhong et al., CVPR 2017)."""
    k1: int = 20
    """Re-ranking: neighbours that must be mutual."""
    k2: int = 6
    """Re-ranking: neighbours over which each image's list is averaged."""
    lambda_value: float = 0.3
    """Re-ranking: weight of the original distance."""


@dataclass(frozen=True)
class Measures(Ranking):
    """What is measured."""

    protocol: ProtocolName = "market"
    """Which images count: see `san_tf.evaluation.protocols`."""
    seed: int = 0
    """Seed of all random draws."""
    bootstrap: int = 0
    """Resamples of the queries for confidence intervals and comparisons; 0 for none, 2000 is enough."""
    bootstrap_unit: Unit = "query"
    """Unit of resampling: `query`, or `identity` with all its queries, for honest, wider intervals."""
    level: float = 0.95
    """Confidence of the intervals."""
    roc: bool = False
    """Also measure verification over all pairs: true accepts at false accept rates, equal error rate."""
    far: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2])
    """False accept rates to report."""
    cameras: bool = False
    """Also break the scores down by query camera and gallery camera."""

    def check(self) -> None:
        """Raise `UserError` for the first impossible value."""
        if self.bootstrap and self.bootstrap < 100:
            raise UserError(f"bootstrap is {self.bootstrap}, but an interval needs at least 100 resamples.")
        if not 0 < self.level < 1:
            raise UserError(f"level is {self.level}, but a confidence lies between 0 and 1, such as 0.95.")
        for value in self.far:
            if not 0 < value < 1:
                raise UserError(f"far is {value}, but a rate lies between 0 and 1, such as 0.001.")
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}, but at least one gallery must be drawn.")
        if self.protocol == "vehicleid" and self.rerank:
            raise UserError("The protocol vehicleid draws its queries anew each time; leave --rerank out.")
        if self.protocol == "vehicleid" and (self.roc or self.cameras):
            raise UserError(
                "The protocol vehicleid has no fixed query and gallery; leave --roc, --cameras out."
            )


@dataclass(frozen=True)
class CalibrationOptions:
    """From a distance to the probability of "same person"."""

    calibrate: str | None = None
    """Fit a calibration on these features, of people not seen in training, and write it to this file."""
    calibration: str | None = None
    """Test the calibration in this file on these features: reliability, expected calibration error."""
    method: Literal["platt", "isotonic"] = "platt"
    """With --calibrate: logistic in the distance, or any falling function of it."""
    prior: float = 0.5
    """With --calibrate: how often a pair shows the same person where the probabilities are used."""
    strict: float = 1.0
    """With --calibrate: how many times more different people come as near where it is used as in these
    features. Above 1 for validation people that are easier to tell apart, such as rendered ones."""

    def check(self) -> None:
        """Raise `UserError` for the first impossible value."""
        if not 0 < self.prior < 1:
            raise UserError(f"prior is {self.prior}, but it must lie between 0 and 1, such as 0.001.")
        if not 1 <= self.strict < float("inf"):
            raise UserError(f"strict is {self.strict}, but it must be 1 or more, such as 10.")
        if self.calibrate and self.calibration:
            raise UserError(
                "--calibrate and --calibration exclude each other; fit on validation people, test on others."
            )
