"""The records of an experiment's data sets, and what goes wrong where they are missing."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

from san_tf.benchmarks.preparation import open_benchmark
from san_tf.data.builders import find_builder
from san_tf.data.joining import joined
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.experiments.experiment import Experiment


def open_builder(experiment: Experiment, name: str) -> Any:
    """The TFDS builder of `name` or `name/config`, prepared or not, in the experiment's `data_dir`."""
    dataset, _, config = name.partition("/")
    data_dir = experiment.options.data_dir
    builder = find_builder(dataset, config or None, data_dir)
    data = experiment.recipe.data
    rendered = builder.builder_config
    if hasattr(rendered, "check_counts") and (data.skip_corrupt or not data.check_counts):
        return open_benchmark(name, data_dir, data.skip_corrupt, data.check_counts)
    backgrounds = data.backgrounds
    if backgrounds is None:
        return builder
    if not hasattr(rendered, "rendering"):
        if experiment.recipe.needs_pairs:
            # They stand behind the people of the paired data.
            return builder
        raise UserError(f"--backgrounds is for data sets that are rendered, not for {dataset}; leave it out.")
    folder = str(Path(backgrounds).resolve())
    # A configuration of its own, so that it never passes for the data set with procedural streets.
    own = dataclasses.replace(
        rendered,
        name=f"{rendered.name}_photographs_{zlib.crc32(folder.encode()):08x}",
        rendering=dataclasses.replace(rendered.rendering, backgrounds=folder),
    )
    return type(builder)(config=own, data_dir=data_dir)


def reid_records(experiment: Experiment, split: str) -> Records:
    """The images to train on, of one data set or several joined; `query`, `gallery` of the first test set.

    Raises:
        UserError: one is not prepared; the sentence says how.
    """
    recipe = experiment.recipe
    names = recipe.training_sets if split == "train" else recipe.test_sets[:1]
    return joined({name: Records.from_tfds(open_builder(experiment, name), split) for name in names})


def pit_records(experiment: Experiment, split: str) -> Records:
    """A split of the paired data: `train`, or `test`, whose identities are others.

    Raises:
        UserError: it is not prepared; the sentence says how.
    """
    return Records.from_tfds(open_builder(experiment, experiment.recipe.data.pit), split)
