"""Runs an experiment on several splits of a benchmark and averages the scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from san_tf.experiments.experiment import Experiment, Stage
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
