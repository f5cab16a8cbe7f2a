"""Gallery in Milvus: on a server or cluster, or in a file with milvus-lite."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.retrieval.entries import EVERYTHING, MAX_TAGS, MAX_TEXT, Entry, Filter
from san_tf.retrieval.gallery import Candidate, Gallery, GalleryInfo, Source

# Milvus limits a request to 64 MB, and an answer to 16,384 rows.
_ROWS, _MOST_HITS = 1_000, 16_384
# Queries in one request.
_QUERIES = 64
_BYTES = 4 * MAX_TEXT  # Milvus counts bytes
_FIELDS = ["key", "image", "camera", "time", "pid", "tags"]
_DEFAULT = "san_tf_gallery"
# Number of open connections of this process, by address.
_open: collections.Counter[str] = collections.Counter()


def open_milvus(address: str, name: str, create: GalleryInfo | None, read_only: bool) -> MilvusGallery:
    """Open a gallery in Milvus, or make one.

    Args:
        address: `FILE.db`, `http://host:19530` or `http://host:19530/COLLECTION`. The token of a server comes
            from the environment variable MILVUS_TOKEN.
        name: name of the gallery, for messages.
        create: record of a new gallery; None opens only an existing one.
        read_only: refuse changes, and make no new gallery.

    Raises:
        UserError: there is no such gallery or server, or pymilvus is missing.
    """
    try:
        import pymilvus
    except ImportError as error:
        raise UserError("Milvus needs pymilvus: pip install 'san-tf[milvus]'.") from error
    for logger in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # errors are also raised
    server, collection = _place(address)
    missing = f"There is no gallery {name}; make one with `san-tf gallery add {name} ...`."
    may_make = create is not None and not read_only
    if "://" not in server:
        if Path(server).suffix != ".db":
            raise UserError(f"{name} is not the name of a file of Milvus; let it end in .db.")
        if not Path(server).exists() and not may_make:
            raise UserError(missing)
        if not Path(server).absolute().parent.is_dir():
            raise UserError(f"The folder of {server} does not exist; make it, or name another.")
    try:
        client = pymilvus.MilvusClient(server, token=os.environ.get("MILVUS_TOKEN", ""), timeout=30)
        _open[server] += 1
    except Exception as error:  # of many kinds, from pymilvus, gRPC and milvus-lite
        why = "is it running?" if "://" in server else "is it open in another process, or something else?"
        raise UserError(f"Milvus at {server} cannot be opened; {why}") from error
    try:
        with _errors_told(name):
            info = _read_info(client, collection)
            if info is None:
                if not may_make or create is None:
                    raise UserError(missing)
                if client.has_collection(collection):
                    raise UserError(f"{name} is not a gallery, but another collection; name another one.")
                _make_info(client, collection, create)
                info = create
            if not client.has_collection(collection):  # also if an earlier try was interrupted
                _make(client, collection, info)
            client.load_collection(collection)
            return MilvusGallery(client, server, collection, name, info, read_only)
    except UserError:
        _close(client, server)
        raise


def _close(client: Any, server: str) -> None:
    """Close a connection; with the last one to a file, also its local server, which holds the lock."""
    client.close()
    _open[server] -= 1
    if "://" not in server and not _open[server]:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(server)


class MilvusGallery(Gallery):
    """A gallery in a Milvus collection; see `open_milvus`.

    Entries have no digests here, so changes on Milvus's disks are not detected.

    A Milvus server manages its index and several clients. milvus-lite serves one process at a time and
    refuses a second. Entries are added in portions of 1,000: if the disk is full, earlier portions stay in
    the gallery. Files and deletions are not remembered, and there is no audit log: what was deleted comes
    back when its file is added again.

    Args:
        client: client of pymilvus.
        server: address or file.
        collection: name of the collection.
        name: name of the gallery, for messages.
        info: record of encoder and photographs.
        read_only: refuse changes.
    """

    most_candidates = _MOST_HITS
    remembers = False

    def __init__(
        self, client: Any, server: str, collection: str, name: str, info: GalleryInfo, read_only: bool
    ) -> None:
        super().__init__(name, info, read_only)
        self._client, self._server, self._collection = client, server, collection
        self._closed = False

    def _entries(self, where: Filter, start: int, limit: int | None) -> list[Entry]:
        # Milvus does not sort, so all entries are fetched.
        found = sorted((_entry(row) for row in self._every(where, _FIELDS)), key=lambda entry: entry.key)
        return found[start : None if limit is None else start + limit]

    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""
        return sorted({row["camera"] for row in self._every(EVERYTHING, ["camera"])} - {-1})

    def tags(self) -> list[str]:
        """Return all tags, sorted."""
        return sorted({tag for row in self._every(EVERYTHING, ["tags"]) for tag in row["tags"]})

    def __len__(self) -> int:
        with _errors_told(self.name):
            found = self._client.query(self._collection, filter="", output_fields=["count(*)"])
            return int(found[0]["count(*)"])

    def close(self) -> None:
        """Close the connection."""
        if not self._closed:
            self._closed = True
            _close(self._client, self._server)

    def _change_info(self, change: Callable[[GalleryInfo], GalleryInfo]) -> None:
        self._refuse_if_read_only()
        with _errors_told(self.name):
            info = change(_read_info(self._client, self._collection) or self.info)
            _make_info(self._client, self._collection, info)
        self.info = info

    def _add(self, rows: np.ndarray, entries: list[Entry], sources: list[Source]) -> None:
        for start in range(0, len(entries), _ROWS):
            some = zip(rows[start : start + _ROWS], entries[start : start + _ROWS], strict=True)
            with _errors_told(self.name):
                self._client.upsert(
                    self._collection,
                    [{**asdict(entry), "tags": list(entry.tags), "embedding": row} for row, entry in some],
                )

    def _candidates(self, queries: np.ndarray, count: int, where: Filter) -> Iterator[list[Candidate]]:
        if count > _MOST_HITS:
            raise UserError(f"Milvus finds at most {_MOST_HITS:,} entries, not {count:,}; ask for fewer.")
        for start in range(0, len(queries), _QUERIES):
            with _errors_told(self.name):
                found = self._client.search(
                    self._collection,
                    list(queries[start : start + _QUERIES]),
                    anns_field="embedding",
                    filter=_condition(where),
                    limit=count,
                    output_fields=[*_FIELDS, "embedding"],
                )
            for hits in found:
                rows = [hit["entity"] for hit in hits]
                yield [Candidate(_entry(row), np.array(row["embedding"], np.float32)) for row in rows]

    def _delete(self, keys: list[str], for_good: bool) -> int:
        there = sorted(self._known(keys))
        for some in _portions(there):
            with _errors_told(self.name):
                self._client.delete(self._collection, ids=some)
        return len(there)

    def _delete_where(self, where: Filter, for_good: bool) -> int:
        return self._delete([row["key"] for row in self._every(where, ["key"])], for_good)

    def _known(self, keys: list[str]) -> set[str]:
        return {row["key"] for row in self._get(keys, ["key"])}

    def _lookup(self, keys: list[str]) -> dict[str, Candidate]:
        rows = self._get(keys, [*_FIELDS, "embedding"])
        return {row["key"]: Candidate(_entry(row), np.array(row["embedding"], np.float32)) for row in rows}

    def _get(self, keys: Sequence[str], fields: list[str]) -> Iterator[dict[str, Any]]:
        for some in _portions(keys):
            with _errors_told(self.name):
                yield from self._client.get(self._collection, ids=some, output_fields=fields)

    def _every(self, where: Filter, fields: list[str]) -> Iterator[dict[str, Any]]:
        with _errors_told(self.name):
            rows = self._client.query_iterator(
                self._collection, batch_size=_ROWS, filter=_condition(where), output_fields=fields
            )
            try:
                while some := rows.next():
                    yield from some
            finally:
                rows.close()


def _place(address: str) -> tuple[str, str]:
    """Server and collection of an address."""
    match = re.fullmatch(r"(\w+://[^/]+)/?(.*)", address)
    if match is None:
        return address, _DEFAULT
    collection = match[2] or _DEFAULT
    if not re.fullmatch(r"[A-Za-z_]\w*", collection, re.ASCII):
        raise UserError(f"{collection} is not the name of a collection of Milvus; use letters, digits and _.")
    return match[1], collection


def _read_info(client: Any, collection: str) -> GalleryInfo | None:
    """Read the gallery's record from its collection of a single row; None if it is missing."""
    name = f"{collection}_info"
    if not client.has_collection(name):
        return None
    client.load_collection(name)  # it may have been released, for example by a restart of the server
    rows = client.query(name, filter="number == 0", output_fields=["info"])
    return GalleryInfo.from_json(collection, str(rows[0]["info"])) if rows else None


