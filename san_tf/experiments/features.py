"""What every method says of the query and the gallery: features on disk, from `evaluate` to `report`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.data.records import Records
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.options import Preparation
from san_tf.evaluation.preparation import prepared
from san_tf.evaluation.ranking import (
    RankingResult,
    TopMatches,
    evaluate_distances,
    evaluate_ranking,
    rank_matches,
    top_matches,
)
from san_tf.evaluation.reranking import Reranking
from san_tf.evaluation.true_matches import TrueMatches
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.recipe import EvaluationRecipe


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

    def rankings(self, evaluation: EvaluationRecipe) -> Iterator[tuple[str, RankingResult]]:
        """CMC, mAP, mINP by the Market-1501 protocol, as the recipe compares embeddings.

        Yields:
            What to add to the method's name, and its result: plain, then re-ranked where that is asked for.

        Raises:
            UserError: a value that cannot be, or no query has a true match.
        """
        query, gallery = self._prepared(evaluation)
        ids = query.pids, query.camids, gallery.pids, gallery.camids
        metric = evaluation.metric
        yield "", evaluate_ranking(query.features, *ids[:2], gallery.features, *ids[2:], metric)
        if evaluation.rerank:
            reranking = Reranking.of(
                query.features,
                gallery.features,
                evaluation.k1,
                evaluation.k2,
                evaluation.lambda_value,
                metric,
            )
            yield ", re-ranked", evaluate_distances(reranking.blocks(), *ids)

    def matches(self, evaluation: EvaluationRecipe) -> TrueMatches:
        """Where the true matches stand in the plain ranking, for a breakdown of it."""
        query, gallery = self._prepared(evaluation)
        ids = query.pids, query.camids, gallery.features, gallery.pids, gallery.camids
        return rank_matches(query.features, *ids, evaluation.metric)

    def _prepared(self, evaluation: EvaluationRecipe) -> tuple[FeatureSet, FeatureSet]:
        return prepared(
            FeatureSet(self.query, self.query_pids, self.query_camids),
            FeatureSet(self.gallery, self.gallery_pids, self.gallery_camids),
            Preparation(
                camera_bias_removal=evaluation.camera_bias_removal,
                database_augmentation=evaluation.database_augmentation,
                query_expansion=evaluation.query_expansion,
                alpha=evaluation.alpha,
            ),
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
