"""Reads feature tables of `san-tf embed` into galleries, and exports galleries as such tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.retrieval.checks import checked_entry
from san_tf.retrieval.entries import EVERYTHING, Entry, Filter
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.name_reader import NameReader

_NOTES = b"san_tf"
_ROWS = 4096
_COLUMNS = ("pids", "camids", "time", "tags")


class FeatureRows:
    """Reader of a Parquet file of features.

    The file has the columns `path` and `features`, and may have `pids`, `camids`, `time` and `tags`.

    Args:
        path: path of the file.

    Raises:
        UserError: the file is missing, broken, or has other columns; or pyarrow is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        if not Path(path).is_file():
            raise UserError(f"There is no file {path}; write one with `san-tf embed`.")
        pa, parquet = _pyarrow()
        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is broken or no Parquet file; write it anew.") from error
        schema = self._file.schema_arrow
        for name in ("path", "features"):
            if name not in schema.names:
                raise UserError(
                    f"{path} has no column {name!r}, only {', '.join(schema.names)}; write it with "
                    "`san-tf embed`."
                )
        if not pa.types.is_fixed_size_list(schema.field("features").type):
            raise UserError(f"{path}: features are not lists of one length; write it with `san-tf embed`.")
        notes = json.loads((schema.metadata or {}).get(_NOTES, b"{}"))
        self.size = int(schema.field("features").type.list_size)
        self.model, self.fingerprint = str(notes.get("model", "")), str(notes.get("fingerprint", ""))

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def batches(
        self, reader: NameReader, images: Path | None, left_out: dict[str, str] | None = None
    ) -> Iterator[tuple[np.ndarray, dict[int, Entry]]]:
        """Yield `(n, D)` embeddings, and entries by row number, some thousand rows at a time.

        Args:
            reader: reads from names what the columns do not hold.
            images: folder of the photographs; keys of photographs in it are relative to it.
            left_out: is filled with the paths of impossible entries and the reasons; None raises instead.

        Raises:
            UserError: the file is damaged or has empty cells.
        """
        pa, _ = _pyarrow()
        names = [name for name in ("path", "features", *_COLUMNS) if name in self._file.schema_arrow.names]
        try:
            for batch in self._file.iter_batches(_ROWS, columns=names):
                if batch.column("features").null_count or batch.column("path").null_count:
                    raise UserError(f"{self._path} has empty cells; write it anew.")
                features = batch.column("features").flatten().to_numpy(zero_copy_only=False)
                others = {name: batch.column(name).to_pylist() for name in names if name != "features"}
                entries = {}
                for number, path in enumerate(others.pop("path")):
                    columns = {name: _text(values[number]) for name, values in others.items()}
                    try:
                        entry = reader.entry(*_key_and_image(path, images), columns)
                        entries[number] = checked_entry(entry)
                    except UserError as error:
                        if left_out is None:
                            raise
                        left_out[path] = str(error)
                yield features.reshape(len(batch), self.size), entries
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self._path} is damaged ({error}); write it anew.") from error


def export_rows(gallery: Gallery, path: str | Path, where: Filter = EVERYTHING) -> int:
    """Write entries and embeddings to a Parquet file, which `FeatureRows` and `san-tf evaluate` read.

    Args:
        gallery: the gallery.
        path: path of the file, `.parquet`.
        where: which entries to write.

    Returns:
        The number of entries.

    Raises:
        UserError: another suffix, the disk is full, or no entry passes the filter.
    """
    if Path(path).suffix.lower() != ".parquet":
        raise UserError(f"{path} is not the name of a Parquet file; let it end in .parquet.")
    pa, parquet = _pyarrow()
    info: GalleryInfo = gallery.info
    notes = {"model": info.model, "fingerprint": info.fingerprint}
    schema = pa.schema(
        [
            ("path", pa.string()), ("features", pa.list_(pa.float32(), info.size)), ("pids", pa.int64()),
            ("camids", pa.int64()), ("time", pa.float64()), ("tags", pa.string()),
        ],
        {_NOTES: json.dumps(notes)},
    )  # fmt: skip
    written = 0
    with atomic_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while entries := gallery.entries(where, written, _ROWS):
            rows = gallery.embeddings([entry.key for entry in entries])
            columns = [
                pa.array([entry.key for entry in entries]),
                pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), info.size),
                # Unknown identities become -1, junk, which no ranking counts.
                pa.array([-1 if entry.pid is None else entry.pid for entry in entries], pa.int64()),
                pa.array([entry.camera for entry in entries], pa.int64()),
                pa.array([entry.time for entry in entries], pa.float64()),
                pa.array([" ".join(entry.tags) for entry in entries]),
            ]
            writer.write_table(pa.table(columns, schema=schema))
            written += len(entries)
        if not written:
            raise UserError(f"No entry of the gallery {gallery.name} passes, so {path} was not written.")
    return written


def _key_and_image(path: str, images: Path | None) -> tuple[str, str]:
    """Key and image of a row, whose path is as given to `san-tf embed`, or relative to `images`."""
    if images is not None:
        for place in (Path(os.path.abspath(path)), images / path):
            if place.is_relative_to(images) and place.is_file():
                key = place.relative_to(images).as_posix()
                return key, key
    return path, ""


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Tables of features need pyarrow: pip install 'san-tf[parquet]'.") from error
    return pyarrow, pyarrow.parquet
