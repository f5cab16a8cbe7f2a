"""Opens a benchmark's builder for an experiment, and prepares it from the user's copy."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from san_tf.data.builders import builder_of, find_builder, quiet_tfds
from san_tf.data.resumable_builder import MadeFrom
from san_tf.errors import UserError


def open_benchmark(
    name: str,
    data_dir: str | Path | None = None,
    skip_corrupt: bool = False,
    check_counts: bool = True,
    config: Any = None,
) -> Any:
    """Return the builder of a benchmark, prepared or not.

    Args:
        name: name of a builder in `datasets/`, with `/config` for a config other than its first.
        data_dir: folder of prepared data sets; see `find_builder`.
        skip_corrupt: leave damaged images out; the data set then has `_skip_corrupt` in its name.
        check_counts: require the published numbers; without it the data set has `_uncounted` in its name.
        config: your own `BenchmarkConfig`, such as a `CustomConfig`, instead of one by name.

    Raises:
        UserError: the data set or configuration does not exist.

    Example:
        >>> builder = open_benchmark("market1501/distractors_500k", "data")
        >>> prepare_benchmark(builder, "downloads")
        >>> gallery = Records.from_tfds(builder, "gallery")
    """
    dataset, _, named = name.partition("/")
    builder = find_builder(dataset, named or None, data_dir)
    if config is not None or skip_corrupt or not check_counts:
        changed = builder.builder_config if config is None else config
        if not hasattr(changed, "check_counts"):
            raise UserError(
                f"{dataset} is not built from a copy of images, so damaged ones cannot be left out."
            )
        if skip_corrupt:
            changed = changed.without_corrupt()
        if not check_counts:
            changed = changed.uncounted()
        builder = builder_of(type(builder), changed, data_dir)
    return builder


def prepare_benchmark(
    builder: Any, manual_dir: str | os.PathLike[str] | None = None, beam_runner: Any = None
) -> None:
    """Build the data set, unless it was already built from the same images.

    An existing data set is compared with the copy: names, sizes and times of the files, and their bytes if
    those differ. It is built again if images were added, removed, changed or relabelled, or if it is damaged.
    If the copy no longer exists, the data set is used as it is.

    A data set appears complete or not at all. An interrupted build resumes when it is started again; with
    Beam it starts from the beginning.

    Args:
        builder: a builder from `open_benchmark`.
        manual_dir: folder of the benchmark's copy; None takes the one it was built from, or TFDS's default,
            `downloads/manual` in the folder of data sets.
        beam_runner: an Apache Beam runner or its name ("DirectRunner"), to share the work among its workers;
            None works without Beam.

    Raises:
        UserError: the copy is missing, incomplete, damaged or unsafe, the folder of data sets cannot be
            written, or Apache Beam is not installed.
    """
    from tensorflow_datasets.core.download import DownloadConfig

    if isinstance(beam_runner, str):
        beam_runner = _runner(beam_runner)
    with quiet_tfds(), _disk_errors_named(builder):
        builder.download_and_prepare(
            download_config=DownloadConfig(
                manual_dir=None if manual_dir is None else os.fspath(manual_dir),
                beam_runner=beam_runner,
                try_download_gcs=False,
            )
        )


def source_note(builder: Any, manual_dir: str | os.PathLike[str] | None = None) -> str | None:
    """Return a sentence about prepared data whose copy changed since; None if unchanged or unknown.

    Args:
        builder: builder of a prepared data set.
        manual_dir: folder of copies, if the user named one.

    Raises:
        UserError: the named folder holds another copy than the data set was built from.
    """
    if not hasattr(builder, "changed") or not builder.data_path.exists():
        return None
    made_from = MadeFrom.read(builder.data_path)
    same = manual_dir is None or (made_from and made_from.manual_dir == os.path.abspath(manual_dir))
    if same and made_from and made_from.is_of_the_same_archives():
        return None  # listing a compressed archive would read all of it
    with quiet_tfds(), _disk_errors_named(builder):
        changed = builder.changed(None if manual_dir is None else Path(manual_dir).expanduser())
    if changed is None:
        return None
    sentence = f"{changed} {builder.info.full_name} in {builder.data_path}"
    if made_from and not same:
        raise UserError(
            f"{sentence}, which was made from {made_from.manual_dir}; --stage prepare builds it again from "
            "the named folder, another --data_dir keeps both."
        )
    return f"{sentence}; the prepared data are used, and --stage prepare builds them again."


def told_of(builder: Any) -> list[str]:
    """Return lines for the user about what a prepared data set holds, and what was left out.

    Args:
        builder: builder of a prepared data set.

    Example:
        >>> told_of(builder)
        ['train: 12,936 images of 751 identities by 6 cameras', ...]
    """
    import tensorflow_datasets as tfds

    lines = []
    labels = {name: True for name in ("pid", "camid") if name in builder.info.features}
    for split, info in builder.info.splits.items():
        columns: dict[str, list[int]] = {name: [] for name in labels}
        with quiet_tfds():  # it warns of its own use of a property it deprecated
            dataset = builder.as_dataset(split=split, decoders=tfds.decode.PartialDecoding(labels))
        for batch in dataset.batch(4096).as_numpy_iterator():
            for name in labels:
                columns[name] += batch[name].tolist()
        pids, cameras = columns["pid"], columns.get("camid", [])
        told = (
            f"{split}: {info.num_examples:,} images of {len({pid for pid in pids if pid > 0}):,} identities"
        )
        known = {camera for camera in cameras if camera >= 0}
        if cameras:
            told += f" by {len(known):,} camera{'s' * (len(known) != 1)}" if known else " by unknown cameras"
        for number, what in ((pids.count(0), "of distractors"), (pids.count(-1), "of junk")):
            told += f", {number:,} {what}" if number else ""
        if known and -1 in cameras:
            told += f", {cameras.count(-1):,} by unknown cameras"
        lines.append(told)
    made_from = MadeFrom.read(builder.data_path)
    if made_from is not None:
        if made_from.left_out:
            left_out = (f"{number:,} {kind}" for kind, number in made_from.left_out.items())
            lines.append(f"left out: {', '.join(left_out)}")
        lines += made_from.notes
        gone = [place for place in made_from.places if not Path(place).exists()]
        if gone:
            lines.append(
                f"{gone[0]}, from which it was made, no longer exists, so changes cannot be detected; the "
                "prepared data are used."
            )
    return lines


def terms_of(builder: Any) -> str:
    """Return a benchmark's licence and consent in a sentence or two, for users who build it.

    Example:
        >>> terms_of(open_benchmark("dukemtmc_reid"))[:41]
        'DukeMTMC was withdrawn by its authors ove'
    """
    return builder.info.redistribution_info.license or ""


@contextlib.contextmanager
def _disk_errors_named(builder: Any) -> Iterator[None]:
    """Turn errors of a full or read-only disk into a sentence that names the folder of data sets."""
    from tensorflow import errors

    try:
        yield
    except (OSError, errors.OpError) as error:
        full = isinstance(error, errors.ResourceExhaustedError) or getattr(error, "errno", 0) in (
            errno.ENOSPC,
            errno.EDQUOT,
        )
        reason = (
            "the disk is full" if full else getattr(error, "strerror", None) or str(error).splitlines()[0]
        )
        raise UserError(
            f"{builder.info.full_name} cannot be written to {builder.data_path} ({reason}); free some space "
            "or choose another folder of data sets."
        ) from error


def _runner(name: str) -> Any:
    """Return an Apache Beam runner by its name."""
    try:
        from apache_beam.runners import create_runner
    except ImportError as error:
        raise UserError("Apache Beam is not installed; pip install 'san-tf[tfds]' brings it.") from error
    try:
        return create_runner(name)
    except (ValueError, ImportError) as error:
        raise UserError(f"Apache Beam has no runner {name!r}; DirectRunner works on this machine.") from error
