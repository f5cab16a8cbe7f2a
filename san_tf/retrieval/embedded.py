"""The gallery on this machine: a folder with a SQLite file, and an index of FAISS made from it.

SQLite is what counts: an `add` is on disk when it returns, several processes may search while one adds. The
index is a file that can always be made anew; rows that came after it are compared one by one, and when there
are many of them, it is extended.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import numpy as np

from san_tf.atomic import atomic_file, atomic_folder
from san_tf.errors import UserError
from san_tf.file_lock import file_lock
from san_tf.retrieval.entries import EVERYTHING, Entry, Filter
from san_tf.retrieval.gallery import Candidate, Gallery, GalleryInfo
from san_tf.retrieval.sqlite_store import SqliteStore, State
from san_tf.retrieval.vector_index import VectorIndex, faiss, sample_size

STORE = "gallery.sqlite"
# Rows that are compared one by one: at least so many before an index pays, at most so many in memory.
_FEWEST, _MOST = 10_000, 100_000
# Cells chosen for so many times fewer rows are chosen anew.
_GROWTH = 4
# Rows that are read at once, and queries that are answered at once.
_ROWS, _QUERIES = 10_000, 64
_NOTHING = np.empty(0, np.int64)


class EmbeddedGallery(Gallery):
    """A folder with a gallery.

    Up to 10,000 entries every search is exact, and FAISS is not needed. Beyond that an index finds the
    candidates, more than are asked for, and those are measured exactly. Without FAISS all embeddings are held
    in memory.

    Args:
        folder: of the gallery.
        read_only: refuse changes.

    Raises:
        UserError: there is no gallery in the folder.

    Example:
        >>> EmbeddedGallery.create("people.gallery", GalleryInfo(512, "market/1"))
        >>> with EmbeddedGallery("people.gallery") as gallery:
        ...     gallery.add(features, entries)
    """

    def __init__(self, folder: str | os.PathLike[str], read_only: bool = False) -> None:
        self._folder = Path(folder)
        self._store = SqliteStore(self._folder / STORE, read_only)
        super().__init__(str(folder), self._store.info, read_only)
        self._lock = threading.RLock()
        self._state = State(-1, 0, 0, -1)
        self._index: VectorIndex | None = None
        self._covered = 0  # rows up to this id are in the index
        self._dead = _NOTHING
        self._tail_ids, self._tail = _NOTHING, np.empty((0, self.info.size), np.float32)
        self._passing: dict[Filter, np.ndarray] = {}

    @staticmethod
    def create(folder: str | os.PathLike[str], info: GalleryInfo) -> None:
        """Make an empty gallery, whole or not at all.

        Raises:
            UserError: something stands there, or the place cannot be written.
        """
        if Path(folder).exists():
            raise UserError(f"{folder} exists already; name another folder for the gallery.")
        with atomic_folder(folder) as temporary:
            SqliteStore.create(temporary / STORE, info, Path(folder))

    def optimize(self) -> None:
        """Bring all rows into the index now, for the fastest searches; `add` does it when many are not.

        Raises:
            UserError: the disk is full; the gallery is as it was.
        """
        try:
            self._reindex(1)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"The index of {self.name} cannot be written, and what it held it still holds; free "
                "some space on the disk."
            ) from error

    def entries(self, where: Filter = EVERYTHING, start: int = 0, limit: int | None = None) -> list[Entry]:
        """List entries in the order of their keys; see `Gallery`."""
        with self._lock:
            return self._store.entries(where, start, limit)

    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""
        with self._lock:
            return self._store.cameras()

    def tags(self) -> list[str]:
        """Return all tags, sorted."""
        with self._lock:
            return self._store.tags()

    def __len__(self) -> int:
        with self._lock:
            return self._store.count()

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._store.close()
            self._index = None

    def _add(self, rows: np.ndarray, entries: list[Entry]) -> None:
        with self._lock, self._store.writing():
            self._store.remove(list(self._store.ids_of(entry.key for entry in entries).values()))
            self._store.insert(rows, entries)
        # The entries are safe; an index that could not be extended only makes searches slower.
        with contextlib.suppress(OSError, RuntimeError, UserError):
            self._reindex(min(max(_FEWEST, self._indexed // 4), _MOST))

    def _delete(self, keys: list[str]) -> int:
        with self._lock, self._store.writing():
            ids = list(self._store.ids_of(keys).values())
            self._store.remove(ids)
        return len(ids)

    def _delete_where(self, where: Filter) -> int:
        with self._lock, self._store.writing():
            ids = self._store.passing(where).tolist()
            self._store.remove(ids)
        return len(ids)

    def _known(self, keys: list[str]) -> set[str]:
        with self._lock:
            return set(self._store.ids_of(keys))

    def _lookup(self, keys: list[str]) -> dict[str, Candidate]:
        with self._lock:
            found = self._store.candidates(self._store.ids_of(keys).values())
        return {candidate.entry.key: candidate for candidate in found.values()}

    def _candidates(self, queries: np.ndarray, count: int, where: Filter) -> list[list[Candidate]]:
        with self._lock:
            self._refresh()
            index, dead, ids, tail = self._index, self._dead, self._tail_ids, self._tail
            passing = None if where == EVERYTHING else self._passing_ids(where)
        if passing is not None:
            kept = np.isin(ids, passing, assume_unique=True)
        else:
            kept = ~np.isin(ids, dead, assume_unique=True)
        if not kept.all():
            ids, tail = ids[kept], tail[kept]
        mask = self._mask(passing, dead)
        answers: list[list[Candidate]] = []
        for start in range(0, len(queries), _QUERIES):
            block = queries[start : start + _QUERIES]
            found = [ids[_largest(scores, count)] for scores in block @ tail.T]
            if index is not None:
                near = index.search(block, count, mask)
                found = [np.concatenate(pair) for pair in zip(found, near, strict=True)]
            with self._lock:
                known = self._store.candidates(np.unique(np.concatenate(found)).tolist())
            answers += [[known[number] for number in row.tolist() if number in known] for row in found]
        return answers

    @property
    def _indexed(self) -> int:
        return 0 if self._index is None else len(self._index)

    def _mask(self, passing: np.ndarray | None, dead: np.ndarray) -> np.ndarray | None:
        """Whether an id of the index counts; None if all do."""
        if passing is None:
            if not len(dead):
                return None
            mask = np.ones(self._covered + 1, bool)
            mask[dead[dead <= self._covered]] = False
            return mask
        mask = np.zeros(self._covered + 1, bool)
        mask[passing[passing <= self._covered]] = True
        return mask

    def _passing_ids(self, where: Filter) -> np.ndarray:
        if where not in self._passing:
            while len(self._passing) >= 8:  # the oldest goes
                del self._passing[next(iter(self._passing))]
            self._passing[where] = self._store.passing(where)
        return self._passing[where]

    def _refresh(self) -> None:
        """Bring what is in memory to the state of the file, which another process may have changed."""
        state = self._store.state()
        if state.version == self._state.version:
            return
        if state.generation != self._state.generation:
            self._open_index(state)
        self._dead = self._store.dead()
        self._passing.clear()
        self._state = state
        after = int(self._tail_ids[-1]) if len(self._tail_ids) else self._covered
        ids, rows = [self._tail_ids], [self._tail]
        while True:
            more, vectors = self._store.vectors(after, 2**62, _ROWS)
            if not len(more):
                break
            ids.append(more)
            rows.append(vectors)
            after = int(more[-1])
        if len(ids) > 1:
            self._tail_ids, self._tail = np.concatenate(ids), np.concatenate(rows)

    def _open_index(self, state: State) -> None:
        self._index, self._covered = None, 0
        self._tail_ids, self._tail = _NOTHING, np.empty((0, self.info.size), np.float32)
        if state.generation and faiss():
            # Missing or broken, it is done without; another process may just have replaced it, too.
            with contextlib.suppress(RuntimeError):
                self._index, self._covered = VectorIndex.open(self._file(state.generation)), state.last_id

    def _file(self, generation: int) -> Path:
        return self._folder / f"index-{generation}.faiss"

    def _reindex(self, least: int) -> None:
        """Bring rows into the index if there are so many that are not, or that are and are gone."""
        if self._read_only or not faiss():
            return
        with file_lock(
            self._folder / "index.lock"
        ) as mine:  # one process at a time; another will do it later
            if not mine:
                return
            with self._lock:
                state, upto, dead = self._store.state(), self._store.last_id(), self._store.dead()
                missing, number = self._store.count(state.last_id), self._store.count()
            if max(missing, len(dead)) < least:
                return
            if number < _FEWEST:
                if len(dead):  # so few need no index, but memories of what is gone would pile up
                    self._announce(State(state.generation + 1, 0, 0, 0), dead)
                return
            index, trained, after = self._extended(state, dead, number), state.trained, state.last_id
            if index is None:
                index, trained, after = self._trained(number), number, 0
            while True:
                with self._lock:
                    ids, rows = self._store.vectors(after, upto, _ROWS)
                if not len(ids):
                    break
                index.add(ids, rows)
                after = int(ids[-1])
            generation = state.generation + 1
            with atomic_file(self._file(generation)) as temporary:
                index.save(temporary)
            self._announce(State(generation, upto, trained, 0), dead)

    def _announce(self, state: State, buried: np.ndarray) -> None:
        """Let everybody use another index, or none, without the dead rows that it does not have."""
        with self._lock:
            with self._store.writing():
                self._store.set_index(state.generation, state.last_id, state.trained, buried.tolist())
            self._refresh()
        for former in self._folder.glob("index-*.faiss"):
            if former != self._file(state.generation):
                former.unlink(missing_ok=True)

    def _extended(self, state: State, dead: np.ndarray, number: int) -> VectorIndex | None:
        """The present index without the rows that are gone; None if it is time for a new one."""
        if not state.generation or number > _GROWTH * state.trained:
            return None
        try:
            index = VectorIndex.open(self._file(state.generation), change=True)
        except RuntimeError:
            return None
        index.remove(dead)
        return index

    def _trained(self, number: int) -> VectorIndex:
        with self._lock:
            ids = self._store.passing(EVERYTHING)
            chosen = np.random.default_rng(0).choice(ids, min(len(ids), sample_size(number)), replace=False)
            sample = self._store.sample(np.sort(chosen))
        return VectorIndex.train(sample, number)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest of `(N,)` scores, any order."""
    return np.argpartition(scores, -count)[-count:] if count < len(scores) else np.arange(len(scores))
