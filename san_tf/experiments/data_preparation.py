"""Makes the data sets of an experiment: renders them, or reads the files of a published benchmark."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from san_tf.data.builders import DamagedDataError, set_aside
from san_tf.experiments.data_records import open_builder, tell_source
from san_tf.experiments.experiment import Experiment
from san_tf.layouts.benchmark_preparation import prepare_benchmark, terms_of


def manual_dir(experiment: Experiment) -> Path | None:
    """Where the files of published benchmarks lie; None is where they lay before, or TFDS's own place."""
    return None if experiment.options.manual_dir is None else Path(experiment.options.manual_dir)


def prepared_builder(
    experiment: Experiment, name: str, tested: bool = False, renewed: bool = False
) -> Any:
    """The builder of a data set, prepared: now, if it is not yet.

    Args:
        experiment: says where, and how.
        name: of a builder, with `/config` or without.
        tested: it is a test set, see `open_builder`.
        renewed: also make it anew if it is damaged, or its images are others by now. Else that is told.

    Raises:
        UserError: there is no such data set, or its files are missing, damaged, or not those published.
    """
    with contextlib.ExitStack() as stack:
        try:
            builder = open_builder(experiment, name, tested)
        except DamagedDataError as error:
            if not renewed:
                raise
            experiment.say(f"{error.problem}; {name} is made anew")
            stack.enter_context(set_aside(error.place))
            builder = open_builder(experiment, name, tested)
        if builder.data_path.exists() and not renewed:
            tell_source(experiment, builder)
            return builder
        # Beam is for what is read from disk: rendering has processes of its own.
        published = hasattr(builder.builder_config, "check_counts")
        if published and not builder.data_path.exists():
            experiment.say(terms_of(builder))
        beam_runner = experiment.options.beam_runner if published else None
        prepare_benchmark(builder, manual_dir(experiment), beam_runner)
    return builder
