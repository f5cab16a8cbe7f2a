"""Features of each method for query and gallery, on disk between `evaluate` and `report`."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.evaluation.counted_pairs import cameras_of_pairs
from san_tf.evaluation.embedding_steps import prepared
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.protocols import ProtocolResult, evaluate_protocol
from san_tf.evaluation.ranking import TopMatches, rank_matches, top_matches
from san_tf.evaluation.reranking import Reranking
from san_tf.evaluation.true_matches import TrueMatches
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.recipe import EvaluationRecipe


@dataclass(frozen=True)
class Features:
    """Features of a method, with the identities and camera ids for ranking.

    Attributes:
        query: (Q, D) float32.
        query_pids: (Q,) int64.
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
        """Join features with the identities and camera ids of their records.

        Args:
            query: Q query records.
            query_features: (Q, D) float32.
            gallery: G gallery records.
            features: (G, D) float32, of the gallery.
        """
        return cls(query_features, query.pids, query.camids, features, gallery.pids, gallery.camids)

    def sets(self) -> tuple[FeatureSet, FeatureSet]:
        """Return query and gallery as `FeatureSet`s."""
        return (
            FeatureSet(self.query, self.query_pids, self.query_camids),
            FeatureSet(self.gallery, self.gallery_pids, self.gallery_camids),
        )

    def rankings(
        self, evaluation: EvaluationRecipe, protocol: str = "market", seed: int = 0
    ) -> Iterator[tuple[str, ProtocolResult]]:
        """Compute CMC, mAP and mINP with the recipe's evaluation settings.

        Args:
            evaluation: evaluation part of the recipe.
            protocol: one of `san_tf.evaluation.protocols.PROTOCOLS`.
            seed: seed of the galleries that a protocol draws, the same for each method.

        Yields:
            A suffix for the method's name and a result: the plain one, then the re-ranked one if requested.

        Raises:
            UserError: a value is impossible, or no query has a true match.
        """
        query, gallery = self._prepared(evaluation)
        asked = protocol, evaluation.metric, evaluation.repeats, seed
        yield "", evaluate_protocol(query, gallery, *asked)
        if evaluation.rerank:
            reranking = Reranking.of(
                query.features,
                gallery.features,
                evaluation.k1,
                evaluation.k2,
                evaluation.lambda_value,
                evaluation.metric,
            )
            yield ", re-ranked", evaluate_protocol(query, gallery, *asked, distances=reranking.blocks)

    def matches(self, evaluation: EvaluationRecipe) -> TrueMatches:
        """Ranks of the true matches in the plain ranking, for breakdowns."""
        query, gallery = self._prepared(evaluation)
        ids = query.pids, query.camids, gallery.features, gallery.pids, gallery.camids
        return rank_matches(query.features, *ids, evaluation.metric)

    def _prepared(self, evaluation: EvaluationRecipe) -> tuple[FeatureSet, FeatureSet]:
        # Stored features are normalised already if the recipe says so.
        return prepared(*self.sets(), dataclasses.replace(evaluation, normalize=False))

    def top(self, k: int = 10, queries: np.ndarray | slice = slice(None)) -> TopMatches:
        """Find the first k gallery images of some queries, by the Market-1501 protocol."""
        query, gallery = self.sets()
        query_camids, gallery_camids = cameras_of_pairs(query.select(queries), gallery, "market")
        return top_matches(
            self.query[queries],
            self.query_pids[queries],
            query_camids,
            self.gallery,
            self.gallery_pids,
            gallery_camids,
            k,
        )

    def save(self, experiment: Experiment, method: str, tested: str) -> None:
        """Write the features of a method on the data set `tested`, whole or not at all."""
        self._write(features_path(experiment, method, tested))

    def _write(self, path: Path) -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, experiment: Experiment, method: str, tested: str) -> Features:
        """Read the features that `save` wrote.

        Raises:
            UserError: there are none.
        """
        path = features_path(experiment, method, tested)
        if not path.is_file():
            raise UserError(f"There are no features at {path}; run --stage evaluate with these flags.")
        with np.load(path) as data:
            return cls(**data)


class NewFeatures:
    """Features of a new evaluation, which replace the former ones only if all of it succeeds.

    They are written to disk one by one, because those of all methods may not fit in memory.

    Example:
        >>> with NewFeatures(experiment) as new:
        ...     new.add(features, "SAN", "market1501")
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.folder = experiment.run.path / "features" / ".new"

    def __enter__(self) -> NewFeatures:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a killed process
        return self

    def add(self, features: Features, method: str, tested: str) -> None:
        """Write the features of a method on a test set."""
        features._write(self.folder / features_path(self.experiment, method, tested).name)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.folder.is_dir():
            for path in self.folder.iterdir():
                path.replace(self.folder.parent / path.name)
        shutil.rmtree(self.folder, ignore_errors=True)


def features_path(experiment: Experiment, method: str, tested: str) -> Path:
    """Path of a method's features of a test set in the run.

    It is `features/san.npz` for the experiment's own data set, `features/san_msmt17-v2.npz` for another.

    Args:
        experiment: experiment with recipe and run.
        method: name of the method, such as "SAN".
        tested: name of the test set.
    """
    name = method.lower().replace(" ", "_")
    other = "" if tested == experiment.recipe.data.dataset else f"_{file_stem(tested)}"
    return experiment.run.path / "features" / f"{name}{other}.npz"


def file_stem(tested: str) -> str:
    """Turn a test set's name into a part of a file name: `custom/names (shop)` to `custom-names-shop`."""
    return re.sub(r"[^\w.]+", "-", tested).strip("-")[:60]


def row_of(method: str, result: ProtocolResult, tested: str) -> dict[str, Any]:
    """Make the row of `results.json` for a method on a test set.

    Args:
        method: name of the method.
        result: its scores.
        tested: name of the test set.
    """
    measures = {f"rank{rank}": float(result.cmc[rank - 1]) for rank in (1, 5, 10, 20)}
    measures |= {"mAP": result.mAP, "mINP": result.mINP}
    row: dict[str, Any] = {"method": method, **measures, "cmc": result.cmc.round(6).tolist()}
    row |= {"test": tested, "protocol": result.protocol}
    row |= {"queries": result.num_queries, "queries_with_match": result.num_valid}
    if result.repeats > 1:
        row |= {"repeats": result.repeats, "rank1_spread": float(result.cmc_spread[0])}
    return row
