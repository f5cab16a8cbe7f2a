"""Opens and prepares an experiment's data sets and reads their records."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from san_tf.data.builders import DamagedDataError, builder_of, find_builder, set_aside
from san_tf.data.record_sets import hold_out, joined
from san_tf.data.records import CAST, Records
from san_tf.errors import UserError
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.ownership import tested_data
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark, source_note, terms_of
from san_tf.synthesis.crop_plans import CropSpec
from san_tf.synthesis.generator import pit_index


def manual_dir(experiment: Experiment) -> Path | None:
    """Folder of the files of published benchmarks; None for the previous one, or TFDS's default."""
    return None if experiment.options.manual_dir is None else Path(experiment.options.manual_dir)


def prepared_builder(experiment: Experiment, name: str, tested: bool = False, renewed: bool = False) -> Any:
    """Return the builder of a data set, and prepare the data set if necessary.

    Args:
        experiment: experiment with folders and recipe.
        name: name of a builder, with or without `/config`.
        tested: whether it is a test set, see `open_builder`.
        renewed: whether to prepare it again if it is damaged or its images have changed. Otherwise damage is
            an error, and changed images are only reported.

    Raises:
        UserError: there is no such data set, or its files are missing, damaged, or not the published ones.
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
        # Beam is only for data read from disk, since rendering has its own processes.
        published = hasattr(builder.builder_config, "check_counts")
        if published and not builder.data_path.exists():
            experiment.say(terms_of(builder))
        beam_runner = experiment.options.beam_runner if published else None
        prepare_benchmark(builder, manual_dir(experiment), beam_runner)
    return builder


def open_builder(experiment: Experiment, name: str, tested: bool = False) -> Any:
    """Return the TFDS builder of `name` or `name/config`, prepared or not, in the experiment's `data_dir`.

    Args:
        experiment: experiment with recipe and options.
        name: name of the data set.
        tested: whether it is a test set, whose images may come from another folder than the training's.

    Raises:
        UserError: there is no such data set, or it does not support a value of the recipe.
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
        raise UserError(f"--backgrounds is for rendered data sets, not for {dataset}; leave it out.")
    folder = str(Path(data.backgrounds).resolve())
    # A separate config, so that it is never mistaken for the data set with procedural streets.
    own = dataclasses.replace(
        kind,
        name=f"{kind.name}_photographs_{zlib.crc32(folder.encode()):08x}",
        rendering=dataclasses.replace(kind.rendering, backgrounds=folder),
    )
    return builder_of(type(builder), own, data_dir)


def custom_config(kind: Any, folder: str | None, pattern: str | None) -> Any:
    """Return the config of `custom` for a user's folder.

    Its name is unique for folder and pattern, so that data sets are never mixed up.

    Args:
        kind: config that defines how names are read.
        folder: folder of the recipe.
        pattern: pattern of the recipe; it replaces that of the config.

    Raises:
        UserError: no folder is given.
    """
    if folder is None:
        raise UserError("The data set custom needs the folder or archive with your images; add --folder.")
    place = str(Path(folder).resolve())
    changes: dict[str, str | None] = {"place": place, "description": f"Images in {place}."}
    if pattern is not None:
        changes |= {"pattern": pattern, "table": None}
    return kind.changed(f"{kind.name}_{zlib.crc32(f'{place} {pattern}'.encode()):08x}", **changes)


def reid_records(experiment: Experiment, split: str) -> Records:
    """Read `train` of the training sets, joined, or `query` or `gallery` of the first test set.

    Held-out identities are not in `train`. With `on="validation"` they are `query` and `gallery`.

    Raises:
        UserError: a data set is not prepared.
    """
    recipe = experiment.recipe
    if split != "train" and recipe.evaluation.on == "test":
        return _prepared(experiment, open_builder(experiment, recipe.test_sets[0], tested=True), split)
    train = _joined(experiment, recipe.training_sets, "train")
    if not recipe.data.validation_identities:
        return train
    # Not drawn from the recipe's seed, so that runs of several seeds are compared on the same people.
    held_out = hold_out(train, recipe.data.validation_identities)
    return getattr(held_out, split)


def _joined(experiment: Experiment, names: Sequence[str], split: str) -> Records:
    return joined({name: _prepared(experiment, open_builder(experiment, name), split) for name in names})


def _prepared(experiment: Experiment, builder: Any, split: str) -> Records:
    """Read a split of a prepared data set, and report images that have changed since."""
    if split != "gallery":  # the gallery is read after the query, which reports already
        tell_source(experiment, builder)
    return Records.from_tfds(builder, split)


def tell_source(experiment: Experiment, builder: Any) -> None:
    """Report if the images of a data set have changed since it was prepared.

    Raises:
        UserError: `--manual_dir` names another folder than before, with other images.
    """
    if experiment.distribution.is_chief and (note := source_note(builder, experiment.options.manual_dir)):
        experiment.say(note)


def pit_records(experiment: Experiment, split: str) -> Records:
    """Read a split of the paired data: `train`, or `test` with other identities.

    The records have a colour cast, unless the recipe asks for textures in their true colours.

    Raises:
        UserError: the data set is not prepared.
    """
    pairs = _prepared(experiment, open_builder(experiment, experiment.recipe.data.pit), split)
    return pairs.without(CAST) if experiment.recipe.generator.texture_colors == "true" else pairs


def pit_specs(experiment: Experiment, split: str) -> dict[str, CropSpec]:
    """Rendering plans of a split's paired images by file name; empty if they were not rendered.

    Raises:
        UserError: there is no such data set, or its folder of photographs cannot be used.
    """
    rendering = getattr(
        open_builder(experiment, experiment.recipe.data.pit).builder_config, "rendering", None
    )
    return {} if rendering is None else {spec.filename: spec for spec in pit_index(rendering, split)}
