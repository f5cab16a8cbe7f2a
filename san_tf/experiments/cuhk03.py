"""CUHK03 with the paper's recipe: the 767/700 protocol, or the classic one with 20 splits.

Command: python -m san_tf.experiments.cuhk03 --data_dir DATA --manual_dir FOLDER
  FOLDER holds cuhk03_release with cuhk-03.mat, and next to it the files of the 767/700 protocol; the stage
  prepare says what is missing. --dataset cuhk03/detected takes the boxes of a detector instead of those drawn
  by hand. --splits 1 2 3 (up to 20) runs the classic protocol on these splits: one network per split, 100
  people to find, one random gallery image of each, drawn 100 times (--repeats); results.json has the means.
Data: labeled: 767 identities, 7,368 training images; 1,400 queries of 700 others, 5,328 gallery images.
Expected: the paper reports rank-1 80.1 %, mAP 76.4 % (labeled, 767/700, single query, no re-ranking) and for
  its baseline 73.7 %, 69.8 %. This package has not run this recipe on CUHK03, so its score is unknown. (A
  user of the public code reported 72.0 %, 68.2 % with it.)
Cost: SAN and its baseline, each 320 epochs of at most 115 steps of 64 images; in the classic protocol about
  190 steps, for each split. Use a GPU; the time on one was not measured. Two CPU cores ran a training step of
  the public code at 0.9 images/s: about 30 days for SAN on labeled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from san_tf.errors import UserError
from san_tf.experiments.experiment import WITH_TEXTURES, Experiment, Stage
from san_tf.experiments.flags import Options
from san_tf.experiments.recipe import DataRecipe, EvaluationRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment
from san_tf.experiments.runner import run_stages

MEASURES = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")


def run_splits(experiment: Experiment, stages: Sequence[Stage], data_sets: Mapping[str, str]) -> None:
    """Run the stages once per split, each in its own run directory, and average the scores.

    A test identity of one split may be a training identity of another, so each split needs its own network.
    The texture generator sees none of these images, so that of the first split is used for all.

    Args:
        experiment: its run directory gets one folder per split, and `results.json` with the means once every
            split has been evaluated.
        stages: stages in order.
        data_sets: data set of each split, by the name of its folder.

    Raises:
        UserError: see `run_stages`.
    """
    with experiment.run.held():
        _run_splits(experiment, stages, data_sets)


def _run_splits(experiment: Experiment, stages: Sequence[Stage], data_sets: Mapping[str, str]) -> None:
    from san_tf.training.run_directory import RunDirectory

    results: dict[str, list[dict[str, Any]]] = {}
    recipe = experiment.recipe
    for folder, data_set in data_sets.items():
        experiment.console.print(f"[bold]{data_set}[/bold]")
        run = RunDirectory(experiment.run.path / folder)
        data = dataclasses.replace(recipe.data, dataset=data_set)
        one = dataclasses.replace(
            experiment,
            run=run,
            recipe=dataclasses.replace(recipe, data=data),
            name=f"{experiment.name}/{folder}",
        )
        run_stages(one, stages)
        if not experiment.run.recipe_path.is_file():
            # The common recipe, so that a later command need not repeat it; each split fixes its own values.
            experiment.run.write_recipe(experiment.recipe, experiment=experiment.name)
        weights = run.path / "weights" / "texture_generator.weights.h5"
        if not (recipe.generator.generator_weights or recipe.generator.textures) and weights.is_file():
            generator = dataclasses.replace(recipe.generator, generator_weights=str(weights.resolve()))
            recipe = dataclasses.replace(recipe, generator=generator)
        if run.results_path.is_file():
            results[data_set] = json.loads(run.results_path.read_text())["rows"]
    if len(results) == len(data_sets):
        rows = mean_rows(list(results.values()))
        experiment.run.write_results(
            {"experiment": experiment.name, "splits": list(results), "rows": rows, "rows_of_splits": results}
        )
        experiment.console.print(table_of(rows))


def mean_rows(splits: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Average the rows of `results.json` over splits.

    Args:
        splits: rows of each split, with the same methods in the same order.

    Returns:
        One row per method: means, and `spread`, the standard deviation over the splits (0 for a single one).

    Example:
        >>> mean_rows([[{"method": "SAN", "rank1": 0.5, ...}], [{"method": "SAN", "rank1": 0.7, ...}]])
        [{'method': 'SAN', 'splits': 2, 'rank1': 0.6, ..., 'spread': {'rank1': 0.141, ...}}]
    """
    means = []
    for rows in zip(*splits, strict=True):
        values = {key: np.array([row[key] for row in rows]) for key in MEASURES}
        row: dict[str, Any] = {"method": rows[0]["method"], "splits": len(rows)}
        row |= {key: float(value.mean()) for key, value in values.items()}
        row["cmc"] = np.mean([row["cmc"] for row in rows], axis=0).round(6).tolist()
        row["spread"] = {
            key: float(value.std(ddof=1)) if len(rows) > 1 else 0.0 for key, value in values.items()
        }
        means.append(row)
    return means


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Table of the mean rows for the terminal, in percent, with their spread over the splits."""
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column(f"mean of {rows[0]['splits']} splits")
    columns = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "mAP": "mAP", "mINP": "mINP"}
    for title in columns.values():
        table.add_column(title, justify="right")
    for row in rows:
        shown = [f"{100 * row[key]:.1f} ± {100 * row['spread'][key]:.1f}" for key in columns]
        table.add_row(row["method"], *shown)
    return table


# 100 draws, as in DeepReID (Li et al., CVPR 2014); the 767/700 protocol draws nothing.
RECIPE = Recipe(
    data=DataRecipe(dataset="cuhk03/labeled", pit="pit/paper"),
    model=ModelRecipe(weights="imagenet"),
    evaluation=EvaluationRecipe(repeats=100),
)
STAGES = WITH_TEXTURES
NUM_SPLITS = 20


@dataclass(frozen=True)
class Cuhk03Options(Options):
    """Options of an experiment, and the classic splits to run."""

    splits: list[int] = field(default_factory=list)
    """Run the classic protocol on these of its 20 splits, each in its own folder; none runs 767/700."""


def run(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Run the 767/700 protocol, or the classic one on the given splits.

    Raises:
        UserError: there is no such split, or see `run_stages`.
    """
    splits = getattr(experiment.options, "splits", [])
    if not splits:
        run_stages(experiment, stages)
        return
    if experiment.distribution.workers > 1:
        raise UserError("--splits is for one machine; leave --strategy multiworker out, or name a --dataset.")
    wrong = [split for split in splits if not 1 <= split <= NUM_SPLITS]
    if wrong:
        raise UserError(f"CUHK03 has no classic split {wrong[0]}; they are numbered 1 to {NUM_SPLITS}.")
    dataset, _, config = experiment.recipe.data.dataset.partition("/")
    boxes = (config or "labeled").partition("_")[0]
    run_splits(
        experiment,
        stages,
        {f"split_{split:02d}": f"{dataset}/{boxes}_classic_{split:02d}" for split in dict.fromkeys(splits)},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("cuhk03", __doc__ or "", RECIPE, STAGES, argv, Cuhk03Options, run)


if __name__ == "__main__":
    main()
