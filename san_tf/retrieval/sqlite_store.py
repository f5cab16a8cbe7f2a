"""Stores the entries and embeddings of a gallery in SQLite, with digests.

Each row has a digest of its entry and one of its embedding, and so has the record of the whole gallery. All
answers are checked against them: changed bytes on the disk raise an error. Digests guard against decay and
accidents, not against attackers: who can write the file can also renew the digests.

What was deleted for good leaves a row in `buried`: keyed hashes of its key and of its file's bytes, from
which neither can be had back. The same file or key can then be recognised, and is not added again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import secrets
import sqlite3
import stat
import time as clock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.gallery import Candidate, Deleted, GalleryInfo, Source

# Format 1 had no digests, and format 2 no records of files and deletions. Galleries of both can be read, and
# get what they lack when they are written.
_FORMAT, _SEALED, _FORMER = 3, 2, 1
# Seconds to wait for another process that writes.
_PATIENCE = 30.0
# Values in one statement; SQLite allows some thousands.
_AT_ONCE = 500
# Rows read in one step.
_ROWS = 10_000
# Bytes of a row's digest, of half the record's digest, and of the largest value read: no entry is larger.
_DIGEST, _HALF, _LARGEST = 8, 32, 2**24
# Bytes of the key of all hashes, and of a hash of a key or a file.
_SALT, _HASH = 32, 16
# More ids than there will ever be, and few enough that one byte for each fits into memory.
_MOST_IDS = 2**33
# SQLite stores these texts, and a gallery is recognised by them: not even a blank may change.
# Embeddings have their own table, so that filters read few pages. `dead` holds the ids of deleted rows that
# may still be in an index or in the memory of a process. Ids are never reused.
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
# The one row of `seal`: number of entries, digest of the index, and digest of these values and of `state`.
_SEALS = (
    "CREATE TABLE digests (id INTEGER PRIMARY KEY, entry BLOB NOT NULL, embedding BLOB NOT NULL)",
    "CREATE TABLE seal (one INTEGER PRIMARY KEY, entries INTEGER, index_digest BLOB, digest BLOB)",
)
# `secret` has one row: the key of all hashes, and the digest of all rows of `buried`, folded by XOR.
_RECORDS = (
    "CREATE TABLE sources (id INTEGER PRIMARY KEY, added REAL NOT NULL, stamp TEXT NOT NULL, "
    "content BLOB NOT NULL)",
    "CREATE TABLE buried (name BLOB NOT NULL, content BLOB NOT NULL, time REAL NOT NULL, "
    "PRIMARY KEY (name, content)) WITHOUT ROWID",
    "CREATE INDEX buried_contents ON buried (content)",
    "CREATE TABLE secret (one INTEGER PRIMARY KEY, salt BLOB NOT NULL, fold BLOB NOT NULL, "
    "digest BLOB NOT NULL)",
)
_COLUMNS = "key, image, camera, time, pid, tags"
_NONE = type(None)
_BACKUP = "restore a backup of it, or make another one"
# SQLite's message about a damaged schema quotes it, and Python cannot decode every damaged byte.
_ERRORS = (sqlite3.Error, UnicodeDecodeError)


class State(NamedTuple):
    """The index that belongs to the rows.

    Attributes:
        generation: number of the index file; 0 where there is none.
        last_id: rows up to this id are in the index.
        trained: number of rows when the index was trained.
        version: rises with every change of the gallery.
        index_digest: digest of the index file; empty where unknown, in a gallery of the former format.
    """

    generation: int
    last_id: int
    trained: int
    version: int
    index_digest: bytes = b""


class Row(NamedTuple):
    """The part of an entry that filters need, checked against its digest."""

    id: int
    camera: int
    time: float | None
    pid: int | None
    tags: tuple[str, ...]


class SqliteStore:
    """The tables of a gallery; callers must use it from one thread at a time.

    The file may come from a stranger. So tables, indexes, triggers and views must be those of this package,
    values must have its types and sizes, and links are not followed.

    Args:
        path: path of the SQLite file.
        read_only: refuse changes; the folder need not be writable.
        mend: replace a damaged record of the index by one that says that the index is missing.

    Attributes:
        was_mended: whether that record was damaged.

    Raises:
        UserError: the file cannot be opened, is damaged, or is of another version of this package.
    """

    def __init__(self, path: Path, read_only: bool = False, mend: bool = False) -> None:
        self._path, self._read_only = path, read_only
        self._frozen: tuple[Any, ...] | None = None
        self._sealed = self._recorded = self.was_mended = False
        self._salt = b""
        _refuse_links(path.parent)
        self._connect()
        try:
            self._inode = os.stat(path).st_ino
            self._check_schema()
            if mend:
                self._mend()
            self.info = GalleryInfo.from_json(str(path.parent), self._state()[1])
        except (UserError, OSError) as error:
            self._connection.close()
            if isinstance(error, UserError):
                raise
            raise UserError(f"The gallery {path.parent} was removed while it was opened.") from error

    @staticmethod
    def create(path: Path, info: GalleryInfo, folder: Path) -> None:
        """Make the file of an empty gallery.

        Args:
            path: path of the file.
            info: record of the encoder and the photographs.
            folder: folder of the gallery, for messages.
        """
        with (
            _errors_told(folder),
            contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection,
        ):
            # With pages of the usual 4 kB, an embedding of 512 numbers would fill one by itself.
            connection.execute("PRAGMA page_size = 16384")
            connection.execute("PRAGMA journal_mode = WAL")  # searches need not wait for writes
            connection.executescript(_SCHEMA)
            for text in (*_SEALS, *_RECORDS):
                connection.execute(text)
            _make_secret(connection, secrets.token_bytes(_SALT))
            text = json.dumps(asdict(info))
            connection.execute("INSERT INTO state VALUES (1, ?, ?, 0, 0, 0, 0)", (_FORMAT, text))
            connection.execute("INSERT INTO seal VALUES (1, 0, x'', x'')")
            _renew_seal(connection)

    @property
    def is_sealed(self) -> bool:
        """Whether the gallery has digests, as of the last call of `state`."""
        return self._sealed

    @property
    def is_recorded(self) -> bool:
        """Whether the gallery has records of files and deletions, as of the last call of `state`."""
        return self._recorded

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Start a transaction: at the end of the block all changes are on disk, or none.

        Raises:
            UserError: the disk is full, the file cannot be written, or another process writes for too long.
        """
        with _errors_told(self._path.parent):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_place()
                self.state()  # another process may have added digests meanwhile
                yield
                self._connection.execute("UPDATE state SET version = version + 1")
                if self._sealed:
                    _renew_seal(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(*_ERRORS):  # SQLite rolls back by itself if the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def state(self) -> State:
        """Return the index that belongs to the rows.

        Raises:
            UserError: the record is damaged.
        """
        return self._state()[0]

    def set_index(self, state: State, buried: Sequence[int]) -> None:
        """Record another index, which lacks the dead rows `buried`; call it within `writing`."""
        self._connection.execute(
            "UPDATE state SET generation = ?, last_id = ?, trained = ?",
            (state.generation, state.last_id, state.trained),
        )
        if self._sealed:
            self._connection.execute("UPDATE seal SET index_digest = ?", (state.index_digest,))
        self._connection.executemany("DELETE FROM dead WHERE id = ?", ((number,) for number in buried))

    def upgrade(self, index_digest: bytes) -> None:
        """Add what a gallery of a former format lacks; call it within `writing`.

        Args:
            index_digest: digest of its index; used only for a gallery without digests.
        """
        if not self._sealed:
            self._seal(index_digest)
        if self._recorded:
            return
        for text in _RECORDS:
            self._connection.execute(text)
        _make_secret(self._connection, secrets.token_bytes(_SALT))
        # Nobody knows when these were added, so their age counts from now.
        self._connection.execute("INSERT INTO sources SELECT id, ?, '', x'' FROM entries", (clock.time(),))
        self._connection.execute("UPDATE state SET format = ?", (_FORMAT,))
        self._recorded = True
        _renew_seal(self._connection)  # the rest of the transaction reads the state, too

    def _seal(self, index_digest: bytes) -> None:
        for text in _SEALS:
            self._connection.execute(text)
        number, after = 0, 0
        while True:
            rows = self._connection.execute(
                f"SELECT id, {_COLUMNS}, embedding FROM entries JOIN vectors USING (id) WHERE id > ? "
                "ORDER BY id LIMIT ?",
                (after, _ROWS),
            ).fetchall()
            if not rows:
                break
            self._connection.executemany("INSERT INTO digests VALUES (?, ?, ?)", map(_digests, rows))
            number, after = number + len(rows), rows[-1][0]
        self._connection.execute("INSERT INTO seal VALUES (1, ?, ?, x'')", (number, index_digest))
        self._sealed = True

    def set_info(self, info: GalleryInfo) -> None:
        """Change the record of encoder and photographs; call it within `writing`."""
        self._connection.execute("UPDATE state SET info = ?", (json.dumps(asdict(info)),))
        _renew_seal(self._connection)
        self.info = info

    def renew_info(self) -> None:
        """Read the record of encoder and photographs again, which another process may have changed."""
        self.info = GalleryInfo.from_json(str(self._path.parent), self._state()[1])

    def insert(self, rows: np.ndarray, entries: Sequence[Entry], sources: Sequence[Source]) -> None:
        """Add entries with new keys, and records of their files; call it within `writing`."""
        execute, now = self._connection.execute, clock.time()
        for row, entry, source in zip(rows, entries, sources, strict=True):
            # SQLite does not store -0.0.
            time = None if entry.time is None else entry.time + 0.0
            values = (entry.key, entry.image, entry.camera, time, entry.pid, json.dumps(entry.tags))
            number = execute(
                "INSERT INTO entries (key, image, camera, time, pid, tags) VALUES (?, ?, ?, ?, ?, ?)", values
            ).lastrowid
            content = row.tobytes()
            execute("INSERT INTO vectors VALUES (?, ?)", (number, content))
            for tag in entry.tags:
                execute("INSERT INTO tags VALUES (?, ?)", (tag, number))
            if self._recorded:
                added = now if source.added is None else source.added
                execute(
                    "INSERT INTO sources VALUES (?, ?, ?, ?)", (number, added, source.stamp, source.content)
                )
            if self._sealed:
                sums = (_entry_digest(number, values), _embedding_digest(number, content))
                execute("INSERT INTO digests VALUES (?, ?, ?)", (number, *sums))
        if self._sealed:
            execute("UPDATE seal SET entries = entries + ?", (len(entries),))

    def remove(self, ids: Sequence[int]) -> None:
        """Remove rows; call it within `writing`."""
        each = [(number,) for number in ids]
        for table in ("entries", "vectors", "tags", *(("sources",) if self._recorded else ())):
            self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", each)
        self._connection.executemany("INSERT OR IGNORE INTO dead VALUES (?)", each)
        if self._sealed and each:
            gone = self._connection.executemany("DELETE FROM digests WHERE id = ?", each).rowcount
            self._connection.execute("UPDATE seal SET entries = entries - ?", (gone,))

    def sources(self, keys: Iterable[str]) -> dict[str, Source]:
        """Return the records of the files of some keys; missing keys are left out."""
        if not self._recorded:
            return {}
        text = "SELECT key, added, stamp, content FROM entries JOIN sources USING (id) WHERE key IN"
        return {
            key: Source(str(stamp), content if type(content) is bytes else b"", added)
            for some in _portions(keys)
            for key, added, stamp, content in self._rows(f"{text} ({_marks(some)})", some)
        }

    def set_sources(self, sources: Mapping[str, Source]) -> None:
        """Change the records of the files of some keys; call it within `writing`."""
        self._connection.executemany(
            "UPDATE sources SET stamp = ?, content = ? WHERE id = (SELECT id FROM entries WHERE key = ?)",
            ((source.stamp, source.content, key) for key, source in sources.items()),
        )

    def expired(self, limit: float) -> np.ndarray:
        """Return the ids of entries whose time, or whose addition, was before `limit`; ascending int64."""
        if not self._recorded:
            return self._numbers("SELECT id FROM entries WHERE time < ? ORDER BY id", (limit,))
        return self._numbers(
            "SELECT id FROM entries LEFT JOIN sources USING (id) WHERE time < ? OR added < ? ORDER BY id",
            (limit, limit),
        )

    def hash_of(self, content: bytes) -> bytes:
        """Return the keyed hash of a file's bytes; without this gallery's secret it cannot be computed."""
        return hashlib.blake2b(content, digest_size=_HASH, key=self.secret(), person=b"content").digest()

    def name_of(self, key: str) -> bytes:
        """Return the keyed hash of a key."""
        text = key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=_HASH, key=self.secret(), person=b"name").digest()

    def bury(self, entries: Mapping[str, bytes]) -> None:
        """Record that entries were deleted for good; call it within `writing`.

        Args:
            entries: hashes of files by key; b"" where unknown.
        """
        rows = [(self.name_of(key), content, clock.time()) for key, content in entries.items()]
        fold = self._fold()
        for row in rows:
            former = self._rows(
                "SELECT name, content, time FROM buried WHERE name = ? AND content = ?", row[:2]
            )
            fold = _folded(fold, former)
            self._connection.execute("INSERT OR REPLACE INTO buried VALUES (?, ?, ?)", row)
        _note_fold(self._connection, self.secret(), _folded(fold, rows))

    def buried(self, keys: Sequence[str] = (), contents: Sequence[bytes] = ()) -> Deleted:
        """Return which of the keys and hashes of files were deleted for good."""
        if not self._recorded:
            return Deleted(set(), set())
        names = {self.name_of(key): key for key in keys}
        wanted = {"name": list(names), "content": [content for content in contents if content]}
        found: dict[str, set[bytes]] = {"name": set(), "content": set()}
        for column, hashes in wanted.items():
            for some in _portions(hashes):
                rows = self._rows(f"SELECT {column} FROM buried WHERE {column} IN ({_marks(some)})", some)
                found[column].update(row[0] for row in rows)
        return Deleted({names[name] for name in found["name"]}, found["content"])

    def buried_rows(self) -> list[tuple[bytes, bytes, float]]:
        """Return all records of deletions: hashes of key and file, and the time.

        Raises:
            UserError: they are damaged.
        """
        if not self._recorded:
            return []
        fold, rows = self._fold(), self._rows("SELECT name, content, time FROM buried")
        if _folded(bytes(_HASH), rows) != fold:
            raise self._damaged(
                "its record of deletions has changed on the disk",
                f"restore a backup of it, or accept what is left with `san-tf gallery check "
                f"{self._path.parent} --drop`",
            )
        return rows  # type: ignore[return-value]  # as checked

    def accept_buried(self) -> None:
        """Take the records of deletions as they are; call it within `writing`."""
        self.set_buried(self._rows("SELECT name, content, time FROM buried"))  # type: ignore[arg-type]

    def set_buried(self, rows: Iterable[tuple[bytes, bytes, float]], salt: bytes | None = None) -> None:
        """Replace all records of deletions, and the key of all hashes; call it within `writing`."""
        rows = list(rows)
        self._connection.execute("DELETE FROM buried")
        self._connection.executemany("INSERT INTO buried VALUES (?, ?, ?)", rows)
        salt = self.secret() if salt is None else salt
        _note_fold(self._connection, salt, _folded(bytes(_HASH), rows))
        self._salt = salt

    def lift(self, keys: Sequence[str], contents: Sequence[bytes]) -> int:
        """Forget deletions of keys and files, so that they can be added again; call it within `writing`.

        Returns:
            The number of forgotten deletions.
        """
        names, hashes = {self.name_of(key) for key in keys}, set(contents) - {b""}
        kept = [row for row in self.buried_rows() if row[0] not in names and row[1] not in hashes]
        number = len(self._rows("SELECT 1 FROM buried")) - len(kept)
        if number:
            self.set_buried(kept)
        return number

    def secret(self) -> bytes:
        """Return the key of all hashes.

        Raises:
            UserError: it is damaged, or the gallery of a former format has none.
        """
        if not self._salt:
            rows = self._rows("SELECT salt, fold, digest FROM secret LIMIT 2") if self._recorded else []
            if len(rows) != 1 or rows[0][2] != _secret_digest(*rows[0][:2]):
                raise self._damaged("its record of deletions has changed on the disk", _BACKUP)
            self._salt = rows[0][0]
        return self._salt

    def _fold(self) -> bytes:
        rows = self._rows("SELECT salt, fold, digest FROM secret LIMIT 2")
        if len(rows) != 1 or rows[0][2] != _secret_digest(*rows[0][:2]):
            raise self._damaged("its record of deletions has changed on the disk", _BACKUP)
        return bytes(rows[0][1])

    def scrub(self) -> bool:
        """Empty SQLite's write-ahead log, which may still hold removed rows.

        Returns:
            Whether it is empty; else another process reads the gallery, and the last to close it will do so.
        """
        with contextlib.suppress(UserError):
            return self._rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0
        return False

    def ids_of(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the ids of the keys; missing keys are left out."""
        return {
            key: number
            for some in _portions(keys)
            for key, number in self._rows(f"SELECT key, id FROM entries WHERE key IN ({_marks(some)})", some)
        }

    def keys_of(self, ids: Iterable[int]) -> list[str]:
        """Return the keys of rows; missing ones are left out."""
        return [
            key
            for some in _portions(ids)
            for (key,) in self._rows(f"SELECT key FROM entries WHERE id IN ({_marks(some)})", some)
        ]

    def ids(self) -> np.ndarray:
        """Return the ids of all entries, ascending int64."""
        return self._numbers(f"SELECT id FROM {'digests' if self._sealed else 'entries'} ORDER BY id")

    def dead(self) -> np.ndarray:
        """Return the ids of deleted rows, ascending int64."""
        return self._numbers("SELECT id FROM dead ORDER BY id")

    def last_id(self) -> int:
        """Return the largest id."""
        table = "digests" if self._sealed else "entries"
        return int(self._rows(f"SELECT coalesce(max(id), 0) FROM {table}")[0][0])

    def count(self, after: int = 0) -> int:
        """Return the number of entries with an id above `after`."""
        return int(self._rows("SELECT count(*) FROM entries WHERE id > ?", (after,))[0][0])

    def was_used(self) -> bool:
        """Return whether there was ever an entry."""
        return bool(self._rows("SELECT 1 FROM sqlite_sequence WHERE name = 'entries' AND seq > 0"))

    def check_counts(self) -> None:
        """Check the number of rows against the record, and that no row is both present and deleted.

        Raises:
            UserError: the gallery is damaged.
        """
        if not self._sealed:
            return
        noted, *counted, both = self._rows(
            "SELECT entries, (SELECT count(*) FROM digests), (SELECT count(*) FROM entries), "
            "(SELECT count(*) FROM dead JOIN digests USING (id)) FROM seal"
        )[0]
        if counted != [noted, noted] or both:
            raise self._damaged(f"it had {noted} entries, but not all of them are there")

    def vectors(self, after: int, upto: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids, ascending `(n,)` int64, and their rows, `(n, D)` float32.

        Args:
            after: ids are above this one.
            upto: largest id.
            limit: most rows.

        Raises:
            UserError: a row is damaged.
        """
        return self._verified_vectors("id > ? AND id <= ? ORDER BY id LIMIT ?", (after, upto, limit))

    def sample(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of some ids, `(n, D)` float32, in any order.

        Raises:
            UserError: a row is damaged.
        """
        found = [
            self._verified_vectors(f"id IN ({_marks(some)})", some)[1] for some in _portions(ids.tolist())
        ]
        return np.concatenate([self._matrix([]), *found])

    def facts(self, after: int) -> list[Row]:
        """Return some thousand entries with ids above `after`, by id; none at the end.

        Raises:
            UserError: an entry is damaged.
        """
        found = self._rows(
            f"SELECT id, {_COLUMNS}, {self._sum('entry')} FROM {self._joined('entries')} WHERE id > ? "
            "ORDER BY id LIMIT ?",
            (after, _ROWS),
        )
        rows = []
        for number, *values, digest in found:
            words = self._words(number, values, digest)
            rows.append(Row(number, values[2], values[3], values[4], words))
        return rows

    def candidates(self, ids: Iterable[int]) -> dict[int, Candidate]:
        """Return entry and embedding of each id; missing ids are left out.

        Raises:
            UserError: a row is damaged.
        """
        sums = f"{self._sum('entry')}, {self._sum('embedding')}"
        joined = f"{self._joined('entries')} LEFT JOIN vectors USING (id)"
        text = f"SELECT id, {_COLUMNS}, {self._blob()}, {sums} FROM {joined}"
        found: dict[int, Candidate] = {}
        for some in _portions(ids):
            rows = self._rows(f"{text} WHERE id IN ({_marks(some)})", some)
            contents = []
            for number, *values, content, entry_sum, embedding_sum in rows:
                entry = self._entry(number, values, entry_sum)
                contents.append(self._content(number, content, embedding_sum, entry.key))
                found[number] = Candidate(entry, np.frombuffer(contents[-1], np.float32))
            self._check_lengths([row[0] for row in rows], self._matrix(contents))
        return found

    def entries(self, where: Filter, start: int, limit: int | None) -> list[Entry]:
        """Return entries in the order of their keys.

        Args:
            where: which entries count.
            start: number of entries to skip.
            limit: most entries; None for all.

        Raises:
            UserError: an entry is damaged.
        """
        condition, values = _condition(where)
        found = self._rows(
            f"SELECT id, {_COLUMNS}, {self._sum('entry')} FROM {self._joined('entries', 'entries')} "
            f"{condition} ORDER BY key LIMIT ? OFFSET ?",
            (*values, -1 if limit is None else limit, start),
        )
        return [self._entry(number, row, digest) for number, *row, digest in found]

    def keys_below(self, prefix: str, after: str) -> list[tuple[str, str]]:
        """Return some thousand keys above `after` that start with `prefix`, in order, with their images."""
        found = self._rows(
            "SELECT key, image FROM entries WHERE key > ? AND key >= ? AND substr(key, 1, ?) = ? "
            "ORDER BY key LIMIT ?",
            (after, prefix, len(prefix), prefix, _ROWS),
        )
        return [(str(key), str(image)) for key, image in found]

    def ids_where(self, where: Filter) -> np.ndarray:
        """Return the ids that pass according to SQLite's indexes, ascending int64."""
        condition, values = _condition(where)
        return self._numbers(f"SELECT id FROM entries {condition} ORDER BY id", values)

    def check_structure(self) -> None:
        """Check that SQLite's indexes hold all entries; it takes two seconds for a million.

        Raises:
            UserError: an index lacks entries.
        """
        if self._rows("PRAGMA integrity_check(entries)") != [("ok",)]:
            raise self.lacking()

    def lacking(self) -> UserError:
        """Return the error for an index of SQLite or a table of tags that lacks entries."""
        return self._damaged("its indexes or tags do not fit its entries")

    def damaged_rows(self) -> dict[int, str]:
        """Return ids of damaged rows with their keys, or "" where unreadable; it reads everything."""
        found: dict[int, str] = {}
        tables = ("entries", "vectors", *(("digests",) if self._sealed else ()))
        source = " UNION ".join(f"SELECT id FROM {table}" for table in tables)
        every = self._numbers(f"SELECT id FROM ({source}) ORDER BY id")
        for some in _portions(every.tolist()):
            try:
                if len(self.candidates(some)) == len(some):
                    continue
            except UserError:
                pass
            for number in some:
                with contextlib.suppress(UserError):
                    if self.candidates([number]):
                        continue
                rows = self._rows("SELECT key FROM entries WHERE id = ?", [number])
                key = rows[0][0] if rows else None
                found[number] = key if isinstance(key, str) else ""
        return found

    def rebuild(self) -> None:
        """Rebuild SQLite's indexes and the table of tags from the entries; call it within `writing`."""
        self._connection.execute("REINDEX")
        self._connection.execute("DELETE FROM tags")
        after = 0
        while rows := self.facts(after):
            self._connection.executemany(
                "INSERT INTO tags VALUES (?, ?)", ((tag, row.id) for row in rows for tag in row.tags)
            )
            after = rows[-1].id
        self._connection.execute("UPDATE seal SET entries = (SELECT count(*) FROM digests)")
        self._connection.execute("DELETE FROM dead WHERE id IN (SELECT id FROM digests)")

    def problems(self) -> list[str]:
        """Return problems of SQLite's own structures, in its words, and of the table of tags."""
        found = [text for (text,) in self._rows("PRAGMA integrity_check(5)") if text != "ok"]
        if not found:
            with contextlib.suppress(UserError):  # damaged rows are reported elsewhere
                found += self._wrong_tags()
        with contextlib.suppress(UserError):
            self.check_counts()
            return found
        return [*found, "rows are missing"]

    def _wrong_tags(self) -> list[str]:
        after = 0
        while rows := self.facts(after):
            wanted = {(tag, row.id) for row in rows for tag in row.tags}
            there = set(self._rows("SELECT tag, id FROM tags WHERE id > ? AND id <= ?", (after, rows[-1].id)))
            if wanted != there:
                return ["the table of tags does not fit the entries"]
            after = rows[-1].id
        return []

    def compact(self) -> None:
        """Rewrite the file, so that removed rows leave the disk.

        SQLite overwrites what is removed, but when it divides or joins pages it leaves copies of rows behind,
        in the unused room of a page.

        Raises:
            UserError: there is no room for a copy, or another process uses the file for too long.
        """
        self._rows("VACUUM")
        if not self.scrub():
            raise UserError(f"The gallery {self._path.parent} is being read by another process; stop it.")

    def copy_to(self, path: Path) -> None:
        """Write a copy of the present rows to a new file, while other processes may read and write.

        Deleted rows are not in it, and neither is the index.

        Raises:
            UserError: there is no room for a copy.
        """
        self._rows("VACUUM INTO ?", (str(path),))
        with _errors_told(path.parent), contextlib.closing(sqlite3.connect(path)) as copy:
            copy.execute("PRAGMA journal_mode = WAL")

    def _check_place(self) -> None:
        """Refuse to write a file that was replaced: the change would be lost."""
        try:
            same = os.stat(self._path).st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"The gallery {self._path.parent} was removed or replaced since it was opened; open it again."
            )

    def _connect(self) -> None:
        """Open the file; if its folder is not writable, open it as a file that nobody writes."""
        try:
            self._frozen = None
            self._open(f"mode={'ro' if self._read_only else 'rw'}")
        except _ERRORS as error:
            ahead = self._path.with_name(f"{self._path.name}-wal")
            if not (self._read_only and ("unable to open" in str(error) or "readonly" in str(error))):
                with _errors_told(self._path.parent):
                    raise
            if ahead.exists() and ahead.stat().st_size:
                raise UserError(
                    f"The gallery {self._path.parent} cannot be written, but was not closed after its last "
                    "change; run `san-tf gallery check` once where it can be written."
                ) from error
            with _errors_told(self._path.parent):
                # Taken before opening, so that a change meanwhile is seen.
                frozen = self._signature()
                self._open("mode=ro&immutable=1")
                self._frozen = frozen

    def _open(self, how: str) -> None:
        self._connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?{how}",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if hasattr(self._connection, "setlimit"):  # from Python 3.11 on
                self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST)
            for setting in (
                "synchronous = FULL",  # committed rows are on the disk
                "secure_delete = ON",  # deleted rows are overwritten
                "trusted_schema = OFF",
                "cell_size_check = ON",
            ):
                self._connection.execute(f"PRAGMA {setting}").fetchall()
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except _ERRORS:
            self._connection.close()
            raise

    def _signature(self) -> tuple[Any, ...]:
        """Return inode, size and time of the files, which change when they are written."""
        signature = []
        for name in (self._path.name, f"{self._path.name}-wal"):
            try:
                facts = os.stat(self._path.with_name(name))
                signature.append((facts.st_ino, facts.st_size, facts.st_mtime_ns))
            except OSError:
                signature.append((0, 0, 0))
        return tuple(signature)

    def _check_schema(self) -> None:
        with _errors_told(self._path.parent):
            rows = self._connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 100")
            found = frozenset(rows.fetchall())
            if found in _schemas():
                return
            form = None
            if any(row[:2] == ("table", "state") for row in found):
                form = next(self._connection.execute("SELECT format FROM state LIMIT 1"), (None,))[0]
        self._check_format(_FORMAT if form == _FORMER or not isinstance(form, int) else form)
        raise self._damaged("its tables are not those of this package", _BACKUP)

    def _check_format(self, form: Any) -> None:
        if form not in (_FORMAT, _SEALED, _FORMER):
            raise UserError(
                f"The gallery {self._path.parent} has format {form}, but this version of san_tf reads "
                f"{_FORMAT}; use the version it was made with."
            )

    def _noted(self) -> tuple[Any, ...]:
        """Return the rows of `state` and `seal`: format, info, four numbers, and three values of the seal."""
        if self._frozen is not None and self._frozen != self._signature():
            self._connection.close()
            self._connect()
        columns = "format, info, generation, last_id, trained, version"
        rows = self._rows(f"SELECT {columns} FROM state LIMIT 2")
        if len(rows) == 1 and rows[0][0] in (_FORMAT, _SEALED):
            text = f"SELECT {columns}, entries, index_digest, digest FROM state JOIN seal USING (one) LIMIT 2"
            rows = self._rows(text)
        if len(rows) != 1 or not isinstance(rows[0][1], str):
            raise self._damaged("its own record is missing", _BACKUP)
        self._check_format(rows[0][0])
        return rows[0]

    def _state(self) -> tuple[State, str]:
        noted = self._noted()
        self._sealed, digest = noted[0] != _FORMER, b""
        self._recorded = noted[0] == _FORMAT
        if self._sealed:
            if noted[-1] != _state_digest(noted[:-1]):
                raise self._damaged("its own record has changed on the disk")
            digest = noted[-2]
        numbers = noted[2:6]
        if not all(type(n) is int and 0 <= n < _MOST_IDS for n in numbers) or type(digest) is not bytes:
            raise self._damaged("its record of its index is impossible", _BACKUP)
        generation, last_id, trained, version = numbers
        return State(generation, last_id, trained, version, digest), noted[1]

    def _mend(self) -> None:
        """If the record of the index is damaged, record that there is none."""
        noted = self._noted()
        if noted[0] == _FORMER or noted[-1] == _state_digest(noted[:-1]):
            return
        if type(noted[-1]) is not bytes or noted[-1][:_HALF] != _state_digest(noted[:-1])[:_HALF]:
            raise self._damaged("its record of its encoder and photographs has changed on the disk", _BACKUP)
        files = [path.stem.partition("-")[2] for path in self._path.parent.glob("index-*.faiss")]
        last = max((int(name) for name in files if name.isdecimal() and len(name) < 9), default=0)
        with _errors_told(self._path.parent):
            self._connection.execute("BEGIN IMMEDIATE")
            # A new version number, so that other processes read the state again.
            self._connection.execute(
                "UPDATE state SET generation = ?, last_id = 0, trained = 0, version = ?",
                (last + 1, 2**29 + secrets.randbelow(2**29)),
            )
            self._connection.execute(
                "UPDATE seal SET entries = (SELECT count(*) FROM digests), index_digest = x''"
            )
            _renew_seal(self._connection)
            self._connection.execute("COMMIT")
        self.was_mended = True

    def _joined(self, table: str, first: str = "digests") -> str:
        """Return a table joined with the digests of its rows; a row without its other half stays."""
        if not self._sealed:
            return table
        second = table if first == "digests" else "digests"
        return f"{first} LEFT JOIN {second} USING (id)"

    def _sum(self, column: str) -> str:
        return f"digests.{column}" if self._sealed else "NULL"

    def _blob(self) -> str:
        """Return the SQL of an embedding; a value of another size is not read."""
        return f"CASE WHEN length(vectors.embedding) = {4 * self.info.size} THEN vectors.embedding END"

    def _verified_vectors(self, condition: str, values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        found = self._rows(
            f"SELECT id, {self._blob()}, {self._sum('embedding')} FROM {self._joined('vectors')} "
            f"WHERE {condition}",
            values,
        )
        contents = [self._content(*row) for row in found]
        ids, rows = np.array([row[0] for row in found], np.int64), self._matrix(contents)
        self._check_lengths(ids, rows)
        return ids, rows

    def _content(self, number: int, content: Any, digest: bytes | None, key: str = "") -> bytes:
        if type(content) is not bytes or (self._sealed and _embedding_digest(number, content) != digest):
            raise self._damaged(f"the embedding of {key or self._key_of(number)} has changed on the disk")
        return content

    def _key_of(self, number: int) -> str:
        """Return the name of a row for a message."""
        with contextlib.suppress(UserError):
            for (key,) in self._rows("SELECT key FROM entries WHERE id = ?", [number]):
                if isinstance(key, str):
                    return key
        return f"entry number {number}"

    def _check_lengths(self, ids: Sequence[int] | np.ndarray, rows: np.ndarray) -> None:
        """Check that all embeddings have length 1."""
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
            bad = np.flatnonzero(~(np.abs(squares - 1) < 1e-3))
        if len(bad):
            raise self._damaged(f"the embedding of {self._key_of(int(ids[bad[0]]))} has no direction")

    def _entry(self, number: int, values: Sequence[Any], digest: bytes | None) -> Entry:
        words = self._words(number, values, digest)
        key, image, camera, time, pid, _ = values
        return Entry(key, image, camera, time, pid, words)

    def _words(self, number: int, values: Sequence[Any], digest: bytes | None) -> tuple[str, ...]:
        """Check the columns of an entry against their digest and types; return its tags."""
        key, image, camera, time, pid, tags = values
        if self._sealed and _entry_digest(number, values) != digest:
            raise self._damaged(
                f"the entry {key if isinstance(key, str) else f'number {number}'} has changed on the disk"
            )
        words = _tags(tags)
        texts = type(key) is str and type(image) is str and words is not None
        numbers = type(camera) is int and type(time) in (float, _NONE) and type(pid) in (int, _NONE)
        if not texts or not numbers or words is None:
            raise self._damaged(f"the entry number {number} holds values of wrong types")
        return words

    def _damaged(self, how: str, cure: str = "") -> UserError:
        place = self._path.parent
        return UserError(
            f"The gallery {place} is damaged: {how}; {cure or f'run `san-tf gallery check {place}`'}."
        )

    def _rows(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with _errors_told(self._path.parent):
            return self._connection.execute(text, values).fetchall()

    def _numbers(self, text: str, values: Sequence[Any] = ()) -> np.ndarray:
        with _errors_told(self._path.parent):
            try:
                return np.fromiter((number for (number,) in self._connection.execute(text, values)), np.int64)
            except (TypeError, ValueError, OverflowError) as error:
                raise self._damaged("one of its numbers has changed on the disk") from error

    def _matrix(self, rows: Sequence[bytes]) -> np.ndarray:
        return np.frombuffer(b"".join(rows), np.float32).reshape(-1, self.info.size)


@functools.lru_cache(1000)
def _tags(text: Any) -> tuple[str, ...] | None:
    """Return the tags of an entry; None if the text is not a list of words."""
    try:
        words = tuple(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    return words if all(type(word) is str for word in words) else None


@functools.cache
def _schemas() -> tuple[frozenset[Any], ...]:
    """Return the schemas of all formats, as SQLite stores them."""
    found = []
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for texts in ((_SCHEMA,), _SEALS, _RECORDS):
            for text in texts:
                connection.executescript(text)
            noted = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
            found.append(frozenset(noted.fetchall()))
    return tuple(found)


def _refuse_links(folder: Path) -> None:
    """Refuse a gallery whose own files are links or not plain files: links could lead elsewhere."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        told = f"The gallery {folder} cannot be read ({error.strerror}); check its permissions."
        raise UserError(told) from error
    for name in names:
        if name.startswith(("gallery.sqlite", "index-", "index.lock", "audit.jsonl")):
            with contextlib.suppress(FileNotFoundError):  # another process just replaced an index
                if not stat.S_ISREG(os.lstat(folder / name).st_mode):
                    raise UserError(
                        f"The gallery {folder} holds {name}, which is a link or not a plain file; copy the "
                        "gallery with its files."
                    )


def _entry_digest(number: int | None, values: Sequence[Any]) -> bytes:
    key, image, camera, time, pid, tags = values
    text = f"{number}\0{key}\0{image}\0{camera}\0{time!r}\0{pid}\0{tags}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()


def _embedding_digest(number: int | None, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST, salt=str(number).encode()[:16]).digest()


def _digests(row: Sequence[Any]) -> tuple[int, bytes, bytes]:
    """Return id and digests of a row (id, columns of the entry, embedding)."""
    number, *values, content = row
    # A value that is not an embedding is refused when it is read, whatever its digest.
    content = content if type(content) is bytes else b""
    return number, _entry_digest(number, values), _embedding_digest(number, content)


def _state_digest(values: Sequence[Any]) -> bytes:
    """Return two joined digests: of format and info, and of the record of the index."""
    parts = (repr(tuple(part)).encode("utf-8", "surrogatepass") for part in (values[:2], values[2:]))
    return b"".join(hashlib.blake2b(part, digest_size=_HALF).digest() for part in parts)


def _renew_seal(connection: sqlite3.Connection) -> None:
    values = connection.execute(
        "SELECT format, info, generation, last_id, trained, version, entries, index_digest "
        "FROM state JOIN seal USING (one)"
    ).fetchone()
    connection.execute("UPDATE seal SET digest = ?", (_state_digest(values),))


def _make_secret(connection: sqlite3.Connection, salt: bytes) -> None:
    connection.execute("INSERT INTO secret VALUES (1, x'', x'', x'')")
    _note_fold(connection, salt, bytes(_HASH))


def _note_fold(connection: sqlite3.Connection, salt: bytes, fold: bytes) -> None:
    connection.execute(
        "UPDATE secret SET salt = ?, fold = ?, digest = ?", (salt, fold, _secret_digest(salt, fold))
    )


def _secret_digest(salt: Any, fold: Any) -> bytes:
    return hashlib.blake2b(repr((salt, fold)).encode(), digest_size=_HALF).digest()


def _folded(fold: bytes, rows: Iterable[Sequence[Any]]) -> bytes:
    """Return the XOR of a fold and the digests of rows; a row folded twice is out again."""
    number = int.from_bytes(fold, "big")
    for row in rows:
        digest = hashlib.blake2b(repr(tuple(row)).encode(), digest_size=_HASH).digest()
        number ^= int.from_bytes(digest, "big")
    return number.to_bytes(_HASH, "big")


@contextlib.contextmanager
def _errors_told(folder: Path) -> Iterator[None]:
    """Turn errors of SQLite into a sentence that names the gallery."""
    place = f"The gallery {folder}"
    try:
        yield
    except _ERRORS as error:
        reason = str(error) if isinstance(error, sqlite3.Error) else "its tables are not readable"
        if "disk is full" in reason:
            told = f"{place} cannot grow, because the disk is full; it is unchanged, so free some space."
        elif "is locked" in reason:
            told = f"{place} is still being written by another process ({_PATIENCE:.0f} s); try again later."
        elif "readonly" in reason or "unable to open" in reason:
            told = f"{place} cannot be opened or written ({reason}); check its permissions."
        elif "I/O" in reason:
            told = f"{place} cannot be read or written ({reason}); check the disk."
        else:
            told = f"{place} is damaged or not a gallery of this package ({reason}); restore a backup of it."
        raise UserError(told) from error


def _condition(where: Filter) -> tuple[str, list[Any]]:
    """Return the WHERE clause of a filter, and its values."""
    parts: list[str] = []
    values: list[Any] = []
    for word, cameras in (("IN", where.cameras), ("NOT IN", where.excluded_cameras)):
        if cameras:
            parts.append(f"camera {word} ({_marks(cameras)})")
            values += [int(camera) for camera in cameras]
    if where.pids:
        parts.append(f"pid IN ({_marks(where.pids)})")
        values += [int(pid) for pid in where.pids]
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
