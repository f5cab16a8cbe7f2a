"""`evaluate`: computes CMC, mAP and mINP of the trained methods and of references to beat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from rich.table import Table
from rich.text import Text

from san_tf.command_line import printable
from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.evaluation.color_histogram import color_histograms
from san_tf.evaluation.embedding import embed
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features, NewFeatures, row_of
from san_tf.experiments.networks import encoder_of, load_weights
from san_tf.experiments.readiness import KnownPeople
from san_tf.experiments.recipe import EvaluationRecipe
from san_tf.experiments.stages.train import methods_of, weights_path
from san_tf.experiments.targets import Target, targets
from san_tf.training.run_directory import environment, plain

UNTRAINED, HISTOGRAM = "untrained", "colour histogram"


def run(experiment: Experiment) -> None:
    """Embed query and gallery with each method, rank the gallery, and write `results.json`.

    Raises:
        UserError: the data or the trained weights are missing.
    """
    recipe = experiment.recipe
    classes = trained_identities(experiment)
    methods = (*methods_of(recipe), UNTRAINED, HISTOGRAM)
    encoders: dict[str, keras.Model | None] = {}
    for method in methods:
        try:
            encoders[method] = encoder_for(experiment, method, classes)
        except UserError as error:
            if method != UNTRAINED:
                raise
            # The weights that the training started from may have been deleted.
            experiment.say(f"NOTE: {method} is left out: {error}")
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
    """Number of training identities, as the run recorded it or from its data set."""
    noted = experiment.run.facts("train").get("identities")
    return int(noted) if noted else reid_records(experiment, "train").num_identities


def encoder_for(experiment: Experiment, method: str, classes: int) -> keras.Model | None:
    """Return the encoder of a method; None for `HISTOGRAM`, which has none.

    Args:
        experiment: experiment with recipe and run.
        method: a method trained in this run, `UNTRAINED` or `HISTOGRAM`.
        classes: number of training identities.

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
    """Compute the features of query and gallery with a method.

    Args:
        experiment: experiment with recipe.
        encoder: encoder from `encoder_for`; None computes colour histograms.
        target: test set.
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
    """Write `results.json` with the rows, their recipe, versions, weights and times.

    Earlier evaluations of the same weights with other settings or test sets stay in it under `earlier`, the
    newest first.

    Args:
        experiment: experiment with recipe and run.
        rows: rows of the results.
        more: further entries of `results.json`.
    """
    run, recipe = experiment.run, experiment.recipe
    generator = run.path / "texture_generator.json"
    results = {
        "experiment": experiment.name,
        "rows": rows,
        "texture_generator": json.loads(generator.read_text()) if generator.is_file() else None,
        "seed": recipe.seed,
        "recipe": asdict(recipe),
        # Versions of this evaluation; the next entry has those of the trainings.
        "versions": {**environment(), "seed": recipe.seed},
        "trained_with": run.environments("train"),
        "weights": _digests_of_weights(experiment),
        "seconds": {
            marker.stem: run.seconds(marker.stem) for marker in sorted((run.path / "stages").glob("*.json"))
        },
        **more,
    }
    run.write_results(results | {"earlier": _earlier(experiment, plain(results))})


def evaluations(results: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each evaluation of `results.json`, the newest first: its settings as flags, and its rows."""
    newest = {"evaluation": results.get("recipe", {}).get("evaluation", {}), "rows": results["rows"]}
    for one in (newest, *results.get("earlier", ())):
        usual = plain(EvaluationRecipe())
        other = {name: value for name, value in one["evaluation"].items() if value != usual.get(name)}
        flags = (
            f"--{name} {' '.join(map(str, value)) if isinstance(value, list) else str(value)}"
            for name, value in other.items()
        )
        yield f"with {' '.join(flags)}" if other else "as by default", one["rows"]


def _earlier(experiment: Experiment, now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the evaluations of `results.json` with the same weights as now and other settings."""
    path = experiment.run.results_path
    if not path.is_file():
        return []
    try:
        former = json.loads(path.read_bytes())
        known = [
            {
                "evaluation": former["recipe"]["evaluation"],
                # Results of older versions do not say which weights they used.
                "weights": former.get("weights") or (now["weights"] if _trained_alike(former, now) else {}),
                "rows": former["rows"],
                "versions": former.get("versions"),
            },
            *former.get("earlier", ()),
        ]
        return [
            one
            for one in known
            if one["weights"] == now["weights"] and one["evaluation"] != now["recipe"]["evaluation"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        aside = path.with_name("results.damaged.json")
        path.replace(aside)
        experiment.say(f"NOTE: {path} was damaged and is now {aside.name}; its earlier results are left out")
        return []


def _trained_alike(former: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return bool(former.get("trained_with") == now["trained_with"])


def _digests_of_weights(experiment: Experiment) -> dict[str, str]:
    """Digests of the evaluated weights by method."""
    found = {}
    for method in methods_of(experiment.recipe):
        path = weights_path(experiment, method)
        if path.is_file():
            found[method] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Table of the rows of `results.json` for the terminal, in percent."""
    several = len({row["test"] for row in rows}) > 1
    # Narrow, so that the names of data sets fit a terminal, too.
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
        # As `Text`, because rich would read brackets in a folder's name as a style.
        names = [Text(printable(row["test"])), row["method"]] if several else [row["method"]]
        counts = [f"{row['queries_with_match']}/{row['queries']}"] if matches else []
        table.add_row(*names, *(f"{100 * row[key]:.1f}" for key in columns), *counts)
    if matches:
        table.caption = "queries: those with a true match in the gallery, of all"
    return table
