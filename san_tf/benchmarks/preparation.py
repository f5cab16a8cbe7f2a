"""Opens a benchmark's builder as an experiment wants it, and prepares it from the copy a user has."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from san_tf.data.builders import find_builder, quiet_tfds
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
        name: of a builder in `datasets/`, with `/config` where another than its first is wanted.
        data_dir: where prepared data sets lie; see `find_builder`.
        skip_corrupt: damaged images are left out, and the data set has `_skip_corrupt` in its name.
        check_counts: the published numbers must be there; without, the data set has `_uncounted` in its name.
        config: a `BenchmarkConfig` of one's own, such as a `CustomConfig`, in place of one by name.

    Raises:
        UserError: there is no such data set or configuration.

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
                f"{dataset} is no benchmark that is read from a copy, so its images cannot be left out."
            )
        if skip_corrupt:
            changed = changed.without_corrupt()
        if not check_counts:
            changed = changed.uncounted()
        with quiet_tfds():
            builder = type(builder)(config=changed, data_dir=None if data_dir is None else str(data_dir))
    return builder


def prepare_benchmark(
    builder: Any, manual_dir: str | os.PathLike[str] | None = None, beam_runner: Any = None
) -> None:
    """Build the data set, unless it is built already.

    A build leaves all or nothing to be read. One that was interrupted goes on where it was when it is started
    again; with Beam it starts anew.

    Args:
        builder: of `open_benchmark`.
        manual_dir: where the copy of the benchmark lies; None takes TFDS's own place for such copies,
            `downloads/manual` in the folder of data sets.
        beam_runner: the name of an Apache Beam runner ("DirectRunner") or a runner, to spread the work over
            its workers; None does without Beam.

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


def terms_of(builder: Any) -> str:
    """Licence and consent of a benchmark in a sentence or two, to be shown to whoever builds it.

    Example:
        >>> terms_of(open_benchmark("dukemtmc_reid"))[:41]
        'DukeMTMC was withdrawn by its authors ove'
    """
    return builder.info.redistribution_info.license or ""


@contextlib.contextmanager
def _disk_errors_named(builder: Any) -> Iterator[None]:
    """Turn what a full or closed disk raises into a sentence that names the folder of data sets."""
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
    """An Apache Beam runner by its name."""
    try:
        from apache_beam.runners import create_runner
    except ImportError as error:
        raise UserError("Apache Beam is not installed; pip install 'san-tf[tfds]' brings it.") from error
    try:
        return create_runner(name)
    except (ValueError, ImportError) as error:
        raise UserError(f"Apache Beam has no runner {name!r}; DirectRunner works on this machine.") from error
