"""Entries, hits and filters of a gallery, and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass

import numpy as np

from san_tf.errors import UserError

# Name of the one for whom a server asks, for the audit log; "" for the user of this process, None where
# nobody asks, which is not logged.
ASKING: ContextVar[str | None] = ContextVar("ASKING", default="")


@dataclass(frozen=True)
class Entry:
    """A photograph in a gallery.

    Attributes:
        key: unique in the gallery; adding the same key again replaces it.
        image: path of the photograph, relative to the gallery's folder of images; "" for none.
        camera: camera id, from 0; -1 where unknown.
        time: seconds since 1970, UTC; None where unknown.
        pid: identity, from 0, or -1 for junk; None where unknown.
        tags: your own words.

    Example:
        >>> Entry("0002_c1s1_000451_03.jpg", "0002_c1s1_000451_03.jpg", camera=1, pid=2, tags=("door",))
    """

    key: str
    image: str = ""
    camera: int = -1
    time: float | None = None
    pid: int | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hit:
    """An entry that a search found.

    Attributes:
        entry: the entry.
        score: cosine similarity of its embedding and the query's, in [-1, 1].
    """

    entry: Entry
    score: float


@dataclass(frozen=True)
class Filter:
    """Conditions that entries must meet, all of them; empty conditions are ignored.

    Attributes:
        cameras: the camera is one of these; -1 for unknown cameras.
        excluded_cameras: the camera is none of these.
        since: the time is this or later (seconds since 1970, UTC); entries of unknown time do not pass.
        until: the time is before this; likewise.
        tags: the entry has all of these.
        pids: the identity is one of these; entries of unknown identity do not pass.

    Example:
        >>> Filter(cameras=(1, 2), tags=("door",)).passes(Entry("a", camera=2, tags=("door", "day")))
        True
    """

    cameras: tuple[int, ...] = ()
    excluded_cameras: tuple[int, ...] = ()
    since: float | None = None
    until: float | None = None
    tags: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()

    def passes(self, entry: Entry) -> bool:
        """Return whether an entry meets all conditions."""
        return (
            (not self.cameras or entry.camera in self.cameras)
            and entry.camera not in self.excluded_cameras
            and (self.since is None or (entry.time is not None and entry.time >= self.since))
            and (self.until is None or (entry.time is not None and entry.time < self.until))
            and set(self.tags) <= set(entry.tags)
            and (not self.pids or entry.pid in self.pids)
        )

    def facts(self) -> dict[str, object]:
        """Return the conditions that are not empty, as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value not in ((), None)
        }


EVERYTHING = Filter()

# Keys and images are usually paths; no file system has longer ones.
MAX_TEXT = 4096
MAX_TAGS = 64
_LARGEST_ID = 2**62


def checked_embeddings(gallery: str, size: int, embeddings: np.ndarray) -> np.ndarray:
    """Return `(N, D)` embeddings as float32 of length 1.

    Args:
        gallery: name of the gallery, for messages.
        size: dimensions of its embeddings, D.
        embeddings: `(N, D)` real numbers.

    Raises:
        UserError: another shape or size, not real numbers, or a row that is not finite or all 0.
    """
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise UserError(
            f"Embeddings are real numbers, (N, {size}), for the gallery {gallery}; these are {rows.dtype} "
            f"of shape {rows.shape}."
        )
    if rows.shape[1] != size:
        raise UserError(
            f"The gallery {gallery} holds embeddings of {size} numbers, and these have {rows.shape[1]}; use "
            "the encoder it was made with, or make another gallery."
        )
    rows = rows.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    bad = ~np.isfinite(lengths) | (lengths == 0)
    if bad.any():
        raise UserError(
            f"Embedding {int(np.argmax(bad))} is not finite or all 0, so it has no direction; leave out its "
            "image, or use an earlier checkpoint of the encoder."
        )
    return np.asarray(rows / lengths[:, None].astype(np.float32), np.float32)


def checked_entries(gallery: str, entries: Sequence[Entry], number: int) -> list[Entry]:
    """Return the entries as plain Python values, with unique sorted tags.

    Args:
        gallery: name of the gallery, for messages.
        entries: one per embedding.
        number: number of embeddings.

    Raises:
        UserError: another number of entries, or one with impossible values.
    """
    if len(entries) != number:
        raise UserError(
            f"There are {number} embeddings and {len(entries)} entries for the gallery {gallery}; give one "
            "entry per embedding."
        )
    return [checked_entry(entry) for entry in entries]


def checked_filter(where: Filter) -> Filter:
    """Return the filter, checked.

    Raises:
        UserError: an impossible camera, a time that is not finite, or a tag that cannot be printed.
    """
    for camera in (*where.cameras, *where.excluded_cameras):
        if not -1 <= camera < _LARGEST_ID:
            raise UserError(f"There is no camera {_short(camera)}; they count from 0, -1 is unknown.")
    for pid in where.pids:
        if not -1 <= pid < _LARGEST_ID:
            raise UserError(f"There is no identity {_short(pid)}; they count from 0, -1 is junk.")
    for time in (where.since, where.until):
        if time is not None and not math.isfinite(time):
            raise UserError(f"The time {time} of the filter is not finite; give seconds since 1970.")
    for tag in where.tags:
        if not tag.isprintable():
            raise UserError(f"There is no tag {tag[:60]!a}: tags are printable words.")
    return where


def checked_entry(entry: Entry) -> Entry:
    """Return an entry as plain Python values, with unique sorted tags.

    Raises:
        UserError: a value is impossible.
    """
    if not entry.key:
        raise UserError("An entry of a gallery has no key; name it, for example by its file.")
    for text in (entry.key, entry.image, *entry.tags):
        if "\0" in text or len(text) > MAX_TEXT or not text.isprintable():
            shown = ascii(text[:60])
            raise UserError(
                f"{shown} cannot be kept in a gallery: keys, paths and tags are printable and have at most "
                f"{MAX_TEXT} letters; name it otherwise."
            )
    if len(entry.tags) > MAX_TAGS or not all(tag.split() == [tag] for tag in entry.tags):
        raise UserError(f"{entry.key} has more than {MAX_TAGS} tags, or one that is not a word; change them.")
    if not -1 <= entry.camera < _LARGEST_ID:
        raise UserError(
            f"The camera of {entry.key} is {_short(entry.camera)}; they count from 0, -1 is unknown."
        )
    if entry.time is not None and not math.isfinite(entry.time):
        raise UserError(f"The time of {entry.key} is {entry.time}; give seconds since 1970, or None.")
    if entry.pid is not None and not -1 <= entry.pid < _LARGEST_ID:
        raise UserError(f"The identity of {entry.key} is {_short(entry.pid)}; they count from 0, -1 is junk.")
    return Entry(
        str(entry.key),
        str(entry.image),
        int(entry.camera),
        None if entry.time is None else float(entry.time),
        None if entry.pid is None else int(entry.pid),
        tuple(sorted(set(entry.tags))),
    )


def _short(number: int) -> str:
    """A number of any size, shortened for a message."""
    return str(number) if abs(number) < 10**20 else f"a number above {10**20:.0e}"
