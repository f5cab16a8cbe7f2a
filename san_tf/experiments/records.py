"""The records of an experiment's data sets, and what goes wrong where they are missing."""

from __future__ import annotations

from typing import Any

from san_tf.data.builders import find_builder
from san_tf.data.records import Records
from san_tf.experiments.experiment import Experiment


def open_builder(experiment: Experiment, name: str) -> Any:
    """The TFDS builder of `name` or `name/config`, prepared or not, in the experiment's `data_dir`."""
    dataset, _, config = name.partition("/")
    return find_builder(dataset, config or None, experiment.options.data_dir)


def reid_records(experiment: Experiment, split: str) -> Records:
    """A split of the re-ID data set: `train`, `query` or `gallery`.

    Raises:
        UserError: it is not prepared; the sentence says how.
    """
    return Records.from_tfds(open_builder(experiment, experiment.recipe.data.dataset), split)


def pit_records(experiment: Experiment, split: str) -> Records:
    """A split of the paired data: `train`, or `test`, whose identities are others.

    Raises:
        UserError: it is not prepared; the sentence says how.
    """
    return Records.from_tfds(open_builder(experiment, experiment.recipe.data.pit), split)
