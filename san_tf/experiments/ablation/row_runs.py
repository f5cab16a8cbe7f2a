"""One run of the ablation: a row of the table with one seed, in a run directory of its own."""

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
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.ranking import RankingResult, score_matches
from san_tf.experiments.ablation import probe
from san_tf.experiments.ablation.rows import HISTOGRAM, Row
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.ownership import differences, told
from san_tf.experiments.painting import start_weights
from san_tf.experiments.stages import evaluate, pseudo_textures, true_textures
from san_tf.experiments.stages.surface_labels import load_labels
from san_tf.experiments.stages.train import train_method
from san_tf.experiments.targets import targets
from san_tf.file_lock import file_lock
from san_tf.training.run_directory import RunDirectory

# What decides a run's result beside the common recipe's seed, which is that of the texture generator.
_TRAIN = ("seed", "data", "model", "losses", "training", "generator")


@dataclass(frozen=True)
class RowRun:
    """A row and a seed, beside the experiment whose data and textures they share.

    Args:
        common: the ablation: its recipe is the common one, its run holds data and textures.
        row: which parts of SAN.
        seed: of start weights, batches, augmentation and triplets.
    """

    common: Experiment
    row: Row
    seed: int

    @property
    def path(self) -> Path:
        """The run directory, made or not."""
        return run_path(self.common.run.path, self.row.name, self.seed)

    def do(self, again: Sequence[str] = ()) -> bool:
        """Train, evaluate and probe, as far as that is not done, from where an interrupted training stopped.

        Args:
            again: "evaluate", "probe": if the run is trained, do these anew, and nothing else.

        Returns:
            False where another process is at work on this run; it is then left alone.

        Raises:
            UserError: the run is of another recipe, or what it needs is missing.
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
                # How embeddings are compared may change from one evaluation to the next.
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
            self.common.console.print(f"{title}  [dim]nothing to do anew[/dim]")
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
        return {"train": self._train, "evaluate": self._evaluate, "probe": self._probe}

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
        conditions = by_condition(ranked, Seen.of(query.extras), Seen.of(gallery.extras))
        _write_query_scores(experiment, query.pids, plain, conditions)
        evaluate.write_results(
            experiment,
            [{**plain.row(self.row.title), "cmc": plain.cmc.round(6).tolist()}],
            row=self.row.name,
            textures=self.row.textures,
            conditions={
                name: None if result is None else {**result.row(self.row.title), "queries": result.num_valid}
                for name, result in conditions.items()
            },
        )
        experiment.say(f"rank-1 {plain.rank1:.1%}, mAP {plain.mAP:.1%}, mINP {plain.mINP:.1%}")

    def _probe(self, experiment: Experiment) -> None:
        probe.probe(experiment, self.row.name, load_labels(self.common))


def run_path(workdir: Path, row: str, seed: int) -> Path:
    """Where the run of a row and seed lies."""
    return workdir / row / f"seed_{seed}"


@dataclass(frozen=True)
class RunResult:
    """What a finished run left.

    Attributes:
        row: its name.
        seed: its seed.
        results: `results.json`.
        probe: `probe.json`; empty for a row without network.
        pids: `(Q,)` int64 of the queries.
        scores: of each query, by condition; "" is the plain ranking.
    """

    row: str
    seed: int
    results: dict[str, Any]
    probe: dict[str, Any]
    pids: np.ndarray
    scores: dict[str, QueryScores]

    @classmethod
    def load(cls, workdir: Path, row: Row, seed: int) -> RunResult | None:
        """Read a run; None where it is not finished."""
        path = run_path(workdir, row.name, seed)
        if not path.is_dir():
            return None
        run = RunDirectory(path)
        if not all(run.is_done(name) for name in ("evaluate", *(["probe"] if row.trained else []))):
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
            json.loads(run.results_path.read_text()),
            json.loads((path / "probe.json").read_text()) if row.trained else {},
            pids,
            {name: QueryScores(**values) for name, values in columns.items()},
        )


def _write_query_scores(
    experiment: Experiment,
    pids: np.ndarray,
    plain: RankingResult,
    conditions: dict[str, RankingResult | None],
) -> None:
    """Write `query_scores.npz`: `pids`, then `rank1`, `mAP`, `mINP` and `<condition>/<score>`, (Q,) each."""
    columns = {"pids": pids}
    for condition, result in {"": plain, **conditions}.items():
        if result is not None:
            prefix = f"{condition}/" if condition else ""
            columns |= {prefix + name: values for name, values in QueryScores.of(result).columns().items()}
    with atomic_file(experiment.run.path / "query_scores.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]  # mypy takes the columns for `allow_pickle`
