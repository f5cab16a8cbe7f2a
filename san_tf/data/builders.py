"""Finds this package's TFDS builders, whether it is installed from a wheel or lies in a checkout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from san_tf.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


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
        return builder_class(config=config, data_dir=None if data_dir is None else str(data_dir))


def check_split(builder: Any, split: str) -> None:
    """Raise UserError unless the builder is prepared and has the split.

    Args:
        builder: a `tfds.core.DatasetBuilder`.
        split: plain name of a split, or TFDS's slices of one (`train[:100]`).
    """
    splits = list(builder.info.splits)
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
