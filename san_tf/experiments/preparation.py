"""Makes the data sets of an experiment: renders them, or reads the files of a published benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from san_tf.benchmarks.preparation import prepare_benchmark, terms_of
from san_tf.data.builders import quiet_tfds
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.records import open_builder


def manual_dir(experiment: Experiment) -> Path:
    """Where the files of published benchmarks lie: `--manual_dir`, or TFDS's own place in the data_dir."""
    options = experiment.options
    return Path(options.manual_dir or Path(options.data_dir) / "downloads" / "manual")


def prepared_builder(experiment: Experiment, name: str, tested: bool = False) -> Any:
    """The builder of a data set, prepared: now, if it is not yet.

    Args:
        experiment: says where, and how.
        name: of a builder, with `/config` or without.
        tested: it is a test set, see `open_builder`.

    Raises:
        UserError: there is no such data set, or its files are missing, damaged, or not those published.
    """
    builder = open_builder(experiment, name, tested)
    with quiet_tfds():
        made = builder.is_prepared()
    if not made:
        # Beam is for what is read from disk: rendering has processes of its own.
        published = hasattr(builder.builder_config, "check_counts")
        if published:
            experiment.say(terms_of(builder))
        prepare_benchmark(
            builder, manual_dir(experiment), experiment.options.beam_runner if published else None
        )
    return builder
