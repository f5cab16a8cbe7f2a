"""Entries, hits and filters of a gallery."""

from __future__ import annotations

from dataclasses import dataclass


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

    Example:
        >>> Filter(cameras=(1, 2), tags=("door",)).passes(Entry("a", camera=2, tags=("door", "day")))
        True
    """

    cameras: tuple[int, ...] = ()
    excluded_cameras: tuple[int, ...] = ()
    since: float | None = None
    until: float | None = None
    tags: tuple[str, ...] = ()

    def passes(self, entry: Entry) -> bool:
        """Return whether an entry meets all conditions."""
        return (
            (not self.cameras or entry.camera in self.cameras)
            and entry.camera not in self.excluded_cameras
            and (self.since is None or (entry.time is not None and entry.time >= self.since))
            and (self.until is None or (entry.time is not None and entry.time < self.until))
            and set(self.tags) <= set(entry.tags)
        )


EVERYTHING = Filter()
