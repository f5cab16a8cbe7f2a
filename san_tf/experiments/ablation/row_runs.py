"""One run of the ablation: a row with one seed, in its own run directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.evaluation.conditions import Seen, by_condition
from san_tf.evaluation.feature_set import UNKNOWN
from san_tf.evaluation.protocols import evaluate_protocol
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.ranking import score_matches
from san_tf.experiments.ablation import probe
from san_tf.experiments.ablation.rows import HISTOGRAM, Row, is_rendered
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features
from san_tf.experiments.ownership import differences, told
from san_tf.experiments.painting import start_weights
from san_tf.experiments.stages import evaluate, pseudo_textures, true_textures
from san_tf.experiments.stages.surface_labels import load_labels
from san_tf.experiments.stages.train import train_method
from san_tf.experiments.targets import targets
from san_tf.file_lock import file_lock
from san_tf.training.run_directory import RunDirectory

# Cameras of which each has a breakdown of its own.
_MOST_CAMERAS = 8
# Parts that decide a run's result, in addition to the common recipe's seed (of the texture generator).
_TRAIN = ("seed", "data", "model", "losses", "training", "generator")


@dataclass(frozen=True)
class RowRun:
    """Run of a row with one seed, which shares data and textures with other runs.

    Args:
        common: the ablation, with the common recipe and a run directory with data and textures.
        row: row of the table.
        seed: seed of initial weights, batches, augmentation and triplets.
    """

    common: Experiment
    row: Row
    seed: int

    @property
    def path(self) -> Path:
        """Path of the run directory, which may not exist yet."""
        return run_path(self.common.run.path, self.row.name, self.seed)

    def do(self, again: Sequence[str] = ()) -> bool:
        """Train, evaluate and probe, except for finished steps; an interrupted training continues.

        Args:
            again: "evaluate" and "probe" repeat only these steps, if the run is trained.

        Returns:
            False if another process works on this run, which is then skipped.

        Raises:
            UserError: the run has another recipe, or its data or textures are missing.
        """
        with file_lock(self.path / ".lock") as mine:
            if mine:
                self._do(again)
        return mine

    def _do(self, again: Sequence[str]) -> None:
        recipe = self.row.recipe(self.common.recipe, self.seed)
        experiment = replace(self.common, recipe=recipe, run=RunDirectory(self.path))
        run, title = experiment.run, f"[bold]{self.row.name}, seed {self.seed}[/bold]"
        steps = self._steps()
        for name in steps:
            fields = self._fields(recipe, name)
            if again:
                # The evaluation settings may change between evaluations.
                fields.pop("evaluation", None)
            made_with = run.made_with(name)
            if made_with is not None and (changed := differences(made_with, fields)):
                raise UserError(
                    f"{self.path} belongs to another recipe ({told(changed)}); choose another --workdir, or"
                    " put the values back."
                )
        left = [name for name in steps if not run.is_done(name)]
        if again:
            left = [name for name in steps if name in again] if "train" not in left else []
        if not left and again:
            self.common.console.print(f"{title}  [dim]nothing to repeat[/dim]")
            return
        if not left:
            self.common.console.print(f"{title}  [dim]done already[/dim]")
            return
        self.common.console.print(title)
        if not run.recipe_path.is_file():
            run.write_recipe(recipe, experiment=self.common.name)
        for name in left:
            with run.attempt(name, self._fields(recipe, name), anew=run.is_done(name)):
                steps[name](experiment)
            run.mark_done(name)
            experiment.console.print(f"  [dim]{name}: {run.seconds(name):.0f} s[/dim]")

    def _steps(self) -> dict[str, Callable[[Experiment], None]]:
        if not self.row.trained:
            return {"evaluate": self._evaluate}
        steps: dict[str, Callable[[Experiment], None]] = {"train": self._train, "evaluate": self._evaluate}
        if is_rendered(self.common.recipe.data.dataset):
            steps["probe"] = self._probe
        return steps

    def _fields(self, recipe: Any, step: str) -> dict[str, Any]:
        parts = _TRAIN if self.row.trained else ("data",)
        fields = {part: getattr(recipe, part) for part in parts}
        if self.row.trained:
            fields |= {"textures": self.row.textures, "generator_seed": self.common.recipe.seed}
        return fields if step == "train" else {**fields, "evaluation": recipe.evaluation}

    def _train(self, experiment: Experiment) -> None:
        folders = {"pseudo": pseudo_textures.folder_of, "true": true_textures.folder_of}
        folder = folders[self.row.textures](self.common) if self.row.textures in folders else None
        train_method(
            experiment,
            reid_records(experiment, "train"),
            self.row.name,
            folder,
            start_weights(self.common),
        )

    def _evaluate(self, experiment: Experiment) -> None:
        classes = reid_records(experiment, "train").num_identities
        method = evaluate.HISTOGRAM if self.row.name == HISTOGRAM else self.row.name
        (target,) = targets(experiment)
        query, gallery = target.query, target.gallery
        features = evaluate.describe(experiment, evaluate.encoder_for(experiment, method, classes), target)
        features.save(experiment, method, target.name)
        ranked = features.matches(experiment.recipe.evaluation)
        plain = score_matches(ranked)
        every = QueryScores.of(plain)
        if is_rendered(experiment.recipe.data.dataset):
            found = by_condition(ranked, Seen.of(query.extras), Seen.of(gallery.extras))
            conditions = {name: QueryScores.of(one) for name, one in found.items() if one is not None}
        else:
            conditions = by_camera(features, every, experiment.recipe.evaluation.metric)
        _write_query_scores(experiment, query.pids, every, conditions)
        evaluate.write_results(
            experiment,
            [{**plain.row(self.row.title), "cmc": plain.cmc.round(6).tolist()}],
            row=self.row.name,
            textures=self.row.textures,
            conditions={
                name: {
                    **{score: float(np.nanmean(values)) for score, values in one.columns().items()},
                    "queries": int(one.valid().sum()),
                }
                for name, one in conditions.items()
            },
        )
        experiment.say(f"rank-1 {plain.rank1:.1%}, mAP {plain.mAP:.1%}, mINP {plain.mINP:.1%}")

    def _probe(self, experiment: Experiment) -> None:
        probe.probe(experiment, self.row.name, load_labels(self.common))


def run_path(workdir: Path, row: str, seed: int) -> Path:
    """Path of the run of a row and seed."""
    return workdir / row / f"seed_{seed}"


@dataclass(frozen=True)
class RunResult:
    """Results of a finished run.

    Attributes:
        row: name of the row.
        seed: seed of the run.
        results: content of `results.json`.
        probe: content of `probe.json`; empty for a row without network, and on photographs.
        pids: `(Q,)` int64 identities of the queries.
        scores: scores of each query by condition; "" is the plain ranking.
    """

    row: str
    seed: int
    results: dict[str, Any]
    probe: dict[str, Any]
    pids: np.ndarray
    scores: dict[str, QueryScores]

    @property
    def trained(self) -> bool:
        """Whether the row has a network."""
        return self.row != HISTOGRAM

    @classmethod
    def load(cls, workdir: Path, row: Row, seed: int) -> RunResult | None:
        """Read a run; None if it is not finished.

        Args:
            workdir: run directory of the ablation.
            row: row of the table.
            seed: seed of the run.
        """
        path = run_path(workdir, row.name, seed)
        if not path.is_dir():
            return None
        run = RunDirectory(path)
        if not run.is_done("evaluate"):
            return None
        results = json.loads(run.results_path.read_text())
        probed = row.trained and is_rendered(results["recipe"]["data"]["dataset"])
        if probed and not run.is_done("probe"):
            return None
        with np.load(path / "query_scores.npz") as data:
            pids = data["pids"]
            columns: dict[str, dict[str, np.ndarray]] = {}
            for name in data:
                condition, _, column = name.rpartition("/")
                if name != "pids":
                    columns.setdefault(condition, {})[column] = data[name]
        return cls(
            row.name,
            seed,
            results,
            json.loads((path / "probe.json").read_text()) if probed else {},
            pids,
            {name: QueryScores(**values) for name, values in columns.items()},
        )


def by_camera(features: Features, every: QueryScores, metric: str) -> dict[str, QueryScores]:
    """Break a ranking of photographs down by camera.

    Args:
        features: of query and gallery.
        every: scores of each query by the Market-1501 protocol.
        metric: "euclidean" or "cosine".

    Returns:
        `other cameras alone`: scores when pictures of other people by the query's own camera are left out,
        too. A much higher mAP there means that the embedding knows the camera better than the person. Then
        `asked by <camera>`: the scores `every` of this camera's queries, for up to eight cameras.
    """
    query, gallery = features.sets()
    if (np.concatenate([query.camids, gallery.camids]) == UNKNOWN).any():
        return {}
    found = {"other cameras alone": evaluate_protocol(query, gallery, "cross-camera", metric).per_query}
    cameras = np.unique(query.camids)
    for camera in cameras if 1 < len(cameras) <= _MOST_CAMERAS else ():
        chosen = {
            name: np.where(query.camids == camera, values, np.nan) for name, values in every.columns().items()
        }
        found[f"asked by {camera}"] = QueryScores(**chosen)
    return {name: one for name, one in found.items() if one.valid().any()}


def _write_query_scores(
    experiment: Experiment, pids: np.ndarray, every: QueryScores, conditions: dict[str, QueryScores]
) -> None:
    """Write `query_scores.npz`: `pids`, then `rank1`, `mAP`, `mINP` and `<condition>/<score>`, (Q,) each."""
    columns = {"pids": pids}
    for condition, scores in {"": every, **conditions}.items():
        prefix = f"{condition}/" if condition else ""
        columns |= {prefix + name: values for name, values in scores.columns().items()}
    with atomic_file(experiment.run.path / "query_scores.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]  # mypy takes the columns for `allow_pickle`
