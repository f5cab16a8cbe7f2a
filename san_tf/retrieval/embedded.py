"""Gallery on this machine: a folder with a SQLite file and a FAISS index built from it.

SQLite holds the data: an `add` is on disk when it returns, and several processes may search while one adds.
The index can always be rebuilt. Rows newer than the index are compared one by one, until there are many of
them and the index is extended.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from san_tf.atomic import atomic_file, atomic_folder
from san_tf.errors import UserError
from san_tf.file_lock import file_lock
from san_tf.retrieval.entries import ASKING, EVERYTHING, Entry, Filter
from san_tf.retrieval.gallery import (
    Candidate,
    Deleted,
    Gallery,
    GalleryInfo,
    Source,
    gallery_pictures,
    refuse_deleted,
    similarities,
)
from san_tf.retrieval.image_files import NoPictureError
from san_tf.retrieval.sqlite_store import SqliteStore, State
from san_tf.retrieval.vector_index import VectorIndex, faiss, sample_size

STORE, AUDIT = "gallery.sqlite", "audit.jsonl"
# Rows that are compared one by one: an index pays above the first number, memory allows at most the second.
_FEWEST, _MOST = 10_000, 100_000
# The index is trained anew when the gallery has grown by this factor.
_GROWTH = 4
# Rows read in one step, and queries answered in one step.
_ROWS, _QUERIES = 10_000, 64
# Entries that a line of the audit log names at most.
_NAMED = 200
# Filters whose passing ids are kept in memory.
_FILTERS = 8
# An id above all that there can be.
_BEYOND = 2**62
_NOTHING = np.empty(0, np.int64)
# Stands for an unknown identity; -1 is junk.
_UNKNOWN = -2


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


class _ChangedError(Exception):
    """The gallery was changed meanwhile."""


class EmbeddedGallery(Gallery):
    """A gallery in a folder on this machine.

    Up to 10,000 entries every search is exact and needs no FAISS. Beyond that, an index finds more candidates
    than are asked for, and these are measured exactly. Without FAISS all embeddings are held in memory.

    All answers are checked against digests: the index when it is opened, rows when they are read, all entries
    at the first search or list with a filter, and SQLite's indexes before the first look-up of keys. Damaged
    rows raise an error. A damaged or missing index only makes searches slower; writing the gallery rebuilds
    it. Deleted entries leave the disk before `delete` returns: database and index are rewritten, which takes
    some ten seconds for a million entries.

    Searches and deletions are noted in `audit.jsonl`, with the time and the user. Keys and queries are
    hashes, from which neither can be had back. A search by a user who may not write that file is answered:
    `unlogged` then says why it is missing there.

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
        self._encoder = (self.info.size, self.info.fingerprint)
        self._state = State(-1, 0, 0, -1)
        self._index: VectorIndex | None = None
        self._covered = 0  # rows up to this id are in the index
        self._dead = _NOTHING
        self._tail_ids, self._tail = _NOTHING, np.empty((0, self.info.size), np.float32)
        self._passing: dict[Filter, np.ndarray] = {}
        self._facts = _Facts()
        self.unlogged = ""
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

    @property
    def version(self) -> int:
        """Number that rises with every change of the gallery."""
        with self._lock:
            return self._store.state().version

    @property
    def noted(self) -> GalleryInfo:
        """The gallery's own record, whether its paths may be used or not."""
        with self._lock:
            self._store.renew_info()
            return self._store.info

    def take_folders(self, info: GalleryInfo) -> None:
        """Note the folders and the names of cameras of another record."""
        self._change_info(
            lambda own: replace(own, images=info.images, folders=info.folders, cameras=info.cameras)
        )

    def bind(self, info: GalleryInfo) -> None:
        """Take another record of encoder and photographs, if the gallery has never held an entry."""
        self._refuse_if_read_only()
        with self._lock, self._writing():
            if self._store.was_used() or self._store.info == info:
                return
            self._store.set_info(info)
        self.info = info
        self._encoder = (info.size, info.fingerprint)

    def upgrade(self) -> None:
        """Give a gallery of a former format what it lacks."""
        self._refuse_if_read_only()
        if not self._store.is_recorded:
            with self._lock, self._writing():
                pass

    def deletion_record(self) -> tuple[bytes, list[tuple[bytes, bytes, float]]]:
        """Return the secret of the gallery's hashes, and the hashes of what was deleted for good."""
        with self._lock:
            return self._store.secret(), self._store.buried_rows()

    def set_secret(self, secret: bytes) -> None:
        """Take the secret of another gallery, while this one is empty and remembers no deletions."""
        self._refuse_if_read_only()
        with self._lock, self._writing():
            self._store.set_buried([], secret)

    def replace_all(self, other: EmbeddedGallery, version: int | None = None) -> int | None:
        """Replace all entries and the record of the encoder by those of another gallery; all or nothing.

        Other processes that search this gallery go on with the new entries. What was deleted from this
        gallery for good is not taken.

        Args:
            other: the other gallery; its hashes have the same secret, or it has none.
            version: do nothing if this gallery's version is another one.

        Returns:
            The number of entries that were not taken, because they were deleted here; None if nothing was
            done.

        Raises:
            UserError: one of the galleries is damaged, or the disk is full; this one is unchanged.
        """
        self._refuse_if_read_only()
        left_out, ids = 0, []
        try:
            with self._lock, self._writing():
                state = self._store.state()
                if version is not None and state.version != version:
                    raise _ChangedError
                ids = self._store.ids().tolist()
                self._store.remove(ids)
                self._store.set_info(other.noted)
                start = 0
                while entries := other.entries(start=start, limit=_ROWS):
                    start += len(entries)
                    found, noted = (
                        other.lookup([e.key for e in entries]),
                        other.sources([e.key for e in entries]),
                    )
                    sources = [noted.get(entry.key, Source()) for entry in entries]
                    deleted = self._store.buried([e.key for e in entries], [s.content for s in sources])
                    kept = [
                        (entry, source)
                        for entry, source in zip(entries, sources, strict=True)
                        if entry.key not in deleted.keys and source.content not in deleted.contents
                    ]
                    left_out += len(entries) - len(kept)
                    if kept:
                        rows = np.stack([found[entry.key].embedding for entry, _ in kept])
                        self._store.insert(rows, *map(list, zip(*kept, strict=True)))
                self._store.set_index(State(state.generation + 1, 0, 0, 0), self._store.dead().tolist())
        except _ChangedError:
            return None
        with self._lock:
            self.info = self._store.info
            self._encoder = (self.info.size, self.info.fingerprint)
            self._facts, self._facts_version = _Facts(), -1
            self._state = State(-1, 0, 0, -1)
        for former in self._folder.glob("index-*.faiss"):
            former.unlink(missing_ok=True)
        self._purge(ids)
        self.optimize()
        return left_out

    def copy_to(self, folder: Path) -> None:
        """Write a copy of the gallery into a folder, without what was deleted and without the index.

        Other processes may read and write the gallery meanwhile.

        Raises:
            UserError: the gallery is damaged, or the disk is full.
        """
        with self._lock:
            self._store.check_counts()
            self._store.copy_to(folder / STORE)
        copy = SqliteStore(folder / STORE)
        try:
            with copy.writing():
                copy.set_index(State(copy.state().generation + 1, 0, 0, 0), copy.dead().tolist())
            copy.scrub()
        finally:
            copy.close()
        if (self._folder / AUDIT).is_file():
            shutil.copy2(self._folder / AUDIT, folder / AUDIT)

    @property
    def is_recorded(self) -> bool:
        """Whether the gallery knows its files and deletions; one of a former format does not."""
        return self._store.is_recorded

    def damaged(self) -> list[str]:
        """Return the keys of entries whose bytes have changed; it reads everything."""
        with self._lock:
            found = self._store.damaged_rows()
        return sorted(key or f"entry number {number}" for number, key in found.items())

    def check(self, drop: bool = False) -> Checked:
        """Check everything in the gallery against its digests, and repair what can be rebuilt.

        The index, SQLite's own indexes and the table of tags are rebuilt where they are damaged. A gallery of
        the former format gets digests of its present content. Files left by killed processes are removed.

        Args:
            drop: delete damaged entries, so that they can be added again, and accept a damaged record of
                deletions as it is.

        Returns:
            The number of entries, the damaged ones, and what was rebuilt.

        Raises:
            UserError: SQLite's file is damaged beyond repair, or the disk is full.
        """
        self._refuse_if_read_only()
        made: list[str] = []
        with self._lock:
            try:
                self._store.buried_rows()
            except UserError:
                if not drop:
                    raise
                with self._store.writing():
                    self._store.accept_buried()
                made.append("record of deletions")
            damaged = self._store.damaged_rows()
            if damaged and drop:
                with self._store.writing():
                    self._store.remove(list(damaged))
            if drop or not damaged:
                self._make_anew(made)
        if drop or not damaged:
            self.optimize()
            self._store.compact()
        keys = sorted(key or f"entry number {number}" for number, key in damaged.items())
        return Checked(len(self), keys, made)

    def _make_anew(self, made: list[str]) -> None:
        """Rebuild what is missing or damaged and follows from the entries; list it in `made`."""
        former, unrecorded = not self._store.is_sealed, not self._store.is_recorded
        if unrecorded:
            with self._writing():
                pass  # the entries get what they lack
        if former:
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

    def pids(self) -> list[int]:
        """Return all known identities, ascending."""
        with self._lock:
            return self._facts_now().pids()

    def deletions(self) -> int:
        """Return the number of deletions for good that are remembered.

        Raises:
            UserError: the record of deletions is damaged.
        """
        with self._lock:
            return len(self._store.buried_rows())

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
            self._renew_names()
            self._facts_version = version
        return self._facts

    def keys_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield keys and images of the entries whose keys start with `prefix`."""
        after = ""
        while True:
            with self._lock:
                self._check_structure()
                found = self._store.keys_below(prefix, after)
            if not found:
                return
            yield from found
            after = found[-1][0]

    def _change_info(self, change: Callable[[GalleryInfo], GalleryInfo]) -> None:
        self._refuse_if_read_only()
        with self._lock, self._writing():
            self._store.renew_info()
            self._store.set_info(change(self._store.info))
        self.info = self._store.info

    def _check_encoder(self) -> None:
        """Refuse to go on if another process has moved the gallery to another encoder."""
        self._store.renew_info()
        if (self._store.info.size, self._store.info.fingerprint) != self._encoder:
            raise UserError(
                f"The gallery {self.name} was moved to another encoder since it was opened; open it again."
            )

    def _renew_names(self) -> None:
        """Learn the names of cameras that another process has added."""
        self._check_encoder()
        if self._store.info.cameras != self.info.cameras:
            self.info = replace(self.info, cameras=self._store.info.cameras)

    def _add(self, rows: np.ndarray, entries: list[Entry], sources: list[Source]) -> None:
        with self._lock, self._writing():
            self._check_structure()
            refuse_deleted(self, entries, sources)
            keys = [entry.key for entry in entries]
            former = self._store.sources(keys)
            for number, (key, source) in enumerate(zip(keys, sources, strict=True)):
                # The same picture is as old as before.
                if key in former and source.added is None and source.content == former[key].content:
                    sources[number] = source._replace(added=former[key].added)
            self._store.remove(list(self._store.ids_of(keys).values()))
            self._store.insert(rows, entries, sources)
        # The entries are safe; an index that could not be extended only makes searches slower.
        with contextlib.suppress(OSError, RuntimeError, UserError):
            self._reindex(min(max(_FEWEST, self._indexed // 4), _MOST))

    def _delete(self, keys: list[str], for_good: bool) -> int:
        with self._lock, self._writing():
            self._check_structure()
            ids = list(self._store.ids_of(keys).values())
            gone = self._remove(ids, for_good)
        self._note("delete", gone, {"for_good": for_good})
        self._purge(ids)
        return len(ids)

    def _delete_where(self, where: Filter, for_good: bool) -> int:
        with self._lock, self._writing():
            if where == EVERYTHING:
                ids = self._store.ids().tolist()
            else:
                self._refresh()
                ids = self._passing_ids(where).tolist()
            gone = self._remove(ids, for_good)
        self._note("delete", gone, {"filter": where.facts(), "for_good": for_good})
        self._purge(ids)
        return len(ids)

    def expired(self, before: float) -> list[Entry]:
        """Return the entries that `expire` would delete, in the order of their keys."""
        with self._lock:
            self._check_structure()
            found = self._store.candidates(self._store.expired(before).tolist())
        return sorted((candidate.entry for candidate in found.values()), key=lambda entry: entry.key)

    def expire(self, before: float) -> int:
        """Delete what was photographed or added before a time; see `Gallery.expire`."""
        self._refuse_if_read_only()
        with self._lock, self._writing():
            self._check_structure()
            ids = self._store.expired(before).tolist()
            gone = self._remove(ids, True)
        if ids:
            self._note("delete", gone, {"before": before, "for_good": True})
        self._purge(ids)
        return len(ids)

    def _remove(self, ids: Sequence[int], for_good: bool) -> list[str]:
        """Remove rows within a transaction, and remember their keys and files; return the keys."""
        entries = [candidate.entry for candidate in self._store.candidates(ids).values()] if for_good else []
        keys = [entry.key for entry in entries] if for_good else self._store.keys_of(ids)
        if for_good:
            contents = {key: source.content for key, source in self._store.sources(keys).items()}
            folders = gallery_pictures(self.info)
            for entry in entries:
                if not contents.get(entry.key) and entry.image:
                    # Added before files were known; the file itself may still be there.
                    with contextlib.suppress(NoPictureError):
                        contents[entry.key] = self._store.hash_of(folders.read(entry.image))
            self._store.bury({key: contents.get(key, b"") for key in keys})
        self._store.remove(ids)
        return keys

    def lift(self, keys: Sequence[str] = (), contents: Sequence[bytes] = ()) -> int:
        """Allow keys and files that were deleted for good to be added again; see `Gallery.lift`."""
        self._refuse_if_read_only()
        with self._lock, self._writing():
            number = self._store.lift(keys, contents)
        if number:
            self._note("lift", keys, {"deletions": number})
        return number

    def deleted(self, keys: Sequence[str] = (), contents: Sequence[bytes] = ()) -> Deleted:
        """Return which of the keys, and which of the hashes of files, were deleted for good."""
        with self._lock:
            return self._store.buried(keys, contents)

    def hash_of(self, content: bytes) -> bytes:
        """Return the hash by which this gallery recognises a file's bytes."""
        with self._lock:
            if not self._store.is_recorded and not self._read_only:
                with self._writing():
                    pass  # a gallery of a former format gets its secret
            return self._store.hash_of(content)

    def sources(self, keys: Sequence[str]) -> dict[str, Source]:
        """Return what is known of the files of entries, by key; missing keys are left out."""
        with self._lock:
            return self._store.sources(keys)

    def set_sources(self, sources: Mapping[str, Source]) -> None:
        """Note what is known of the files of entries, by key; the times of addition stay."""
        self._refuse_if_read_only()
        with self._lock, self._writing():
            self._store.set_sources(sources)

    def _note(self, action: str, keys: Sequence[str], facts: Mapping[str, object]) -> None:
        asking = ASKING.get()
        if asking is None:
            return
        with self._lock:
            recorded = self._store.is_recorded
            names = [self._store.name_of(key).hex() for key in keys[:_NAMED]] if recorded else []
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "user": _user(),
            **({"token": asking} if asking else {}),
            "action": action,
            "entries": len(keys),
            "keys": names,
            **facts,
        }
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._folder / AUDIT, flags, 0o666)
            try:
                os.write(descriptor, f"{json.dumps(line)}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            self.unlogged = f"The audit log of {self.name} cannot be written ({error.strerror})."

    def _hash_or_none(self, content: bytes) -> str | None:
        with self._lock:
            return self._store.hash_of(content).hex() if self._store.is_recorded else None

    def audit(self, keys: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Yield the lines of the audit log, oldest first.

        Args:
            keys: only lines that name one of these entries, which may be deleted since; empty for all lines.

        Raises:
            UserError: the log cannot be read, or a line of it is damaged.
        """
        with self._lock:
            wanted = {self._store.name_of(key).hex() for key in keys}
        path = self._folder / AUDIT
        try:
            with path.open(encoding="utf-8") as file:
                for number, text in enumerate(file, 1):
                    line = json.loads(text)
                    if not isinstance(line, dict) or not isinstance(line.get("keys"), list):
                        raise ValueError(f"line {number} is not one of this package")
                    if not wanted or wanted & set(line["keys"]):
                        yield line
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); move it away, and a new one is begun."
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Start a change of rows; a gallery of a former format gets what it lacks first."""
        with self._store.writing():
            if not self._store.is_recorded:
                state = self._store.state()
                former = state.last_id and not self._store.is_sealed
                digest = _digest_of(self._file(state.generation)) if former else None
                self._store.upgrade(digest or b"")
            self._check_encoder()
            yield

    def _purge(self, ids: Sequence[int]) -> None:
        """Remove deleted rows from the disk: from the index, from SQLite's file and its write-ahead log."""
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
            try:
                self._store.compact()
            except UserError as error:
                raise UserError(
                    f"{len(ids):,} entries of {self.name} are deleted, but traces of them may be left in its "
                    f"file until `san-tf gallery check {self.name}` has rewritten it: {error}"
                ) from error

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
            found = [ids[_largest(scores, count)] for scores in similarities(block, tail)]
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
        self._renew_names()
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
        self._pids = _NOTHING
        self._tagged: dict[str, np.ndarray] = {}

    def read(self, store: SqliteStore) -> None:
        """Read the entries that were added since the last call."""
        ids, cameras, times, pids = [self._ids], [self._cameras], [self._times], [self._pids]
        tagged: dict[str, list[int]] = {}
        while rows := store.facts(self._last):
            ids.append(np.array([row.id for row in rows], np.int64))
            cameras.append(np.array([row.camera for row in rows], np.int64))
            known = [np.nan if row.time is None else row.time for row in rows]
            times.append(np.array(known, np.float64))
            pids.append(np.array([_UNKNOWN if row.pid is None else row.pid for row in rows], np.int64))
            for row in rows:
                for tag in row.tags:
                    tagged.setdefault(tag, []).append(row.id)
            self._last = rows[-1].id
        if len(ids) > 1:
            self._ids, self._cameras = np.concatenate(ids), np.concatenate(cameras)
            self._times, self._pids = np.concatenate(times), np.concatenate(pids)
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
            self._pids = self._pids[kept]

    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""
        return np.unique(self._cameras[self._cameras >= 0]).tolist()

    def tags(self) -> list[str]:
        """Return all tags of present entries, sorted."""
        return sorted(tag for tag, ids in self._tagged.items() if self._has_any(ids))

    def pids(self) -> list[int]:
        """Return all known identities, ascending."""
        return np.unique(self._pids[self._pids != _UNKNOWN]).tolist()

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
        if where.pids:
            passes &= np.isin(self._pids, where.pids)
        # Comparisons with NaN, an unknown time, are false.
        if where.since is not None:
            passes &= self._times >= where.since
        if where.until is not None:
            passes &= self._times < where.until
        for tag in where.tags:
            passes &= np.isin(self._ids, self._tagged.get(tag, _NOTHING))
        return self._ids[passes]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may know no names
        return str(os.getuid())


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
