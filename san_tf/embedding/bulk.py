"""Photographs through an encoder into a table, part after part, from where an interrupted run stopped."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from san_tf.benchmarks.files import DamagedFileError
from san_tf.cores import core_count
from san_tf.embedding.feature_table import Embedded
from san_tf.embedding.photographs import PhotographError, upright
from san_tf.embedding.sources import Photograph
from san_tf.errors import UserError

# Photographs a part: a minute of work or two on a CPU, and some MB of memory.
PART_SIZE = 2048
_UNDECODABLE = "is damaged: it cannot be decoded"


class Encoder(Protocol):
    """What embeds files; None where one cannot be decoded."""

    def embed_each(self, files: Sequence[bytes]) -> list[np.ndarray | None]:
        """Embed files, in order."""


class Table(Protocol):
    """Where embeddings go, part after part: a `FeatureTable`, a gallery."""

    def has_part(self, number: int, names: Sequence[str]) -> dict[str, str] | None:
        """Whether a part is there: None if not, else what was left out."""

    def write_part(
        self, number: int, names: Sequence[str], rows: Sequence[Embedded], left_out: Mapping[str, str]
    ) -> None:
        """Write a part."""

    def finish(self, parts: int) -> int:
        """Put the parts together; return the number of rows."""


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        done: photographs that are through, those of earlier runs included.
        resumed: of these, those that were found done.
        left_out: problem by name of the photographs that could not be embedded.
        seconds: time spent on the others.
    """

    done: int
    resumed: int
    left_out: dict[str, str]
    seconds: float

    @property
    def rate(self) -> float:
        """Photographs a second in this run."""
        return (self.done - self.resumed) / self.seconds if self.seconds else 0.0


def embed_photographs(
    photographs: Iterable[Photograph],
    encoder: Encoder,
    table: Table,
    batch_size: int = 32,
    report: Callable[[Progress], None] | None = None,
    part_size: int = PART_SIZE,
) -> Progress:
    """Embed photographs into the parts of a table and finish it.

    What cannot be read or decoded is left out and told. Memory holds a part's embeddings and some batches of
    files, however many photographs there are.

    Args:
        photographs: in an order that repeats.
        encoder: gives the embeddings.
        table: where they go; parts that it has already are not made again.
        batch_size: files that the encoder gets at once.
        report: called after each batch, and after each part that was there already.
        part_size: photographs a part.

    Returns:
        The last progress.

    Raises:
        UserError: there is no photograph, or none that can be used; and what `table` raises.
    """
    progress, began, parts = Progress(0, 0, {}, 0.0), time.monotonic(), 0
    source = iter(photographs)
    with ThreadPoolExecutor(2 * core_count()) as pool:
        while part := list(itertools.islice(source, part_size)):
            names = [photograph.name for photograph in part]
            left_out = table.has_part(parts, names)
            if left_out is None:
                rows: list[Embedded] = []
                left_out = {}
                for batch in _read_ahead(part, pool, batch_size):
                    _embed(batch, encoder, rows, left_out)
                    progress.done += len(batch)
                    progress.seconds = time.monotonic() - began
                    if report:
                        report(progress)
                table.write_part(parts, names, rows, left_out)
            else:
                progress.done += len(part)
                progress.resumed += len(part)
            progress.left_out |= left_out
            if report:
                report(progress)
            parts += 1
    if progress.done == len(progress.left_out):
        name, problem = next(iter(progress.left_out.items()), (None, None))
        first = f"; the first, {name}, {problem}" if name else ""
        raise UserError(f"None of {progress.done:,} photographs could be embedded{first}.")
    table.finish(parts)
    return progress


_Read = tuple[Photograph, bytes | str]


def _read_ahead(
    part: Sequence[Photograph], pool: ThreadPoolExecutor, batch_size: int
) -> Iterator[list[_Read]]:
    """Yield batches of files, or problems, while the next ones are being read."""
    waiting: deque[tuple[Photograph, Future[bytes | str]]] = deque()
    left = iter(part)
    while True:
        for photograph in itertools.islice(left, 3 * batch_size - len(waiting)):
            waiting.append((photograph, pool.submit(_content, photograph)))
        if not waiting:
            return
        taken = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
        yield [(photograph, future.result()) for photograph, future in taken]


def _content(photograph: Photograph) -> bytes | str:
    try:
        return upright(photograph.read())
    except (DamagedFileError, PhotographError) as error:
        return str(error)


def _embed(batch: Sequence[_Read], encoder: Encoder, rows: list[Embedded], left_out: dict[str, str]) -> None:
    readable = [(photograph, content) for photograph, content in batch if isinstance(content, bytes)]
    left_out |= {photograph.name: content for photograph, content in batch if isinstance(content, str)}
    features = encoder.embed_each([content for _, content in readable])
    for (photograph, _), embedding in zip(readable, features, strict=True):
        if embedding is None:
            left_out[photograph.name] = _UNDECODABLE
        else:
            rows.append(Embedded(photograph.name, embedding, photograph.columns))
