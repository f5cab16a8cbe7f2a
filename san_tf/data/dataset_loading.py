"""Loads a data set by name or folder as records: `load_dataset("Market-1501-v15.09.15")["query"]`."""

from __future__ import annotations

import os
from pathlib import Path

from san_tf.data.builders import builder_folders, find_builder
from san_tf.data.records import Records
from san_tf.errors import UserError

# The folders of Market-1501 and of the benchmarks that followed it, by split.
_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def load_dataset(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    verify: bool = True,
) -> dict[str, Records]:
    """Load a data set into memory, images still encoded.

    Args:
        source: one of three: a folder in the layout of Market-1501 (any of `bounding_box_train`, `query`,
            `bounding_box_test`) with names such as `0002_c1s1_000451_03.jpg`; a folder of images; or the name
            of a data set that `--stage prepare` of its experiment made, such as `market1501` or
            `synthetic_reid/tiny`.
        data_dir: folder of prepared data sets; TFDS's default folder by default.
        verify: decode every image once, and refuse damaged ones.

    Returns:
        Records by split: `train`, `query`, `gallery`; `images` for a folder of images.

    Raises:
        UserError: there is no such folder or data set, it is not prepared, or an image is damaged.

    Example:
        >>> data = load_dataset("Market-1501-v15.09.15")
        >>> len(data["train"]), data["train"].num_identities
        (12936, 751)
    """
    folder = Path(source)
    if folder.is_dir():
        found = {split: folder / name for split, name in _FOLDERS.items() if (folder / name).is_dir()}
        places = found or {"images": folder}
        return {split: Records.from_folder(place, verify) for split, place in places.items()}
    name, _, config = os.fspath(source).partition("/")
    if name not in builder_folders():
        raise UserError(
            f"There is no folder {folder}, and no data set of that name; the data sets are"
            f" {', '.join(sorted(builder_folders()))}."
        )
    builder = find_builder(name, config or None, None if data_dir is None else Path(data_dir))
    if not builder.is_prepared():
        raise UserError(
            f"The data set {os.fspath(source)} is not prepared in {builder.data_dir}; make it with"
            f" `python -m san_tf.experiments.<name> --stage prepare`, or name its --data_dir."
        )
    return {split: Records.from_tfds(builder, split, verify) for split in builder.info.splits}
