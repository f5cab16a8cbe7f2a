"""Finds this package's TFDS builders, in an installed wheel or a checkout."""

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
        problem: the first half of the message, which names the file.
    """

    def __init__(self, place: Path, problem: str) -> None:
        super().__init__(f"{problem}; the stage `prepare` (--stage prepare) builds the data set again.")
        self.place = place
        self.problem = problem


def builder_folders() -> dict[str, Path]:
    """Return the folders of the available data set builders, by name, sorted.

    It looks in `san_tf/datasets` (a wheel) first, then in `datasets` beside the package (a checkout).

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
        name: name of the data set, such as "synthetic_reid" or "pit".
        config: name of its config, such as "tiny"; None takes the first one.
        data_dir: folder of prepared data sets; None is TFDS's default folder (the environment variable
            TFDS_DATA_DIR, or `~/tensorflow_datasets`).

    Returns:
        A `tfds.core.DatasetBuilder`; call its `download_and_prepare()` to make the data.

    Raises:
        UserError: there is no data set or config of that name; the message lists the known ones.
        DamagedDataError: the prepared data cannot be read.

    Example:
        >>> builder = find_builder("synthetic_reid", "tiny", data_dir="data")
        >>> records = Records.from_tfds(builder, "train")
    """
    folders = builder_folders()
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise UserError(f"There is no data set named {name!r}; choose one of: {known}.")
    # `tfds build` imports a builder under the same name. Under another name TFDS would refuse the class as
    # already registered.
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
    """Return a builder of a class, and read its prepared data if there are any.

    Args:
        builder_class: subclass of `tfds.core.DatasetBuilder`.
        config: a configuration, or its name; None for the first.
        data_dir: folder of prepared data sets; None is TFDS's default folder.

    Raises:
        DamagedDataError: `dataset_info.json` cannot be read.
    """
    places = {} if data_dir is None else {"data_dir": os.fspath(data_dir)}
    try:
        with quiet_tfds():
            return builder_class(config=config, **places)
    except UserError:
        raise
    except Exception as error:  # damaged bytes raise errors of protobuf, JSON or TFDS
        with tempfile.TemporaryDirectory() as empty, quiet_tfds():
            bare = builder_class(config=config, data_dir=empty)
            root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
            place = Path(root).expanduser() / Path(bare.data_dir).relative_to(empty)
        file = place / "dataset_info.json"
        if not file.is_file():
            raise
        raise DamagedDataError(place, f"{file} is damaged") from error


def damage_of(builder: Any, splits: Sequence[str] | None = None) -> str | None:
    """Return what is wrong with prepared data on disk, as the first half of a sentence; None if nothing.

    It reads every record and verifies its checksum, without decoding images.

    Args:
        builder: a `tfds.core.DatasetBuilder` whose data were prepared.
        splits: splits to check; None checks all.
    """
    import tensorflow as tf

    if not builder.info.splits:
        return f"{Path(builder.data_path, 'dataset_info.json')} is missing"
    for split in splits or list(builder.info.splits):
        info = builder.info.splits[split]
        if not info.num_examples:
            return f"{Path(builder.data_path, 'dataset_info.json')} lists no records in the split {split}"
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
                return f"{path} is damaged: it holds {number:,} records instead of {expected:,}"
    return None


@contextlib.contextmanager
def set_aside(place: Path) -> Iterator[None]:
    """Move a data set aside while the block replaces it; move it back if the block fails."""
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
        split: name of a split, or a TFDS slice of one (`train[:100]`).
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
    """Hide warnings of TFDS while the block runs: of folders it cannot parse, of names it deprecates."""
    from absl import logging

    former = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(former)
