"""What a gallery holds beside the embeddings, what it answers with, and what a search can be limited to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A photograph in a gallery.

    Attributes:
        key: unique in the gallery; adding the same key again replaces it.
        image: path of the photograph, relative to the gallery's folder of images; "" for none.
        camera: which one took it, from 0; -1 where that is not known.
        time: when, in seconds since 1970, UTC.
        pid: who is in it, where that is known.
        tags: words of one's own.

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
        entry: of the gallery.
        score: cosine similarity of its embedding and the query's, -1 to 1.
    """

    entry: Entry
    score: float


@dataclass(frozen=True)
class Filter:
    """Which entries count; all conditions hold together, and an empty one lets everything pass.

    Attributes:
        cameras: one of these; -1 for entries of an unknown camera.
        excluded_cameras: none of these.
        since: not before this time (seconds since 1970, UTC); entries of unknown time do not pass.
        until: before this time; likewise.
        tags: all of these.

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
        """Whether an entry counts."""
        return (
            (not self.cameras or entry.camera in self.cameras)
            and entry.camera not in self.excluded_cameras
            and (self.since is None or (entry.time is not None and entry.time >= self.since))
            and (self.until is None or (entry.time is not None and entry.time < self.until))
            and set(self.tags) <= set(entry.tags)
        )


EVERYTHING = Filter()
