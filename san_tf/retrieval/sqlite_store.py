"""Entries and embeddings in SQLite: what a gallery on this machine holds, and nothing of it can be lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.gallery import Candidate, GalleryInfo

_FORMAT = 1
# Seconds to wait for another process that writes.
_PATIENCE = 30.0
# Values in one statement; SQLite takes some thousands.
_AT_ONCE = 500
# Embeddings have a table of their own, so that filters run over few pages; `dead` are the ids of rows that
# are gone but may still be in an index or in somebody's memory. Ids are never used twice.
_SCHEMA = """
CREATE TABLE state (one INTEGER PRIMARY KEY, format INTEGER, info TEXT, generation INTEGER, last_id INTEGER,
    trained INTEGER, version INTEGER);
CREATE TABLE entries (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, image TEXT NOT NULL,
    camera INTEGER NOT NULL, time REAL, pid INTEGER, tags TEXT NOT NULL);
CREATE INDEX by_camera ON entries (camera, time);
CREATE INDEX by_time ON entries (time);
CREATE TABLE vectors (id INTEGER PRIMARY KEY, embedding BLOB NOT NULL);
CREATE TABLE tags (tag TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (tag, id)) WITHOUT ROWID;
CREATE INDEX tags_by_id ON tags (id);
CREATE TABLE dead (id INTEGER PRIMARY KEY);
"""
_COLUMNS = "id, key, image, camera, time, pid, tags"


class State(NamedTuple):
    """Which index belongs to the rows.

    Attributes:
        generation: of the index file; 0 where there is none.
        last_id: rows up to this one are in it.
        trained: how many rows there were when its cells were chosen.
        version: rises with every change of anything.
    """

    generation: int
    last_id: int
    trained: int
    version: int


class SqliteStore:
    """The tables of a gallery. Callers see to it that one thread at a time uses it.

    Args:
        path: of the SQLite file.
        read_only: refuse changes.

    Raises:
        UserError: the file cannot be opened, is damaged or of another version of this package.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self._path = path
        with _errors_told(self._path.parent):
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
                uri=True,
                timeout=_PATIENCE,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection.execute("PRAGMA synchronous = FULL")  # acknowledged means on the disk
            found, text = self._connection.execute("SELECT format, info FROM state").fetchone()
        if found != _FORMAT:
            raise UserError(
                f"The gallery {path.parent} has format {found}, and this version of san_tf reads {_FORMAT}; "
                "use the version it was made with."
            )
        self.info = GalleryInfo(**json.loads(text))

    @staticmethod
    def create(path: Path, info: GalleryInfo, folder: Path) -> None:
        """Make the file of an empty gallery, that will be in `folder`."""
        with (
            _errors_told(folder),
            contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection,
        ):
            # With pages of the usual 4 kB, an embedding of 512 numbers would fill one by itself.
            connection.execute("PRAGMA page_size = 16384")
            connection.execute("PRAGMA journal_mode = WAL")  # who searches need not wait for who adds
            connection.executescript(_SCHEMA)
            text = json.dumps(asdict(info))
            connection.execute("INSERT INTO state VALUES (1, ?, ?, 0, 0, 0, 0)", (_FORMAT, text))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Change several things: all of them are on disk when the block ends, or none.

        Raises:
            UserError: the disk is full, the file cannot be written, or another process writes for too long.
        """
        with _errors_told(self._path.parent):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("UPDATE state SET version = version + 1")
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(
                    sqlite3.Error
                ):  # SQLite has rolled back by itself if the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def state(self) -> State:
        """Return which index belongs to the rows."""
        columns = ", ".join(State._fields)
        return State(*self._rows(f"SELECT {columns} FROM state")[0])

    def set_index(self, generation: int, last_id: int, trained: int, buried: Sequence[int]) -> None:
        """Note another index, that does not have the dead rows `buried`; within `writing`."""
        self._connection.execute(
            "UPDATE state SET generation = ?, last_id = ?, trained = ?", (generation, last_id, trained)
        )
        self._connection.executemany("DELETE FROM dead WHERE id = ?", ((number,) for number in buried))

    def insert(self, rows: np.ndarray, entries: Sequence[Entry]) -> None:
        """Add entries of keys that are not there; within `writing`."""
        execute = self._connection.execute
        for row, entry in zip(rows, entries, strict=True):
            values = (entry.key, entry.image, entry.camera, entry.time, entry.pid, json.dumps(entry.tags))
            number = execute(
                "INSERT INTO entries (key, image, camera, time, pid, tags) VALUES (?, ?, ?, ?, ?, ?)", values
            ).lastrowid
            execute("INSERT INTO vectors VALUES (?, ?)", (number, row.tobytes()))
            for tag in entry.tags:
                execute("INSERT INTO tags VALUES (?, ?)", (tag, number))

    def remove(self, ids: Sequence[int]) -> None:
        """Remove rows; within `writing`."""
        for table in ("entries", "vectors", "tags"):
            self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", ((number,) for number in ids))
        self._connection.executemany("INSERT INTO dead VALUES (?)", ((number,) for number in ids))

    def ids_of(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the ids of those of the keys that are there."""
        return {
            key: number
            for some in _portions(keys)
            for key, number in self._rows(f"SELECT key, id FROM entries WHERE key IN ({_marks(some)})", some)
        }

    def passing(self, where: Filter) -> np.ndarray:
        """Return the ids of the entries that pass, ascending int64."""
        condition, values = _condition(where)
        return self._numbers(f"SELECT id FROM entries {condition} ORDER BY id", values)

    def dead(self) -> np.ndarray:
        """Return the ids of rows that are gone, ascending int64."""
        return self._numbers("SELECT id FROM dead ORDER BY id")

    def last_id(self) -> int:
        """Return the largest id."""
        return int(self._rows("SELECT coalesce(max(id), 0) FROM entries")[0][0])

    def count(self, after: int = 0) -> int:
        """Return how many entries have an id above `after`."""
        return int(self._rows("SELECT count(*) FROM entries WHERE id > ?", (after,))[0][0])

    def vectors(self, after: int, upto: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `(n,)` int64 ids in (after, upto], ascending, and their `(n, D)` float32 rows."""
        found = self._rows(
            "SELECT id, embedding FROM vectors WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
            (after, upto, limit),
        )
        return np.array([number for number, _ in found], np.int64), self._matrix([row for _, row in found])

    def sample(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of some ids, `(n, D)` float32, in any order."""
        found: list[bytes] = []
        for some in _portions(ids.tolist()):
            text = f"SELECT embedding FROM vectors WHERE id IN ({_marks(some)})"
            found += [row for (row,) in self._rows(text, some)]
        return self._matrix(found)

    def candidates(self, ids: Iterable[int]) -> dict[int, Candidate]:
        """Return what there is under ids; those that are gone are left out."""
        joined = f"SELECT {_COLUMNS}, embedding FROM entries JOIN vectors USING (id)"
        return {
            number: Candidate(_entry(values), np.frombuffer(row, np.float32))
            for some in _portions(ids)
            for number, *values, row in self._rows(f"{joined} WHERE id IN ({_marks(some)})", some)
        }

    def entries(self, where: Filter, start: int, limit: int | None) -> list[Entry]:
        """Return entries in the order of their keys."""
        condition, values = _condition(where)
        text = f"SELECT {_COLUMNS} FROM entries {condition} ORDER BY key LIMIT ? OFFSET ?"
        return [_entry(row[1:]) for row in self._rows(text, (*values, -1 if limit is None else limit, start))]

    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""
        return self._numbers("SELECT DISTINCT camera FROM entries WHERE camera >= 0 ORDER BY camera").tolist()

    def tags(self) -> list[str]:
        """Return all tags, sorted."""
        return [tag for (tag,) in self._rows("SELECT DISTINCT tag FROM tags ORDER BY tag")]

    def _rows(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with _errors_told(self._path.parent):
            return self._connection.execute(text, values).fetchall()

    def _numbers(self, text: str, values: Sequence[Any] = ()) -> np.ndarray:
        with _errors_told(self._path.parent):
            return np.fromiter((number for (number,) in self._connection.execute(text, values)), np.int64)

    def _matrix(self, rows: Sequence[bytes]) -> np.ndarray:
        return np.frombuffer(b"".join(rows), np.float32).reshape(-1, self.info.size)


@contextlib.contextmanager
def _errors_told(folder: Path) -> Iterator[None]:
    """Turn what SQLite raises into a sentence that names the gallery."""
    place = f"The gallery {folder}"
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        if "full" in reason:
            told = f"{place} cannot grow, the disk is full; what was in it still is, so free some space."
        elif "locked" in reason:
            told = f"{place} is being written by another process for {_PATIENCE:.0f} s; try again later."
        elif "readonly" in reason or "unable to open" in reason:
            told = f"{place} cannot be opened or written ({reason}); check its permissions."
        elif "I/O" in reason:
            told = f"{place} cannot be read or written ({reason}); check the disk."
        else:
            told = f"{place} is damaged or none of this package ({reason}); take a backup of it."
        raise UserError(told) from error


def _entry(values: Sequence[Any]) -> Entry:
    key, image, camera, time, pid, tags = values
    return Entry(key, image, camera, time, pid, tuple(json.loads(tags)))


def _condition(where: Filter) -> tuple[str, list[Any]]:
    """The WHERE clause of a filter, and its values."""
    parts: list[str] = []
    values: list[Any] = []
    for word, cameras in (("IN", where.cameras), ("NOT IN", where.excluded_cameras)):
        if cameras:
            parts.append(f"camera {word} ({_marks(cameras)})")
            values += [int(camera) for camera in cameras]
    for sign, time in ((">=", where.since), ("<", where.until)):
        if time is not None:
            parts.append(f"time {sign} ?")
            values.append(float(time))
    for tag in where.tags:
        parts.append("id IN (SELECT id FROM tags WHERE tag = ?)")
        values.append(tag)
    return f"WHERE {' AND '.join(parts)}" if parts else "", values


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _portions(values: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(values)
    while some := list(itertools.islice(left, _AT_ONCE)):
        yield some
