"""What every method says of the query and the gallery: features on disk, from `evaluate` to `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.data.records import Records
from san_tf.evaluation.ranking import RankingResult, TopMatches, evaluate_ranking, top_matches
from san_tf.experiments.experiment import Experiment


@dataclass(frozen=True)
class Features:
    """Features of a method, with the identities and cameras that ranking them needs.

    Attributes:
        query: (Q, D) float32.
        query_pids: (Q,) int64; likewise `query_camids`.
        query_camids: (Q,) int64.
        gallery: (G, D) float32.
        gallery_pids: (G,) int64.
        gallery_camids: (G,) int64.
    """

    query: np.ndarray
    query_pids: np.ndarray
    query_camids: np.ndarray
    gallery: np.ndarray
    gallery_pids: np.ndarray
    gallery_camids: np.ndarray

    @classmethod
    def of(
        cls, query: Records, query_features: np.ndarray, gallery: Records, features: np.ndarray
    ) -> Features:
        """Features beside the records they describe."""
        return cls(query_features, query.pids, query.camids, features, gallery.pids, gallery.camids)

    def ranking(self) -> RankingResult:
        """CMC, mAP, mINP by the Market-1501 protocol."""
        return evaluate_ranking(
            self.query,
            self.query_pids,
            self.query_camids,
            self.gallery,
            self.gallery_pids,
            self.gallery_camids,
        )

    def top(self, k: int = 10, queries: np.ndarray | slice = slice(None)) -> TopMatches:
        """The first k gallery images of some queries."""
        return top_matches(
            self.query[queries],
            self.query_pids[queries],
            self.query_camids[queries],
            self.gallery,
            self.gallery_pids,
            self.gallery_camids,
            k,
        )

    def save(self, experiment: Experiment, method: str) -> None:
        """Write `features/<method>.npz`, whole or not at all."""
        with atomic_file(features_path(experiment, method)) as temporary, temporary.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, experiment: Experiment, method: str) -> Features:
        """Read what `save` wrote."""
        with np.load(features_path(experiment, method)) as data:
            return cls(**data)


def features_path(experiment: Experiment, method: str) -> Path:
    """Where a method's features lie in the run."""
    return experiment.run.path / "features" / f"{method.lower().replace(' ', '_')}.npz"
