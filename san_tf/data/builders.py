"""Finds this package's TFDS builders, whether it is installed from a wheel or lies in a checkout."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from san_tf.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


class DamagedDataError(UserError):
    """Prepared data cannot be read.

    Attributes:
        place: the folder of the data set.
        problem: the first half of the sentence, which names the file.
    """

    def __init__(self, place: Path, problem: str) -> None:
        super().__init__(f"{problem}; the stage `prepare` (--stage prepare) makes the data set anew.")
        self.place = place
        self.problem = problem


def builder_folders() -> dict[str, Path]:
    """Return the folders of the data set builders that are there, by name, sorted.

    The packaged folder (`san_tf/datasets`, from a wheel) is taken where it exists, else the checkout's
    `datasets` beside the package.

    Example:
        >>> list(builder_folders())
        ['cuhk03', 'custom', 'dukemtmc_reid', 'market1501', 'msmt17', 'partial_reid', 'pit', ...]
    """
    for root in (_PACKAGE / "datasets", _PACKAGE.parent / "datasets"):
        found = {
            folder.name: folder
            for folder in sorted(root.glob("*"))
            if (folder / f"{folder.name}_dataset_builder.py").is_file()
        }
        if found:
            return found
    return {}


def find_builder(name: str, config: str | None = None, data_dir: str | Path | None = None) -> Any:
    """Return the TFDS builder of a data set of this package, prepared or not.

    Args:
        name: such as "synthetic_reid" or "pit".
        config: such as "tiny"; None takes the builder's first one.
        data_dir: where prepared data sets lie; None is TFDS's own folder (`~/tensorflow_datasets`, or
            what the environment variable TFDS_DATA_DIR says).

    Returns:
        A `tfds.core.DatasetBuilder`; call its `download_and_prepare()` to make the data.

    Raises:
        UserError: no data set or config of that name; the message lists those there are.
        DamagedDataError: what is prepared cannot be read.

    Example:
        >>> builder = find_builder("synthetic_reid", "tiny", data_dir="data")
        >>> records = Records.from_tfds(builder, "train")
    """
    folders = builder_folders()
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise UserError(f"There is no data set named {name!r}; choose one of: {known}.")
    # `tfds build` imports a builder under this very name; a second name for the same class would make TFDS
    # refuse it as already registered.
    root = str(folders[name].parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    with quiet_tfds():
        from tensorflow_datasets.core.community import builder_cls_from_module

        builder_class = builder_cls_from_module(f"{name}.{name}_dataset_builder")
        configs = list(builder_class.builder_configs)
        if config is not None and config not in configs:
            raise UserError(
                f"The data set {name} has no config {config!r}; choose one of: {', '.join(configs)}."
            )
        return builder_of(builder_class, config, data_dir)


def builder_of(builder_class: Any, config: Any, data_dir: str | Path | None) -> Any:
    """A builder of a class, which reads what is prepared.

    Args:
        builder_class: of TFDS.
        config: a configuration, or the name of one.
        data_dir: where prepared data sets lie.

    Raises:
        DamagedDataError: `dataset_info.json` cannot be read.
    """
    places = {} if data_dir is None else {"data_dir": os.fspath(data_dir)}
    try:
        with quiet_tfds():
            return builder_class(config=config, **places)
    except UserError:
        raise
    except Exception as error:  # protobuf, JSON and TFDS have their own, all of bytes in a file
        with tempfile.TemporaryDirectory() as empty, quiet_tfds():
            bare = builder_class(config=config, data_dir=empty)
            root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
            place = Path(root).expanduser() / Path(bare.data_dir).relative_to(empty)
        file = place / "dataset_info.json"
        if not file.is_file():
            raise
        raise DamagedDataError(place, f"{file} is damaged") from error


def damage_of(builder: Any, splits: Sequence[str] | None = None) -> str | None:
    """What is wrong with prepared data on the disk, as the first half of a sentence; None if nothing is.

    Every record has a checksum; all of them are read here, none is decoded.

    Args:
        builder: a `tfds.core.DatasetBuilder` whose data were prepared.
        splits: which; None looks at all.
    """
    import tensorflow as tf

    if not builder.info.splits:
        return f"{Path(builder.data_path, 'dataset_info.json')} is missing"
    for split in splits or list(builder.info.splits):
        info = builder.info.splits[split]
        if not info.num_examples:
            return f"{Path(builder.data_path, 'dataset_info.json')} tells of no records in the split {split}"
        for path, expected in zip(map(Path, info.filepaths), info.shard_lengths, strict=True):
            if not path.is_file():
                return f"{path} is missing"
            if builder.info.file_format.value != "tfrecord":
                continue
            try:
                number = sum(len(batch) for batch in tf.data.TFRecordDataset(os.fspath(path)).batch(1024))
            except tf.errors.OpError:
                return f"{path} is damaged"
            if number != expected:
                return f"{path} is damaged: it holds {number:,} records in place of {expected:,}"
    return None


@contextlib.contextmanager
def set_aside(place: Path) -> Iterator[None]:
    """Move a data set out of the way of the one that replaces it; back again if the block fails."""
    former = place.parent / f"former_{place.name}"
    shutil.rmtree(former, ignore_errors=True)
    os.replace(place, former)
    try:
        yield
    except BaseException:
        if not place.exists():
            os.replace(former, place)
        raise
    shutil.rmtree(former, ignore_errors=True)


def check_split(builder: Any, split: str) -> None:
    """Raise UserError unless the builder is prepared and has the split.

    Args:
        builder: a `tfds.core.DatasetBuilder`.
        split: plain name of a split, or TFDS's slices of one (`train[:100]`).
    """
    splits = list(builder.info.splits)
    if not splits and Path(builder.data_path).exists():
        raise DamagedDataError(Path(builder.data_path), str(damage_of(builder)))
    if not splits:
        raise UserError(
            f"The data set {builder.info.full_name} is not prepared in {builder.data_path}; "
            "run the stage `prepare` first, or name the folder that holds it."
        )
    if split.split("[")[0] not in splits:
        raise UserError(
            f"{builder.info.full_name} has no split {split!r}; choose one of: {', '.join(splits)}."
        )


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keep TFDS's warnings about folders it could not parse off the screen while the block runs."""
    from absl import logging

    former = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(former)
