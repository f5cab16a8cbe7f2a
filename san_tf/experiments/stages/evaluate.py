"""`evaluate`: CMC, mAP and mINP of SAN and of what it must beat."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from rich.table import Table

from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.evaluation.color_histogram import color_histograms
from san_tf.evaluation.embedding import embed
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features, NewFeatures, row_of
from san_tf.experiments.networks import encoder_of, load_weights
from san_tf.experiments.readiness import KnownPeople
from san_tf.experiments.stages.train import methods_of, weights_path
from san_tf.experiments.targets import Target, targets
from san_tf.training.run_directory import environment

UNTRAINED, HISTOGRAM = "untrained", "colour histogram"


def run(experiment: Experiment) -> None:
    """Embed query and gallery with each method, rank, and write `results.json`.

    Raises:
        UserError: the data or the trained weights are missing.
    """
    recipe = experiment.recipe
    classes = trained_identities(experiment)
    methods = (*methods_of(recipe), UNTRAINED, HISTOGRAM)
    encoders = {method: encoder_for(experiment, method, classes) for method in methods}
    rows: list[dict[str, Any]] = []
    known = KnownPeople(experiment)
    with NewFeatures(experiment) as new:
        for target in targets(experiment):
            notes: set[str] = set()
            for method, encoder in encoders.items():
                described = describe(experiment, encoder, target)
                new.add(described, method, target.name)
                for addition, result in described.rankings(recipe.evaluation, target.protocol, recipe.seed):
                    rows.append(row_of(method + addition, result, target.name))
                    notes |= set(result.notes)
            for note in sorted(notes):
                experiment.say(f"{target.name}: {note}")
            if told := known.note(target):
                experiment.say(f"NOTE: {target.name}: {told}")
    write_results(experiment, rows)
    experiment.console.print(table_of(rows))


def trained_identities(experiment: Experiment) -> int:
    """How many identities the run was trained on: what it noted, else what its data set holds."""
    noted = experiment.run.facts("train").get("identities")
    return int(noted) if noted else reid_records(experiment, "train").num_identities


def encoder_for(experiment: Experiment, method: str, classes: int) -> keras.Model | None:
    """The encoder of a method: trained in this run, or `UNTRAINED`; None for `HISTOGRAM`, which has none.

    Args:
        experiment: whose recipe and run.
        method: as it was trained.
        classes: training identities.

    Raises:
        UserError: the trained weights are missing.
    """
    if method == HISTOGRAM:
        return None
    encoder = encoder_of(experiment.recipe, classes, weights=method == UNTRAINED)
    if method != UNTRAINED:
        load_weights(encoder, weights_path(experiment, method))
    return encoder


def describe(experiment: Experiment, encoder: keras.Model | None, target: Target) -> Features:
    """Describe query and gallery by a method.

    Args:
        experiment: whose recipe.
        encoder: from `encoder_for`; None describes by colour histograms.
        target: the test set.
    """
    sides = target.query, target.gallery
    if encoder is None:
        features = [_histograms(experiment, records) for records in sides]
    else:
        features = [_embed(experiment, encoder, records) for records in sides]
    return Features.of(target.query, features[0], target.gallery, features[1])


def _embed(experiment: Experiment, encoder: keras.Model, records: Records) -> np.ndarray:
    evaluation = experiment.recipe.evaluation
    dataset = inference_dataset(records, experiment.recipe.data.image_size, 128)
    return embed(encoder, dataset, evaluation.flip_average, evaluation.normalize, "  embedding")


def _histograms(experiment: Experiment, records: Records) -> np.ndarray:
    return color_histograms(
        inference_dataset(records, experiment.recipe.data.image_size, 256, normalized=False)
    )


def write_results(experiment: Experiment, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write `results.json`: the rows, how they came about, and what else is given."""
    run = experiment.run
    generator = run.path / "texture_generator.json"
    experiment.run.write_results(
        {
            "experiment": experiment.name,
            "rows": rows,
            "texture_generator": json.loads(generator.read_text()) if generator.is_file() else None,
            "seed": experiment.recipe.seed,
            "recipe": asdict(experiment.recipe),
            # Of this evaluation, and of the trainings that it speaks of.
            "versions": {**environment(), "seed": experiment.recipe.seed},
            "trained_with": run.environments("train"),
            "seconds": {
                marker.stem: run.seconds(marker.stem)
                for marker in sorted((run.path / "stages").glob("*.json"))
            },
            **more,
        }
    )


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows of `results.json` as a table for the terminal, in percent."""
    several = len({row["test"] for row in rows}) > 1
    # So that the names of data sets fit a terminal beside the rest.
    table = Table(box=None, padding=(0, 1 if several else 2), header_style="bold")
    if several:
        table.add_column("test set", overflow="fold")
    table.add_column("method", no_wrap=several)
    columns = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "mAP": "mAP", "mINP": "mINP"}
    for title in columns.values():
        table.add_column(title, justify="right")
    if matches := all("queries" in row for row in rows):  # results of older versions do not say
        table.add_column("queries", justify="right", no_wrap=True)
    for row in rows:
        names = [row["test"], row["method"]] if several else [row["method"]]
        counts = [f"{row['queries_with_match']}/{row['queries']}"] if matches else []
        table.add_row(*names, *(f"{100 * row[key]:.1f}" for key in columns), *counts)
    if matches:
        table.caption = "queries: those with a true match in the gallery, of all"
    return table
