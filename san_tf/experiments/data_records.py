"""The records of an experiment's data sets, and what goes wrong where they are missing."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from san_tf.data.builders import DamagedDataError, builder_of, find_builder, set_aside
from san_tf.data.hold_out import hold_out
from san_tf.data.joining import joined
from san_tf.data.records import CAST, Records
from san_tf.errors import UserError
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.ownership import tested_data
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark, source_note, terms_of
from san_tf.synthesis.crop_plans import CropSpec
from san_tf.synthesis.generator import pit_index


def manual_dir(experiment: Experiment) -> Path | None:
    """Where the files of published benchmarks lie; None is where they lay before, or TFDS's own place."""
    return None if experiment.options.manual_dir is None else Path(experiment.options.manual_dir)


def prepared_builder(experiment: Experiment, name: str, tested: bool = False, renewed: bool = False) -> Any:
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


def open_builder(experiment: Experiment, name: str, tested: bool = False) -> Any:
    """The TFDS builder of `name` or `name/config`, prepared or not, in the experiment's `data_dir`.

    Args:
        experiment: whose recipe and options.
        name: of the data set.
        tested: it is a test set, whose images may lie elsewhere than those that are trained on.

    Raises:
        UserError: there is no such data set, or the recipe asks of it what it cannot do.
    """
    dataset, _, config = name.partition("/")
    recipe, data_dir = experiment.recipe, experiment.options.data_dir
    data = tested_data(recipe, name) if tested else recipe.data
    builder = find_builder(dataset, config or None, data_dir)
    kind = builder.builder_config
    if hasattr(kind, "check_counts"):
        own = custom_config(kind, data.folder, data.pattern) if dataset == "custom" else None
        if own is None and not data.skip_corrupt and data.check_counts:
            return builder
        return open_benchmark(name, data_dir, data.skip_corrupt, data.check_counts, own)
    if data.backgrounds is None:
        return builder
    if not hasattr(kind, "rendering"):
        raise UserError(f"--backgrounds is for data sets that are rendered, not for {dataset}; leave it out.")
    folder = str(Path(data.backgrounds).resolve())
    # A configuration of its own, so that it never passes for the data set with procedural streets.
    own = dataclasses.replace(
        kind,
        name=f"{kind.name}_photographs_{zlib.crc32(folder.encode()):08x}",
        rendering=dataclasses.replace(kind.rendering, backgrounds=folder),
    )
    return builder_of(type(builder), own, data_dir)


def custom_config(kind: Any, folder: str | None, pattern: str | None) -> Any:
    """The configuration of `custom` for somebody's folder, named after it: no two pass for one another.

    Args:
        kind: the configuration that says how names read.
        folder: the recipe's.
        pattern: the recipe's; it takes the place of the configuration's.

    Raises:
        UserError: no folder is named.
    """
    if folder is None:
        raise UserError("The data set custom wants the folder or archive with your images; add --folder.")
    place = str(Path(folder).resolve())
    changes: dict[str, str | None] = {"place": place, "description": f"Images in {place}."}
    if pattern is not None:
        changes |= {"pattern": pattern, "table": None}
    return kind.changed(f"{kind.name}_{zlib.crc32(f'{place} {pattern}'.encode()):08x}", **changes)


def reid_records(experiment: Experiment, split: str) -> Records:
    """The images to train on, of one data set or several joined; `query`, `gallery` of the first test set.

    What the recipe holds out is left out of the former, and with `on="validation"` is the latter.

    Raises:
        UserError: one is not prepared; the sentence says how.
    """
    recipe = experiment.recipe
    if split != "train" and recipe.evaluation.on == "test":
        return _prepared(experiment, open_builder(experiment, recipe.test_sets[0], tested=True), split)
    train = _joined(experiment, recipe.training_sets, "train")
    if not recipe.data.validation_identities:
        return train
    # Not drawn from the recipe's seed: runs of several seeds are compared on the same people.
    held_out = hold_out(train, recipe.data.validation_identities)
    return getattr(held_out, split)


def _joined(experiment: Experiment, names: Sequence[str], split: str) -> Records:
    return joined({name: _prepared(experiment, open_builder(experiment, name), split) for name in names})


def _prepared(experiment: Experiment, builder: Any, split: str) -> Records:
    """A split of a data set as it was prepared; what changed since is told."""
    if split != "gallery":  # which is read after the query
        tell_source(experiment, builder)
    return Records.from_tfds(builder, split)


def tell_source(experiment: Experiment, builder: Any) -> None:
    """Say that the images of a prepared data set changed since, if they did.

    Raises:
        UserError: the manual folder that is named is another one, with other images.
    """
    if experiment.distribution.is_chief and (note := source_note(builder, experiment.options.manual_dir)):
        experiment.say(note)


def pit_records(experiment: Experiment, split: str) -> Records:
    """A split of the paired data: `train`, or `test`, whose identities are others.

    They have a colour cast, unless the recipe wants textures in their true colours.

    Raises:
        UserError: it is not prepared; the sentence says how.
    """
    pairs = _prepared(experiment, open_builder(experiment, experiment.recipe.data.pit), split)
    return pairs.without(CAST) if experiment.recipe.generator.texture_colors == "true" else pairs


def pit_specs(experiment: Experiment, split: str) -> dict[str, CropSpec]:
    """How the paired pictures of a split were rendered, by file name; nothing where they were not.

    Raises:
        UserError: there is no such data set, or its folder of photographs cannot be used.
    """
    rendering = getattr(
        open_builder(experiment, experiment.recipe.data.pit).builder_config, "rendering", None
    )
    return {} if rendering is None else {spec.filename: spec for spec in pit_index(rendering, split)}
