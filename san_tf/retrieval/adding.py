"""What goes into a gallery: photographs, embedded part by part, and tables of embeddings; and its export."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.embedding.bulk import Encoder, NothingEmbeddedError, Progress, embed_photographs
from san_tf.embedding.feature_table import Embedded
from san_tf.embedding.sources import Photograph
from san_tf.errors import UserError
from san_tf.retrieval.entries import EVERYTHING, Entry, Filter, checked_entry
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.name_reader import NameReader

# Photographs stored in one part, and keys looked up together.
PART_SIZE = 256
_AT_ONCE = 1000


def add_photographs(
    gallery: Gallery,
    photographs: Iterable[Photograph],
    encoder: Encoder,
    reader: NameReader,
    batch_size: int = 32,
    report: Callable[[Progress], None] | None = None,
    replace: bool = False,
) -> tuple[Progress, int]:
    """Embed photographs into a gallery, and skip those whose keys are in it.

    Keys are paths relative to the gallery's folder of images. Photographs from archives have no image path.

    Args:
        gallery: the gallery; its `info.images` is a folder that holds all photographs.
        photographs: from `embedding.sources`.
        encoder: the gallery's encoder.
        reader: reads identities, cameras and times.
        batch_size: files in a batch of the encoder.
        report: called after each batch.
        replace: also embed photographs whose keys are known, and replace their entries.

    Returns:
        The last progress, and the number of skipped photographs.

    Raises:
        UserError: a photograph lies outside the folder, no photograph can be used, or the gallery refuses.
    """
    table = _Table(gallery, reader, replace)
    new = table.new_ones(photographs)
    first = next(new, None)
    if first is None:
        if table.passed_over or table.odd:
            return Progress(len(table.odd), 0, table.odd, 0.0), table.passed_over
        raise UserError("There are no photographs to add; name folders, tables or archives that hold some.")
    chosen = itertools.chain([first], new)
    try:
        progress = embed_photographs(chosen, encoder, table, batch_size, report, part_size=PART_SIZE)
    except NothingEmbeddedError as error:
        # A repeated command: the only new photographs are those that cannot be used.
        if not table.passed_over:
            raise
        progress = error.progress
    progress.left_out |= table.odd
    progress.done += len(table.odd)
    progress.identities, progress.cameras = len(table.identities), len(table.cameras)
    return progress, table.passed_over


class _Table:
    """A gallery as the table that bulk embedding writes to."""

    def __init__(self, gallery: Gallery, reader: NameReader, replace: bool) -> None:
        self._gallery, self._reader, self._replace = gallery, reader, replace
        self.passed_over = 0
        self.odd: dict[str, str] = {}
        self.identities: set[int] = set()
        self.cameras: set[int] = set()

    def new_ones(self, photographs: Iterable[Photograph]) -> Iterator[Photograph]:
        """Yield the photographs that are not in the gallery."""
        source = iter(photographs)
        while some := list(itertools.islice(source, _AT_ONCE)):
            keys = [self._key(photograph.name) for photograph in some]
            known = set() if self._replace else self._gallery.known(keys)
            for photograph, key in zip(some, keys, strict=True):
                if key in known:
                    self.passed_over += 1
                elif not key.isprintable():
                    self.odd[ascii(photograph.name)] = "has a name that cannot be printed"
                else:
                    # One impossible number in a name must not stop the whole run.
                    try:
                        checked_entry(self._entry(photograph.name, photograph.columns))
                    except UserError as error:
                        self.odd[photograph.name] = f"cannot be kept: {error}"
                    else:
                        yield photograph

    def has_part(self, number: int, sources: Sequence[str]) -> dict[str, str] | None:
        return None

    def discard(self) -> None: ...

    def write_part(
        self, number: int, sources: Sequence[str], rows: Sequence[Embedded], left_out: Mapping[str, str]
    ) -> None:
        if rows:
            entries = [self._entry(row.name, row.columns) for row in rows]
            self._gallery.add(np.stack([row.features for row in rows]), entries)
            self.identities |= {entry.pid for entry in entries if entry.pid is not None and entry.pid != -1}
            self.cameras |= {entry.camera for entry in entries if entry.camera != -1}

    def finish(self, parts: int) -> int:
        self._gallery.optimize()
        return len(self._gallery)

    def _key(self, name: str) -> str:
        root, path = Path(self._gallery.info.images or "."), Path(os.path.abspath(name))
        if not path.is_relative_to(root):
            raise UserError(
                f"{name} is not in the folder of this gallery's images, {root}; make another gallery."
            )
        return path.relative_to(root).as_posix()

    def _entry(self, name: str, columns: Mapping[str, str]) -> Entry:
        key = self._key(name)
        return self._reader.entry(key, key if os.path.isfile(name) else "", columns)


def folder_of(places: Sequence[str | os.PathLike[str]]) -> str:
    """Return the absolute path of the folder that holds all `places`."""
    folders = []
    for place in places:
        path = Path(os.path.abspath(place))
        folders.append(path if path.is_dir() else path.parent)
    return os.path.commonpath(folders)


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
