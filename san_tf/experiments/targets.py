"""Test sets of an experiment, each with its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from san_tf.data.records import Records
from san_tf.experiments.data_records import prepared_builder, reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.ownership import is_own, tested_data
from san_tf.experiments.recipe import Recipe


@dataclass(frozen=True)
class Target:
    """A test set.

    Attributes:
        name: name of its builder, with `/config` if the recipe has it, and with the folder of images if that
            differs from the training's: `custom/names (b12)`.
        protocol: one of `san_tf.evaluation.protocols.PROTOCOLS`.
        query: query images.
        gallery: gallery images.
    """

    name: str
    protocol: str
    query: Records
    gallery: Records


def targets(experiment: Experiment) -> Iterator[Target]:
    """Yield the test sets of the recipe, or the identities that it holds out for validation.

    They are read one after the other, because several benchmarks may not fit in memory. A test set that is
    not prepared is prepared now, so a trained encoder can be tested on other data sets at any time.

    Raises:
        UserError: the files of a data set are missing or damaged.
    """
    recipe = experiment.recipe
    if recipe.evaluation.on == "validation":
        query, gallery = (reid_records(experiment, split) for split in ("query", "gallery"))
        yield Target(recipe.test_sets[0], protocol_of("", recipe.evaluation.protocol), query, gallery)
        return
    for name in recipe.test_sets:
        builder = prepared_builder(experiment, name, tested=True)
        query, gallery = (Records.from_tfds(builder, split) for split in ("query", "gallery"))
        yield Target(title_of(recipe, name), protocol_of(name, recipe.evaluation.protocol), query, gallery)


def title_of(recipe: Recipe, name: str) -> str:
    """Name of a test set in results, with its folder if not the training's."""
    folder = tested_data(recipe, name).folder
    if folder is None or is_own(recipe, name) or not name.startswith("custom"):
        return name
    return f"{name} ({Path(folder).name})"


def protocol_of(name: str, asked: str = "own") -> str:
    """Name of a data set's protocol: the requested one, or with "own" the benchmark's.

    Example:
        >>> protocol_of("cuhk03/labeled_classic"), protocol_of("partial_reid"), protocol_of("market1501")
        ('cuhk03', 'partial', 'market')
    """
    if asked != "own":
        return asked
    dataset, _, config = name.partition("/")
    if dataset == "cuhk03" and "classic" in config:
        return "cuhk03"
    return "partial" if dataset == "partial_reid" else "market"