def _make_info(client: Any, collection: str, info: GalleryInfo) -> None:
    from pymilvus import DataType

    name = f"{collection}_info"
    if not client.has_collection(name):
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("number", DataType.INT64, is_primary=True)
        schema.add_field("info", DataType.VARCHAR, max_length=2 * _BYTES)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=2)  # a collection must have one
        _create(client, name, schema)
    client.upsert(name, [{"number": 0, "info": json.dumps(asdict(info)), "embedding": [0.0, 1.0]}])


def _make(client: Any, collection: str, info: GalleryInfo) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=_BYTES)
    schema.add_field("image", DataType.VARCHAR, max_length=_BYTES)
    schema.add_field("camera", DataType.INT64)
    schema.add_field("time", DataType.DOUBLE, nullable=True)
    schema.add_field("pid", DataType.INT64, nullable=True)
    words = {"element_type": DataType.VARCHAR, "max_capacity": MAX_TAGS, "max_length": _BYTES}
    schema.add_field("tags", DataType.ARRAY, **words)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=info.size)
    _create(client, collection, schema)


def _create(client: Any, name: str, schema: Any) -> None:
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _condition(where: Filter) -> str:
    """Return a filter in Milvus's syntax."""
    parts = []
    if where.cameras:
        parts.append(f"camera in {[int(camera) for camera in where.cameras]}")
    if where.excluded_cameras:
        parts.append(f"camera not in {[int(camera) for camera in where.excluded_cameras]}")
    if where.pids:
        parts.append(f"pid in {[int(pid) for pid in where.pids]}")
    if where.since is not None:
        parts.append(f"time >= {float(where.since)!r}")
    if where.until is not None:
        parts.append(f"time < {float(where.until)!r}")
    if where.tags:
        parts.append(f"array_contains_all(tags, {json.dumps(list(where.tags), ensure_ascii=False)})")
    return " and ".join(parts)


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{name: row[name] for name in _FIELDS[:-1]}, tags=tuple(row["tags"]))


def _portions(values: Sequence[str]) -> Iterator[list[str]]:
    left = iter(values)
    while some := list(itertools.islice(left, _ROWS)):
        yield some


@contextlib.contextmanager
def _errors_told(name: str) -> Iterator[None]:
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        reason = " ".join(str(error.message).split())[:200]
        raise UserError(f"Milvus refuses a request of the gallery {name}: {reason}.") from error
