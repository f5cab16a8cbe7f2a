"""Gallery on this machine: a folder with a SQLite file and a FAISS index built from it.

SQLite holds the data: an `add` is on disk when it returns, and several processes may search while one adds.
The index can always be rebuilt. Rows newer than the index are compared one by one, until there are many of
them and the index is extended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from san_tf.atomic import atomic_file, atomic_folder
from san_tf.errors import UserError
from san_tf.file_lock import file_lock
from san_tf.retrieval.entries import EVERYTHING, Entry, Filter
from san_tf.retrieval.gallery import Candidate, Gallery, GalleryInfo
from san_tf.retrieval.sqlite_store import SqliteStore, State
from san_tf.retrieval.vector_index import VectorIndex, faiss, sample_size

STORE = "gallery.sqlite"
# Rows that are compared one by one: an index pays above the first number, memory allows at most the second.
_FEWEST, _MOST = 10_000, 100_000
# The index is trained anew when the gallery has grown by this factor.
_GROWTH = 4
# Rows read in one step, and queries answered in one step.
_ROWS, _QUERIES = 10_000, 64
# Filters whose passing ids are kept in memory.
_FILTERS = 8
# An id above all that there can be.
_BEYOND = 2**62
_NOTHING = np.empty(0, np.int64)


class Checked(NamedTuple):
    """Result of `EmbeddedGallery.check`.

    Attributes:
        entries: number of entries now.
        damaged: keys of entries whose bytes have changed.
        made: names of what was rebuilt.
    """

    entries: int
    damaged: list[str]
    made: list[str]


class EmbeddedGallery(Gallery):
    """A gallery in a folder on this machine.

    Up to 10,000 entries every search is exact and needs no FAISS. Beyond that, an index finds more candidates
    than are asked for, and these are measured exactly. Without FAISS all embeddings are held in memory.

    All answers are checked against digests: the index when it is opened, rows when they are read, all entries
    at the first search or list with a filter, and SQLite's indexes before the first look-up of keys. Damaged
    rows raise an error. A damaged or missing index only makes searches slower; writing the gallery rebuilds
    it. Deleted entries leave the disk before `delete` returns: the index is rewritten, which takes seconds
    for a million entries.

    Args:
        folder: folder of the gallery.
        read_only: refuse changes; the folder need not be writable.
        mend: open it for a check, even if its record of the index is damaged.

    Raises:
        UserError: the folder holds no gallery, or it is damaged.

    Example:
        >>> EmbeddedGallery.create("people.gallery", GalleryInfo(512, "market/1"))
        >>> with EmbeddedGallery("people.gallery") as gallery:
        ...     gallery.add(features, entries)
    """

    def __init__(self, folder: str | os.PathLike[str], read_only: bool = False, mend: bool = False) -> None:
        self._folder = Path(folder)
        self._store = SqliteStore(self._folder / STORE, read_only, mend)
        super().__init__(str(folder), self._store.info, read_only)
        self._lock = threading.RLock()
        self._state = State(-1, 0, 0, -1)
        self._index: VectorIndex | None = None
        self._covered = 0  # rows up to this id are in the index
        self._dead = _NOTHING
        self._tail_ids, self._tail = _NOTHING, np.empty((0, self.info.size), np.float32)
        self._passing: dict[Filter, np.ndarray] = {}
        self._facts = _Facts()
        self._counted = self._ordered = False
        self._facts_version = -1

    @staticmethod
    def create(folder: str | os.PathLike[str], info: GalleryInfo) -> None:
        """Make an empty gallery; a failure leaves nothing behind.

        Raises:
            UserError: the folder exists, or it cannot be written.
        """
        if Path(folder).exists():
            raise UserError(f"{folder} exists already; name another folder for the gallery.")
        with atomic_folder(folder) as temporary:
            SqliteStore.create(temporary / STORE, info, Path(folder))

    def optimize(self) -> None:
        """Bring all rows into the index, for the fastest searches; `add` does so when many are missing.

        Raises:
            UserError: the disk is full; the gallery is unchanged.
        """
        try:
            self._reindex(1)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"The index of {self.name} cannot be written, and is unchanged; free some space on the disk."
            ) from error

    def check(self, drop: bool = False) -> Checked:
        """Check everything in the gallery against its digests, and repair what can be rebuilt.

        The index, SQLite's own indexes and the table of tags are rebuilt where they are damaged. A gallery of
        the former format gets digests of its present content. Files left by killed processes are removed.

        Args:
            drop: delete damaged entries, so that they can be added again.

        Returns:
            The number of entries, the damaged ones, and what was rebuilt.

        Raises:
            UserError: SQLite's file is damaged beyond repair, or the disk is full.
        """
        self._refuse_if_read_only()
        made: list[str] = []
        with self._lock:
            damaged = self._store.damaged_rows()
            if damaged and drop:
                with self._store.writing():
                    self._store.remove(list(damaged))
            if drop or not damaged:
                self._make_anew(made)
        if drop or not damaged:
            self.optimize()
            self._store.scrub()
        keys = sorted(key or f"entry number {number}" for number, key in damaged.items())
        return Checked(len(self), keys, made)

    def _make_anew(self, made: list[str]) -> None:
        """Rebuild what is missing or damaged and follows from the entries; list it in `made`."""
        former = not self._store.is_sealed
        if former:
            with self._writing():
                pass  # the entries get their digests
            self._store.compact()
            made.append("digests")
        if self._store.problems():
            with self._store.writing():
                self._store.rebuild()
            made.append("SQLite's indexes")
            if problems := self._store.problems():
                raise UserError(
                    f"The gallery {self.name} is damaged beyond repair ({problems[0]}); restore a backup of "
                    "it, or make another one."
                )
        state = self._store.state()
        if (state.last_id and (former or self._verified_file(state) is None)) or self._store.was_mended:
            self._forget_index()
            made.append("index")
        with file_lock(self._folder / "index.lock", wait=True):
            self._remove_temporary()

    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""
        with self._lock:
            return self._facts_now().cameras()

    def tags(self) -> list[str]:
        """Return all tags, sorted."""
        with self._lock:
            return self._facts_now().tags()

    def __len__(self) -> int:
        with self._lock:
            return self._store.count()

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._store.close()
            self._index = None

    def _entries(self, where: Filter, start: int, limit: int | None) -> list[Entry]:
        with self._lock:
            self._check_structure()
            if where != EVERYTHING:
                passing = self._facts_now().passing(where)
                if not np.array_equal(passing, self._store.ids_where(where)):
                    raise self._store.lacking()
            return self._store.entries(where, start, limit)

    def _check_structure(self) -> None:
        """Check SQLite's structure before the first look-up of keys."""
        if not self._ordered:
            self._store.check_counts()
            self._store.check_structure()
            self._ordered = True

    def _facts_now(self) -> _Facts:
        """Return cameras, times and tags of all present entries; no embedding is read."""
        version = self._store.state().version
        if version != self._facts_version:
            self._store.check_counts()
            self._facts.remove_buried(self._store)
            self._facts.read(self._store)
            self._facts_version = version
        return self._facts

    def _add(self, rows: np.ndarray, entries: list[Entry]) -> None:
        with self._lock, self._writing():
            self._check_structure()
            self._store.remove(list(self._store.ids_of(entry.key for entry in entries).values()))
            self._store.insert(rows, entries)
        # The entries are safe; an index that could not be extended only makes searches slower.
        with contextlib.suppress(OSError, RuntimeError, UserError):
            self._reindex(min(max(_FEWEST, self._indexed // 4), _MOST))

    def _delete(self, keys: list[str]) -> int:
        with self._lock, self._writing():
            self._check_structure()
            ids = list(self._store.ids_of(keys).values())
            self._store.remove(ids)
        self._purge(ids)
        return len(ids)

    def _delete_where(self, where: Filter) -> int:
        with self._lock, self._writing():
            if where == EVERYTHING:
                ids = self._store.ids().tolist()
            else:
                self._refresh()
                ids = self._passing_ids(where).tolist()
            self._store.remove(ids)
        self._purge(ids)
        return len(ids)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Start a change of rows; a gallery of the former format gets its digests first."""
        with self._store.writing():
            if not self._store.is_sealed:
                state = self._store.state()
                digest = _digest_of(self._file(state.generation)) if state.last_id else None
                self._store.seal(digest or b"")
            yield

    def _purge(self, ids: Sequence[int]) -> None:
        """Remove deleted rows from the disk: from the index and from SQLite's write-ahead log."""
        if not ids:
            return
        try:
            self._reindex(1, wait=True)
        except (OSError, RuntimeError, UserError):
            self._forget_index()  # searches are slower until it is rebuilt
        with self._lock:
            state, dead = self._store.state(), self._store.dead()
            if len(dead) and state.last_id:  # without FAISS the index cannot be rewritten
                self._forget_index()
            self._store.scrub()

    def _forget_index(self) -> None:
        with self._lock:
            state = self._store.state()
            self._announce(State(state.generation + 1, 0, 0, 0), self._store.dead())

    def _known(self, keys: list[str]) -> set[str]:
        with self._lock:
            self._check_structure()
            return set(self._store.ids_of(keys))

    def _lookup(self, keys: list[str]) -> dict[str, Candidate]:
        with self._lock:
            self._check_structure()
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
        """Return which ids of the index count, as bool; None if all do."""
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
            while len(self._passing) >= _FILTERS:  # drop the oldest
                del self._passing[next(iter(self._passing))]
            self._facts.read(self._store)
            self._passing[where] = self._facts.passing(where)
        return self._passing[where]

    def _refresh(self) -> None:
        """Update the memory to the state of the file, which another process may have changed."""
        state = self._store.state()
        if state.version == self._state.version:
            return
        if not self._counted:
            self._store.check_counts()
            self._counted = True
        if state.generation != self._state.generation:
            self._open_index(state)
            self._facts.remove_buried(self._store)
        self._dead = self._store.dead()
        self._passing.clear()
        self._facts.remove(self._dead)
        after = int(self._tail_ids[-1]) if len(self._tail_ids) else self._covered
        ids, rows = [self._tail_ids], [self._tail]
        while True:
            more, vectors = self._store.vectors(after, _BEYOND, _ROWS)
            if not len(more):
                break
            ids.append(more)
            rows.append(vectors)
            after = int(more[-1])
        if len(ids) > 1:
            self._tail_ids, self._tail = np.concatenate(ids), np.concatenate(rows)
        self._state = state  # last, so that a failed read is tried again

    def _open_index(self, state: State) -> None:
        self._index, self._covered = None, 0
        self._tail_ids, self._tail = _NOTHING, np.empty((0, self.info.size), np.float32)
        if state.last_id and faiss():
            # A missing or broken index is not used; another process may just have replaced it.
            self._index = self._verified_index(state)
            self._covered = 0 if self._index is None else state.last_id

    def _verified_file(self, state: State) -> Path | None:
        """Return the index's file; None if it is missing or its bytes have changed."""
        path = self._file(state.generation)
        digest = _digest_of(path)
        return path if digest is not None and digest == (state.index_digest or digest) else None

    def _verified_index(self, state: State, change: bool = False) -> VectorIndex | None:
        path = self._verified_file(state)
        if path is None:
            return None
        try:
            return VectorIndex.open(path, self.info.size, state.last_id, change)
        except RuntimeError:
            return None

    def _file(self, generation: int) -> Path:
        return self._folder / f"index-{generation}.faiss"

    def _reindex(self, least: int, wait: bool = False) -> None:
        """Bring rows into the index if at least `least` are missing, or were deleted but are in it."""
        if self._read_only or not faiss():
            return
        # One process at a time; another will do it later.
        with file_lock(self._folder / "index.lock", wait) as mine:
            if not mine:
                return
            self._remove_temporary()
            with self._lock:
                state, upto, dead = self._store.state(), self._store.last_id(), self._store.dead()
                missing, number = self._store.count(state.last_id), self._store.count()
            broken = state.last_id > 0 and self._verified_file(state) is None
            if max(missing, len(dead)) < least and not broken:
                return
            if number < _FEWEST:
                if len(dead) or broken:  # so few need no index, but ids of deleted rows would pile up
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
                digest = _digest_of(temporary) or b""
            self._announce(State(generation, upto, trained, 0, digest), dead)

    def _announce(self, state: State, buried: np.ndarray) -> None:
        """Record another index, or none, for all processes; `buried` are dead rows that it lacks."""
        with self._lock:
            with self._writing():
                self._store.set_index(state, buried.tolist())
            self._refresh()
        for former in self._folder.glob("index-*.faiss"):
            if former != self._file(state.generation):
                former.unlink(missing_ok=True)

    def _remove_temporary(self) -> None:
        """Remove what a killed process left of an index; call it while holding the lock."""
        for left in self._folder.glob(".index-*.tmp*"):
            left.unlink(missing_ok=True)

    def _extended(self, state: State, dead: np.ndarray, number: int) -> VectorIndex | None:
        """Return the present index without deleted rows; None if a new one is due."""
        if not state.last_id or number > _GROWTH * state.trained:
            return None
        index = self._verified_index(state, change=True)
        if index is not None:
            index.remove(dead)
        return index

    def _trained(self, number: int) -> VectorIndex:
        with self._lock:
            ids = self._store.ids()
            chosen = np.random.default_rng(0).choice(ids, min(len(ids), sample_size(number)), replace=False)
            sample = self._store.sample(np.sort(chosen))
        return VectorIndex.train(sample, number)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest of `(N,)` scores, any order."""
    return np.argpartition(scores, -count)[-count:] if count < len(scores) else np.arange(len(scores))


class _Facts:
    """Cameras, times and tags of all entries, read once and checked against their digests.

    SQLite's own indexes would be faster at first. But a changed byte in them, or in a row, would silently
    leave entries out.
    """

    def __init__(self) -> None:
        self._last = 0
        self._ids, self._cameras, self._times = _NOTHING, _NOTHING, np.empty(0)
        self._tagged: dict[str, np.ndarray] = {}

    def read(self, store: SqliteStore) -> None:
        """Read the entries that were added since the last call."""
        ids, cameras, times = [self._ids], [self._cameras], [self._times]
        tagged: dict[str, list[int]] = {}
        while rows := store.facts(self._last):
            ids.append(np.array([row.id for row in rows], np.int64))
            cameras.append(np.array([row.camera for row in rows], np.int64))
            known = [np.nan if row.time is None else row.time for row in rows]
            times.append(np.array(known, np.float64))
            for row in rows:
                for tag in row.tags:
                    tagged.setdefault(tag, []).append(row.id)
            self._last = rows[-1].id
        if len(ids) > 1:
            self._ids, self._cameras = np.concatenate(ids), np.concatenate(cameras)
            self._times = np.concatenate(times)
            for tag, more in tagged.items():
                self._tagged[tag] = np.concatenate([self._tagged.get(tag, _NOTHING), more])

    def remove(self, dead: np.ndarray) -> None:
        """Drop the ids in `dead`."""
        self._keep(~np.isin(self._ids, dead))

    def remove_buried(self, store: SqliteStore) -> None:
        """Drop the ids that are no longer in the store."""
        if len(self._ids):
            self._keep(np.isin(self._ids, store.ids()))

    def _keep(self, kept: np.ndarray) -> None:
        if not kept.all():
            self._ids, self._cameras, self._times = self._ids[kept], self._cameras[kept], self._times[kept]

    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""
        return np.unique(self._cameras[self._cameras >= 0]).tolist()

    def tags(self) -> list[str]:
        """Return all tags of present entries, sorted."""
        return sorted(tag for tag, ids in self._tagged.items() if self._has_any(ids))

    def _has_any(self, ids: np.ndarray) -> bool:
        places = np.searchsorted(self._ids, ids).clip(max=max(len(self._ids) - 1, 0))
        return len(self._ids) > 0 and bool((self._ids[places] == ids).any())

    def passing(self, where: Filter) -> np.ndarray:
        """Return the ids of the entries that pass, ascending int64."""
        passes = np.ones(len(self._ids), bool)
        if where.cameras:
            passes &= np.isin(self._cameras, where.cameras)
        if where.excluded_cameras:
            passes &= ~np.isin(self._cameras, where.excluded_cameras)
        # Comparisons with NaN, an unknown time, are false.
        if where.since is not None:
            passes &= self._times >= where.since
        if where.until is not None:
            passes &= self._times < where.until
        for tag in where.tags:
            passes &= np.isin(self._ids, self._tagged.get(tag, _NOTHING))
        return self._ids[passes]


def _digest_of(path: Path) -> bytes | None:
    """Return the BLAKE2b digest of a plain file, or None without one; a gigabyte takes a second."""
    digest = hashlib.blake2b()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
