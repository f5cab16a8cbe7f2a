"""Embeds photographs into a gallery, part by part, and skips those already in it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from san_tf.embedding.bulk import Encoder, NothingEmbeddedError, Progress, embed_photographs
from san_tf.embedding.feature_table import Embedded
from san_tf.embedding.sources import Photograph
from san_tf.errors import UserError
from san_tf.retrieval.checks import checked_entry
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.gallery import Gallery
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
