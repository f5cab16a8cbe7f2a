"""Embeds photographs into a table, part by part, and resumes interrupted runs."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from san_tf.archives.files import DamagedFileError
from san_tf.data.upright import PhotographError, upright
from san_tf.embedding.feature_table import Embedded
from san_tf.embedding.sources import Photograph
from san_tf.errors import UserError
from san_tf.image_formats import holds_several
from san_tf.resources import core_count

# Photographs in a part: a minute or two of work on a CPU, and some MB of memory.
PART_SIZE = 2048
UNDECODABLE = "is damaged: it cannot be decoded"
FURTHER = "are further pictures of a file, whose first was taken"


class Encoder(Protocol):
    """Interface of an encoder of image files."""

    def embed_each(self, files: Sequence[bytes]) -> list[np.ndarray | None]:
        """Return the `(D,)` embedding of each file, in order; None for one that cannot be decoded."""


class Table(Protocol):
    """Interface of what embeddings are written to, part by part: a `FeatureTable` or a gallery."""

    def has_part(self, number: int, sources: Sequence[str]) -> dict[str, str] | None:
        """Return what a finished part of these sources left out; None if there is no such part."""

    def write_part(
        self, number: int, sources: Sequence[str], rows: Sequence[Embedded], left_out: Mapping[str, str]
    ) -> None:
        """Write a part; `sources` are everything that its rows depend on."""

    def discard(self) -> None:
        """Remove the parts."""

    def finish(self, parts: int) -> int:
        """Join the parts; return the number of rows."""


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        done: photographs processed, also in earlier runs.
        resumed: photographs among them that an earlier run processed.
        left_out: problems of photographs without an embedding, by name; also of further pictures in a file.
        seconds: time spent in this run.
        embedded: photographs with an embedding.
        identities: number of identities, where known.
        cameras: number of cameras, where known.
    """

    done: int
    resumed: int
    left_out: dict[str, str]
    seconds: float
    embedded: int = 0
    identities: int = 0
    cameras: int = 0

    @property
    def rate(self) -> float:
        """Photographs per second in this run."""
        return (self.done - self.resumed) / self.seconds if self.seconds else 0.0


class NothingEmbeddedError(UserError):
    """No photograph could be embedded.

    Attributes:
        progress: the last progress.
    """

    def __init__(self, progress: Progress) -> None:
        name, problem = next(iter(progress.left_out.items()), (None, None))
        first = f"; the first, {name}, {problem}" if name else ""
        super().__init__(f"None of {progress.done:,} photographs could be embedded{first}.")
        self.progress = progress


def embed_photographs(
    photographs: Iterable[Photograph],
    encoder: Encoder,
    table: Table,
    batch_size: int = 32,
    report: Callable[[Progress], None] | None = None,
    part_size: int = PART_SIZE,
) -> Progress:
    """Embed photographs into the parts of a table and finish it.

    Photographs that cannot be read or decoded are left out and reported. Memory holds the embeddings of one
    part and some batches of files.

    Args:
        photographs: photographs in a repeatable order.
        encoder: the encoder.
        table: where to write; finished parts are skipped.
        batch_size: files in a batch of the encoder.
        report: called after each batch, and after each part that was skipped.
        part_size: photographs in a part.

    Returns:
        The last progress.

    Raises:
        NothingEmbeddedError: no photograph could be embedded.
        UserError: the table cannot be written.
    """
    progress, began, parts = Progress(0, 0, {}, 0.0), time.monotonic(), 0
    source = iter(photographs)
    with ThreadPoolExecutor(2 * core_count()) as pool:
        while part := list(itertools.islice(source, part_size)):
            # All that a row depends on, so that files or tables changed meanwhile are embedded again.
            sources = [
                json.dumps([photograph.name, photograph.columns, photograph.stamp()]) for photograph in part
            ]
            left_out = table.has_part(parts, sources)
            if left_out is None:
                rows: list[Embedded] = []
                left_out = {}
                unread = False
                for batch in _read_ahead(part, pool, batch_size):
                    unread |= any(item.content is None for item in batch)
                    _embed(batch, encoder, rows, left_out)
                    progress.done += len(batch)
                    progress.seconds = time.monotonic() - began
                    if report:
                        report(progress)
                progress.embedded += len(rows)
                # A file that could not be read may be readable when the command is run again.
                table.write_part(parts, [*sources, "unread"] if unread else sources, rows, left_out)
            else:
                progress.done += len(part)
                progress.resumed += len(part)
                progress.embedded += sum(shown(photograph.name) not in left_out for photograph in part)
            progress.left_out |= left_out
            if report:
                report(progress)
            parts += 1
    if progress.embedded == 0:
        # Nothing is worth keeping, and empty parts must not block the next run.
        table.discard()
        raise NothingEmbeddedError(progress)
    table.finish(parts)
    return progress


class ReadPhotograph(NamedTuple):
    """Result of reading a photograph.

    Attributes:
        photograph: the photograph.
        content: an upright JPEG or PNG file; None if it could not be read, b"" if it is not a usable image.
        problem: half a sentence; "" for none.
        several: whether the file holds more pictures than this one.
    """

    photograph: Photograph
    content: bytes | None
    problem: str = ""
    several: bool = False


def read_photograph(photograph: Photograph) -> ReadPhotograph:
    """Read a photograph as an upright JPEG or PNG file; problems are returned, not raised."""
    if shown(photograph.name) != photograph.name:
        return ReadPhotograph(photograph, b"", "has a name that is not UTF-8; rename it")
    try:
        stored = photograph.read()
    except DamagedFileError as error:
        return ReadPhotograph(photograph, None, str(error))
    try:
        content = upright(stored)
    except PhotographError as error:
        return ReadPhotograph(photograph, b"", str(error))
    return ReadPhotograph(photograph, content, "", content is not stored and holds_several(stored))


def shown(name: str) -> str:
    """Return a name as tables hold it: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read_ahead(
    part: Sequence[Photograph], pool: ThreadPoolExecutor, batch_size: int
) -> Iterator[list[ReadPhotograph]]:
    """Yield batches of read photographs, while the next ones are being read."""
    waiting: deque[Future[ReadPhotograph]] = deque()
    left = iter(part)
    while True:
        for photograph in itertools.islice(left, 3 * batch_size - len(waiting)):
            waiting.append(pool.submit(read_photograph, photograph))
        if not waiting:
            return
        yield [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]


def _embed(
    batch: Sequence[ReadPhotograph], encoder: Encoder, rows: list[Embedded], left_out: dict[str, str]
) -> None:
    readable = [item for item in batch if not item.problem]
    left_out |= {shown(item.photograph.name): item.problem for item in batch if item.problem}
    features = encoder.embed_each([item.content or b"" for item in readable])
    for item, embedding in zip(readable, features, strict=True):
        name = item.photograph.name
        if embedding is None:
            left_out[name] = UNDECODABLE
            continue
        rows.append(Embedded(name, embedding, item.photograph.columns))
        if item.several:
            left_out[f"{name} (further pictures)"] = FURTHER
