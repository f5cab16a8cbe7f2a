"""Checks that the data suit the coming stages before a training starts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection
from typing import Any

import numpy as np

from san_tf.data.builders import check_split, quiet_tfds
from san_tf.data.record_sets import hold_out, joined
from san_tf.data.records import Records
from san_tf.data.sampling import pk_steps
from san_tf.data.textures import texture_names
from san_tf.errors import UserError
from san_tf.evaluation.counted_pairs import cameras_of_pairs
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.experiments.data_records import open_builder
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.ownership import is_own
from san_tf.experiments.targets import Target, protocol_of, title_of


def check_readiness(experiment: Experiment, stages: Collection[str]) -> None:
    """Check by identities and camera ids that the data suit the coming stages.

    Args:
        experiment: experiment with prepared data sets.
        stages: names of the coming stages.

    Raises:
        UserError: there are too few identities for a batch or to hold out, the textures of two images would
            have the same name, or no query of a test set has a match.
    """
    recipe = experiment.recipe
    if "train" in stages and recipe.training_sets:
        builders = {name: open_builder(experiment, name) for name in recipe.training_sets}
        train = joined({name: _labels(builder, "train") for name, builder in builders.items()})
        if recipe.data.validation_identities:
            train = hold_out(train, recipe.data.validation_identities).train
        if recipe.with_decoder and not recipe.generator.textures:
            texture_names(train.filenames)
        pk_steps(train.pids, recipe.data.identities_per_batch, recipe.data.images_per_identity)
    if "evaluate" not in stages or recipe.evaluation.on == "validation":
        return
    for name in recipe.test_sets:
        _matched(experiment, name)


def tell_readiness(experiment: Experiment) -> None:
    """Report queries with a match, and people known from training, for each test set.

    A test set that cannot be evaluated is a note, not an error, because evaluation may not be wanted.
    """
    recipe = experiment.recipe
    for name in recipe.test_sets:
        title = title_of(recipe, name)
        try:
            matched, queries = _matched(experiment, name)
        except UserError as error:
            experiment.say(f"NOTE: {error}")
            continue
        experiment.say(f"{title}: {matched:,} of {queries:,} queries have a true match in the gallery")
        if name in recipe.training_sets and is_own(recipe, name):
            builder = open_builder(experiment, name)
            if told := _shared_identities(_labels(builder, "train"), _labels(builder, "query")):
                experiment.say(f"NOTE: {title}: {told}")


def _matched(experiment: Experiment, name: str) -> tuple[int, int]:
    """Count the queries of a prepared test set that have a true match, and all queries."""
    recipe = experiment.recipe
    builder, title = open_builder(experiment, name, tested=True), title_of(recipe, name)
    protocol = protocol_of(name, recipe.evaluation.protocol)
    instead = (
        "so nothing can be evaluated; add such images, test on other data with --test or --test_folder, or"
        " name only the stages before evaluate and report with --stage"
    )
    splits = builder.info.splits
    if not splits:
        check_split(builder, "query")
    for split in ("query", "gallery"):
        if split not in splits or not splits[split].num_examples:
            raise UserError(f"{title} has no image in {split}, {instead}.")
    query, gallery = (_labels(builder, split) for split in ("query", "gallery"))
    one, other = (FeatureSet(np.empty((len(part), 0)), part.pids, part.camids) for part in (query, gallery))
    cameras = cameras_of_pairs(one, other, protocol)
    pairs = [np.stack([part.pids, cams], 1) for part, cams in zip((query, gallery), cameras, strict=True)]
    found = _with_match(*pairs)
    if protocol == "vehicleid":
        # This protocol pools both sets and draws queries from the pool.
        pool, counts = np.unique(np.concatenate([query.pids, gallery.pids]), return_counts=True)
        found = np.isin(query.pids, pool[counts > 1]) & (query.pids >= 0)
    if not found.any():
        same = np.isin(query.pids, gallery.pids[gallery.pids >= 0]).any()
        reason = (
            "each query's other images are from its own camera, and those do not count"
            if same
            else "no identity of the query is in the gallery"
        )
        raise UserError(f"{title}: {reason}, {instead}.")
    return int(found.sum()), len(query)


def _with_match(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """`(Q,)` bool: whether the gallery has the identity under another camera.

    Args:
        query: `(Q, 2)` identity and camera id of each query.
        gallery: `(G, 2)` of each gallery image.
    """
    gallery = np.unique(gallery[gallery[:, 0] >= 0], axis=0)
    pids, cameras = np.unique(gallery[:, 0], return_counts=True)
    place = np.searchsorted(pids, query[:, 0]).clip(max=max(len(pids) - 1, 0))
    if not len(pids):
        return np.zeros(len(query), bool)
    seen = pids[place] == query[:, 0]
    own = {(int(pid), int(camera)) for pid, camera in gallery}
    under_own = np.array([(int(pid), int(camera)) in own for pid, camera in query], bool)
    return seen & (cameras[place] - under_own > 0)


class KnownPeople:
    """Detects people of a test set that a run was trained on.

    It compares identities within one data set. Identities of different data sets are not comparable, so there
    it compares the image files. It finds nothing if the training images are not available.

    Args:
        experiment: experiment with recipe.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def note(self, target: Target) -> str | None:
        """Return a sentence about known people in a test set; None if there are none."""
        recipe = self.experiment.recipe
        if recipe.evaluation.on == "validation":
            return None
        if target.name in recipe.training_sets and is_own(recipe, target.name):
            try:
                train = _labels(open_builder(self.experiment, target.name), "train")
            except UserError:
                return None
            return _shared_identities(train, target.query)
        tested = [image for part in (target.query, target.gallery) for image in part.images]
        shared = sum(hash(image) in self._photographs for image in tested)
        if not shared:
            return None
        return (
            f"{shared:,} of the {len(tested):,} test images were training images, too, so the scores are too"
            " high"
        )

    @functools.cached_property
    def _photographs(self) -> set[int]:
        """Hashes of the training images."""
        found: set[int] = set()
        for name in self.experiment.recipe.training_sets:
            with contextlib.suppress(UserError):
                train = Records.from_tfds(open_builder(self.experiment, name), "train", verify=False)
                found.update(map(hash, train.images))
        return found


def _shared_identities(train: Records, query: Records) -> str | None:
    known, tested = np.intersect1d(train.identities, query.identities).size, query.num_identities
    if not known:
        return None
    return (
        f"{known:,} of the {tested:,} test identities are also training identities, so the scores are too"
        " high and do not hold for new people"
    )


def _labels(builder: Any, split: str) -> Records:
    """Read records without images: identities, camera ids and file names, which takes seconds."""
    import tensorflow_datasets as tfds

    check_split(builder, split)
    names = [name for name in ("pid", "camid", "filename") if name in builder.info.features]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    with quiet_tfds():
        dataset = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(dict.fromkeys(names, True)),
            shuffle_files=False,
            read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
        )
        for batch in dataset.batch(4096).as_numpy_iterator():
            for name, values in batch.items():
                columns[name].extend(values)
    number = len(columns["pid"])
    return Records.from_columns(
        [b""] * number,
        columns["pid"],
        columns.get("camid"),
        [name.decode() for name in columns["filename"]] if "filename" in columns else None,
        verify=False,
    )
