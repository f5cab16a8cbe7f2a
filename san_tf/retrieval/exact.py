"""Exact gallery in memory, which compares each query with each entry."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from san_tf.retrieval.entries import EVERYTHING, Entry, Filter
from san_tf.retrieval.gallery import (
    Candidate,
    Deleted,
    Gallery,
    GalleryInfo,
    Source,
    refuse_deleted,
    similarities,
)

# Queries compared in one step: products of 64 with a million entries take 256 MB.
_QUERIES = 64


class ExactGallery(Gallery):
    """Gallery in one matrix: a search is a matrix product and the choice of the largest values.

    It serves for evaluation, and as a reference for other engines. Nothing is stored on disk. A million
    embeddings of 512 numbers take 2 GB.

    Args:
        info: the encoder and the folder of the photographs.

    Example:
        >>> gallery = ExactGallery(GalleryInfo(512))
        >>> gallery.add(features, [Entry(name) for name in names])
        >>> gallery.search(queries, top=10)[0][0].entry.key
        '0002_c1s1_000451_03.jpg'
    """

    def __init__(self, info: GalleryInfo) -> None:
        super().__init__("in memory", info)
        self._lock = threading.RLock()
        self._rows = np.empty((0, info.size), np.float32)
        self._kept: list[Entry] = []
        self._places: dict[str, int] = {}
        self._sources: dict[str, Source] = {}
        self._buried: dict[str, bytes] = {}

    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""
        with self._lock:
            return sorted({entry.camera for entry in self._kept} - {-1})

    def tags(self) -> list[str]:
        """Return all tags, sorted."""
        with self._lock:
            return sorted({tag for entry in self._kept for tag in entry.tags})

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._rows, self._kept, self._places = self._rows[:0].copy(), [], {}

    def lift(self, keys: Sequence[str] = (), contents: Sequence[bytes] = ()) -> int:
        """Allow keys and files that were deleted for good to be added again; see `Gallery.lift`."""
        with self._lock:
            gone = [key for key, content in self._buried.items() if key in keys or content in contents]
            for key in gone:
                del self._buried[key]
            return len(gone)

    def deleted(self, keys: Sequence[str] = (), contents: Sequence[bytes] = ()) -> Deleted:
        """Return which of the keys, and which of the hashes of files, were deleted for good."""
        with self._lock:
            known = set(self._buried.values()) - {b""}
            return Deleted(set(keys) & self._buried.keys(), set(contents) & known)

    def sources(self, keys: Sequence[str]) -> dict[str, Source]:
        """Return what is known of the files of entries, by key; missing keys are left out."""
        with self._lock:
            return {key: self._sources[key] for key in keys if key in self._sources}

    def set_sources(self, sources: Mapping[str, Source]) -> None:
        """Note what is known of the files of entries, by key."""
        with self._lock:
            self._sources |= {key: source for key, source in sources.items() if key in self._places}

    def _add(self, rows: np.ndarray, entries: list[Entry], sources: list[Source]) -> None:
        with self._lock:
            refuse_deleted(self, entries, sources)
            self._sources |= {entry.key: source for entry, source in zip(entries, sources, strict=True)}
            fresh = sum(entry.key not in self._places for entry in entries)
            self._make_room(len(self._kept) + fresh)
            for row, entry in zip(rows, entries, strict=True):
                place = self._places.setdefault(entry.key, len(self._kept))
                if place == len(self._kept):
                    self._kept.append(entry)
                self._kept[place] = entry
                self._rows[place] = row

    def _make_room(self, number: int) -> None:
        if number > len(self._rows):
            larger = np.empty((max(number, 2 * len(self._rows)), self.info.size), np.float32)
            larger[: len(self._kept)] = self._rows[: len(self._kept)]
            self._rows = larger

    def _candidates(self, queries: np.ndarray, count: int, where: Filter) -> list[list[Candidate]]:
        with self._lock:
            chosen = np.arange(len(self._kept))
            if where != EVERYTHING:
                passing = [number for number, entry in enumerate(self._kept) if where.passes(entry)]
                chosen = np.array(passing, np.int64)
            gallery = self._rows[: len(self._kept)]
            gallery = gallery if len(chosen) == len(gallery) else gallery[chosen]
            found = []
            for start in range(0, len(queries), _QUERIES):
                for scores in similarities(queries[start : start + _QUERIES], gallery):
                    places = _largest(scores, count)
                    found.append([Candidate(self._kept[chosen[at]], gallery[at].copy()) for at in places])
            return found

    def _delete(self, keys: list[str], for_good: bool) -> int:
        with self._lock:
            gone = [key for key in keys if key in self._places]
            for key in gone:
                source = self._sources.pop(key, Source())
                if for_good:
                    self._buried[key] = source.content
                # The last entry takes the place of the deleted one.
                place, last = self._places.pop(key), self._kept.pop()
                if place < len(self._kept):
                    self._kept[place] = last
                    self._rows[place] = self._rows[len(self._kept)]
                    self._places[last.key] = place
            return len(gone)

    def _delete_where(self, where: Filter, for_good: bool) -> int:
        with self._lock:
            return self._delete([entry.key for entry in self._kept if where.passes(entry)], for_good)

    def _entries(self, where: Filter, start: int, limit: int | None) -> list[Entry]:
        with self._lock:
            passing = sorted((item for item in self._kept if where.passes(item)), key=lambda e: e.key)
        return passing[start : None if limit is None else start + limit]

    def _known(self, keys: list[str]) -> set[str]:
        with self._lock:
            return self._places.keys() & set(keys)

    def _lookup(self, keys: list[str]) -> dict[str, Candidate]:
        with self._lock:
            places = {key: self._places[key] for key in keys if key in self._places}
            return {
                key: Candidate(self._kept[place], self._rows[place].copy()) for key, place in places.items()
            }


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest of `(N,)` scores, and of all that equal the smallest of them."""
    if count >= len(scores):
        return np.arange(len(scores))
    least = scores[np.argpartition(scores, -count)[-count:]].min()
    # Rounding may put an equal entry a little lower.
    return np.flatnonzero(scores >= least - 1e-6)
