"""Base class of galleries: add, search, filter, list and delete entries."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from san_tf.errors import UserError
from san_tf.retrieval.entries import (
    EVERYTHING,
    MAX_TEXT,
    Entry,
    Filter,
    Hit,
    checked_embeddings,
    checked_entries,
    checked_filter,
)
from san_tf.retrieval.image_files import ImageFolders

# Extra candidates: an engine's rounding may have put one just behind.
_SPARE = 8
# Scores closer than this may be equal: an engine computes less exactly than the final measure.
_ALIKE = 1e-5
# Embeddings in memory while ties are resolved.
_AT_ONCE = 2**16
_LARGEST_SIZE = 2**16
# Cameras with names have numbers from here on, above those that names of files and tables hold.
FIRST_NAMED = 2**40
_MOST_NAMES = 100_000
# Larger numbers do not fit into the 64 bits of SQLite.
_LARGEST_NUMBER = 2**62
_IMPOSSIBLE = (
    "The gallery {} is damaged, or not a gallery of this package: its record is impossible; restore a backup "
    "of it."
)


@dataclass(frozen=True)
class GalleryInfo:
    """A gallery's record of its encoder and its photographs.

    Attributes:
        size: dimensions of an embedding.
        model: folder of the encoder's export, such as `saved_models/market/1`; "" where unknown.
        fingerprint: of the encoder's weights and preprocessing (`serving.fingerprint`); "" where unknown.
        images: folder of the entries' images; None if the entries have no photographs.
        folders: more folders, as pairs of the name that begins the keys of their photographs, and the path.
        cameras: names of cameras; the first has the number `FIRST_NAMED`, and so on.
    """

    size: int
    model: str = ""
    fingerprint: str = ""
    images: str | None = None
    folders: tuple[tuple[str, str], ...] = ()
    cameras: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, gallery: str, text: str) -> GalleryInfo:
        """Read the record of a gallery, which may come from a stranger.

        Args:
            gallery: name of the gallery, for messages.
            text: a JSON object with the attributes.

        Raises:
            UserError: the record is damaged or impossible.
        """
        try:
            noted = json.loads(text)
            folders = tuple((str(name), str(path)) for name, path in noted.pop("folders", ()))
            info = cls(folders=folders, cameras=tuple(map(str, noted.pop("cameras", ()))), **noted)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(_IMPOSSIBLE.format(gallery)) from error
        texts = [info.model, info.fingerprint, "" if info.images is None else info.images]
        texts += [*info.cameras, *(part for folder in info.folders for part in folder)]
        if type(info.size) is not int or not 0 < info.size <= _LARGEST_SIZE:
            raise UserError(_IMPOSSIBLE.format(gallery))
        if not all(isinstance(text, str) and len(text) <= MAX_TEXT and "\0" not in text for text in texts):
            raise UserError(_IMPOSSIBLE.format(gallery))
        return info

    def with_camera(self, name: str) -> GalleryInfo:
        """Return the record with one more named camera."""
        if len(self.cameras) >= _MOST_NAMES:
            raise UserError(f"A gallery has at most {_MOST_NAMES:,} names of cameras; check the pattern.")
        return replace(self, cameras=(*self.cameras, name))

    def with_folder(self, name: str, folder: str) -> GalleryInfo:
        """Return the record with one more folder of photographs."""
        if len(self.folders) >= _MOST_NAMES:
            raise UserError(f"A gallery has at most {_MOST_NAMES:,} folders; add a folder above them.")
        return replace(self, folders=(*self.folders, (name, folder)))

    def camera_name(self, camera: int) -> str:
        """Return the name of a camera; its number where it has no name, and "" where it is unknown."""
        if 0 <= camera - FIRST_NAMED < len(self.cameras):
            return self.cameras[camera - FIRST_NAMED]
        return "" if camera < 0 else str(camera)

    def camera_number(self, name: str) -> int | None:
        """Return the number of a camera, from its name or the number as text; None if it has none."""
        if name in self.cameras:
            return FIRST_NAMED + self.cameras.index(name)
        return int(name) if re.fullmatch("-?[0-9]{1,18}", name) else None

    def check_encoder(self, gallery: str, encoder: GalleryInfo) -> None:
        """Refuse another encoder: its embeddings cannot be compared with those in the gallery.

        Args:
            gallery: name of the gallery with this record.
            encoder: size and fingerprint of the encoder to use; an unknown fingerprint passes.

        Raises:
            UserError: size or fingerprint differ.
        """
        here, there = self.model or "an unnamed encoder", encoder.model or "an unnamed encoder"
        if self.size != encoder.size:
            raise UserError(
                f"The gallery {gallery} holds embeddings of {self.size} numbers by {here}, and {there} gives "
                f"{encoder.size}; use that encoder, or make another gallery."
            )
        if self.fingerprint and encoder.fingerprint and self.fingerprint != encoder.fingerprint:
            raise UserError(
                f"The gallery {gallery} holds embeddings by {here} ({self.fingerprint}), and {there} "
                f"({encoder.fingerprint}) is another encoder; use that one, or make another gallery."
            )


class Source(NamedTuple):
    """What a gallery notes of the file behind an entry.

    Attributes:
        stamp: a text that changes with the file, without reading it; "" where unknown.
        content: hash of its bytes, from `Gallery.hash_of`; b"" where unknown.
        added: when the entry was added, in seconds since 1970; None for now.
    """

    stamp: str = ""
    content: bytes = b""
    added: float | None = None


class Deleted(NamedTuple):
    """Keys, and hashes of files, that were deleted for good."""

    keys: set[str]
    contents: set[bytes]


@dataclass(frozen=True)
class Candidate:
    """A possible hit from an engine: an entry and its `(D,)` float32 embedding of length 1."""

    entry: Entry
    embedding: np.ndarray


Own = TypeVar("Own", bound="Gallery")


class Gallery(ABC):
    """Embeddings with their entries, to search and filter.

    An engine implements the abstract methods. This class checks what users give. Methods may be called from
    several threads.

    The answers of a gallery are only as trustworthy as its source. Do not use the paths in its record,
    `info.model` and `info.images`, unchecked: `opening.open_to_search` decides about them.

    Args:
        name: path or address of the gallery, for messages.
        info: its encoder and photographs.
        read_only: refuse changes.

    Example:
        >>> with open_gallery("people.gallery", create=GalleryInfo(512, "market/1")) as gallery:
        ...     gallery.add(embeddings, [Entry("a.jpg", camera=0), Entry("b.jpg", camera=1)])
        ...     hits = gallery.search(query[None], top=5, where=Filter(excluded_cameras=(0,)))[0]
        >>> hits[0].entry.key, hits[0].score
        ('b.jpg', 0.93)
    """

    # The most candidates of a query.
    most_candidates = 2**16
    # Whether deletions for good are remembered, and files known.
    remembers = True

    def __init__(self, name: str, info: GalleryInfo, read_only: bool = False) -> None:
        self.name = name
        self.info = info
        self._read_only = read_only

    def add(
        self, embeddings: np.ndarray, entries: Sequence[Entry], sources: Sequence[Source] | None = None
    ) -> None:
        """Add entries, and replace those with the same keys; durable on return.

        Args:
            embeddings: `(N, D)` numbers; stored as float32 of length 1.
            entries: N entries; of equal keys, the last counts.
            sources: what is known of the N files; None for nothing.

        Raises:
            UserError: sizes that do not fit the gallery, embeddings that are not finite or all 0, impossible
                entries, entries that were deleted for good, or a full disk. Nothing of this call is then in
                the gallery.
        """
        self._refuse_if_read_only()
        rows = checked_embeddings(self.name, self.info.size, embeddings)
        checked = checked_entries(self.name, entries, len(rows))
        files = [Source()] * len(rows) if sources is None else list(sources)
        if len(files) != len(rows):
            raise UserError(
                f"There are {len(rows)} embeddings and {len(files)} files; give one per embedding."
            )
        last = {entry.key: number for number, entry in enumerate(checked)}
        if not last:
            return
        kept = sorted(last.values())
        self._add(
            np.ascontiguousarray(rows[kept]),
            [checked[number] for number in kept],
            [files[number] for number in kept],
        )

    def search(self, queries: np.ndarray, top: int = 20, where: Filter = EVERYTHING) -> list[list[Hit]]:
        """Find the entries nearest to each query.

        Args:
            queries: `(Q, D)` embeddings by the gallery's encoder, of any length but 0.
            top: most entries per query.
            where: which entries count.

        Returns:
            One list per query, best first. Equal scores are in the order of their keys, if no more than
            `most_candidates` are equal. A list is shorter than `top` only if fewer entries pass `where`.

        Raises:
            UserError: sizes that do not fit the gallery, embeddings that are not finite or all 0, an
                impossible filter, or a damaged gallery.
        """
        rows = checked_embeddings(self.name, self.info.size, queries)
        if top < 1:
            raise UserError(f"A search finds at least 1 entry, not {top}; ask for more.")
        checked_filter(where)
        top = min(top, max(len(self), 1)) if top > self.most_candidates // 4 else top
        answers: list[list[Hit]] = [[] for _ in rows]
        left, count = list(range(len(rows))), top + _SPARE
        most = max(count, self.most_candidates)
        while left:
            undecided = []
            for some in _portions(left, max(1, _AT_ONCE // count)):
                for number, candidates in zip(some, self._candidates(rows[some], count, where), strict=True):
                    hits = _ranked(rows[number], candidates)
                    answers[number] = hits[:top]
                    # The last wanted hit is as near as the last candidate: there may be more of the same
                    # score, whose keys come first.
                    if len(candidates) >= count and hits[top - 1].score - hits[-1].score <= _ALIKE:
                        undecided.append(number)
            if count == most:
                break
            left, count = undecided, min(4 * count, most)
        for row, hits in zip(rows, answers, strict=True):
            facts = {"query": self._hash_or_none(row.tobytes()), "top": top, "filter": where.facts()}
            self._note("search", [hit.entry.key for hit in hits], facts)
        return answers

    def similar(self, query: np.ndarray, least: float, where: Filter = EVERYTHING) -> list[Hit]:
        """Find all entries that are at least so similar to a query; every entry is measured.

        A search may miss a few in a large gallery, because it asks an index. This one misses none, and takes
        as long as reading the whole gallery.

        Args:
            query: `(D,)` embedding by the gallery's encoder.
            least: lowest cosine similarity, in [-1, 1].
            where: which entries count.

        Returns:
            All such entries, best first.

        Raises:
            UserError: an embedding that does not fit the gallery, or a damaged gallery.
        """
        row = checked_embeddings(self.name, self.info.size, np.asarray(query)[None])[0]
        found: list[Hit] = []
        start = 0
        while entries := self.entries(where, start, _AT_ONCE // 16):
            start += len(entries)
            rows = self.lookup([entry.key for entry in entries])
            found += [hit for hit in _ranked(row, list(rows.values())) if hit.score >= least]
        found.sort(key=lambda hit: (-hit.score, hit.entry.key))
        facts = {"query": self._hash_or_none(row.tobytes()), "least": least, "filter": where.facts()}
        self._note("search", [hit.entry.key for hit in found], facts)
        return found

    def get(self, keys: Sequence[str]) -> list[Entry]:
        """Return entries by their keys, in the order of `keys`.

        Raises:
            UserError: a key is missing, or the gallery is damaged.
        """
        found = self.lookup(keys)
        return [found[key].entry if key in found else self._refuse_key(key) for key in keys]

    def entries(self, where: Filter = EVERYTHING, start: int = 0, limit: int | None = None) -> list[Entry]:
        """List entries in the order of their keys.

        Args:
            where: which entries count.
            start: number of entries to skip.
            limit: most entries to return; None for all.

        Raises:
            UserError: an impossible filter, or a damaged gallery.
        """
        checked_filter(where)
        if start < 0 or (limit is not None and limit < 0):
            raise UserError(
                f"A list starts at 0 or later and has 0 or more entries, not {start} and {limit}."
            )
        start, limit = min(start, _LARGEST_NUMBER), None if limit is None else min(limit, _LARGEST_NUMBER)
        return self._entries(where, start, limit)

    def delete(
        self, keys: Sequence[str] | None = None, where: Filter | None = None, for_good: bool = True
    ) -> int:
        """Delete entries by key, or those that pass a filter (`Filter()` for all).

        Args:
            keys: keys to delete; missing ones are ignored.
            where: used if `keys` is None.
            for_good: refuse to add the same keys or files again, until `lift` allows it. Only hashes of them
                are kept. A gallery in Milvus cannot do so.

        Returns:
            The number of deleted entries.

        Raises:
            UserError: neither or both are given; or the entries are deleted, but their bytes could not be
                removed from the disk.
        """
        self._refuse_if_read_only()
        if (keys is None) == (where is None):
            raise UserError("Name either the keys to delete, or a filter for them.")
        if keys is None:
            return self._delete_where(checked_filter(where or EVERYTHING), for_good)
        return self._delete(_storable(keys), for_good)

    def expired(self, before: float) -> list[Entry]:
        """Return the entries that `expire` would delete."""
        return self.entries(Filter(until=before))

    def expire(self, before: float) -> int:
        """Delete, for good, the entries of people who were photographed or added before a time.

        Without a time of its own, an entry is as old as its addition.

        Args:
            before: seconds since 1970, UTC.

        Returns:
            The number of deleted entries.
        """
        self._refuse_if_read_only()
        return self._delete_where(checked_filter(Filter(until=before)), True)

    def lift(self, keys: Sequence[str] = (), contents: Sequence[bytes] = ()) -> int:
        """Allow keys and files that were deleted for good to be added again.

        Args:
            keys: keys of the deleted entries.
            contents: hashes of their files, from `hash_of`.

        Returns:
            The number of deletions that no longer count.
        """
        self._refuse_if_read_only()
        return 0

    def deleted(self, keys: Sequence[str] = (), contents: Sequence[bytes] = ()) -> Deleted:
        """Return which of the keys, and which of the hashes of files, were deleted for good."""
        return Deleted(set(), set())

    def hash_of(self, content: bytes) -> bytes:
        """Return the hash by which this gallery recognises a file's bytes."""
        return hashlib.blake2b(content, digest_size=16).digest()

    def sources(self, keys: Sequence[str]) -> dict[str, Source]:
        """Return what is known of the files of entries, by key; missing keys are left out."""
        return {}

    def set_sources(self, sources: Mapping[str, Source]) -> None:
        """Note what is known of the files of entries, by key; the times of addition stay."""
        self._refuse_if_read_only()

    def embeddings(self, keys: Sequence[str]) -> np.ndarray:
        """Return the embeddings of entries, `(N, D)` float32 of length 1, in the order of `keys`.

        Raises:
            UserError: a key is missing.
        """
        found = self.lookup(keys)
        rows = [found[key].embedding if key in found else self._refuse_key(key) for key in keys]
        return np.stack(rows) if rows else np.empty((0, self.info.size), np.float32)

    def lookup(self, keys: Sequence[str]) -> dict[str, Candidate]:
        """Return entry and embedding of each key, read together; missing keys are left out."""
        return self._lookup(_storable(keys))

    def _refuse_key(self, key: str) -> NoReturn:
        raise UserError(f"{self.name} holds no entry {key}; `san-tf gallery list` shows its keys.")

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise UserError(f"The gallery {self.name} was opened read-only; open it for changes.")

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return the keys that are in the gallery."""
        return self._known(_storable(keys))

    def optimize(self) -> None:  # noqa: B027  # most engines do it themselves
        """Make searches as fast as possible, after many entries were added.

        Raises:
            UserError: the disk is full; the gallery is unchanged.
        """

    @abstractmethod
    def cameras(self) -> list[int]:
        """Return the numbers of all known cameras, ascending."""

    @abstractmethod
    def tags(self) -> list[str]:
        """Return all tags, sorted."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of entries."""

    @abstractmethod
    def close(self) -> None:
        """Close files and connections."""

    def pids(self) -> list[int]:
        """Return all known identities, ascending."""
        return sorted({entry.pid for entry in self.entries() if entry.pid is not None})

    def deletions(self) -> int:
        """Return the number of deletions for good that are remembered."""
        return 0

    def name_camera(self, name: str) -> int:
        """Return the number of a camera with a name, which the gallery notes if it is new.

        Raises:
            UserError: there are too many names, or the gallery is read-only.
        """
        number = self.info.camera_number(name)
        if number is None:
            self._change_info(lambda info: info if name in info.cameras else info.with_camera(name))
            number = FIRST_NAMED + self.info.cameras.index(name)
        return number

    def add_folder(self, name: str, folder: str) -> None:
        """Note one more folder of photographs, whose keys and images begin with `name`."""
        self._change_info(
            lambda info: info if (name, folder) in info.folders else info.with_folder(name, folder)
        )

    def keys_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield keys and images of the entries whose keys start with `prefix`."""
        start = 0
        while entries := self.entries(start=start, limit=_AT_ONCE):
            start += len(entries)
            yield from ((entry.key, entry.image) for entry in entries if entry.key.startswith(prefix))

    def _change_info(self, change: Callable[[GalleryInfo], GalleryInfo]) -> None:
        self._refuse_if_read_only()
        self.info = change(self.info)

    def _note(self, action: str, keys: Sequence[str], facts: Mapping[str, object]) -> None:  # noqa: B027
        """Write a line of the audit log, if this engine keeps one."""

    def _hash_or_none(self, content: bytes) -> str | None:
        """Return the hash of a query for the audit log; None if this engine keeps none."""
        return None

    @abstractmethod
    def _add(self, rows: np.ndarray, entries: list[Entry], sources: list[Source]) -> None:
        """Store `(N, D)` float32 rows of length 1 under unique keys, and replace; durable on return."""

    @abstractmethod
    def _candidates(self, queries: np.ndarray, count: int, where: Filter) -> Iterable[list[Candidate]]:
        """Return the `count` entries nearest to each of `(Q, D)` float32 queries of length 1, unordered."""

    @abstractmethod
    def _delete(self, keys: list[str], for_good: bool) -> int:
        """Delete by unique keys; return the number of deleted entries."""

    @abstractmethod
    def _delete_where(self, where: Filter, for_good: bool) -> int:
        """Delete the entries that pass; return their number."""

    @abstractmethod
    def _lookup(self, keys: list[str]) -> dict[str, Candidate]:
        """Return entry and embedding of each unique key; missing keys are left out."""

    @abstractmethod
    def _entries(self, where: Filter, start: int, limit: int | None) -> list[Entry]:
        """Return entries that pass, in the order of their keys, from `start` on."""

    @abstractmethod
    def _known(self, keys: list[str]) -> set[str]:
        """Return the unique keys that are in the gallery."""

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def gallery_pictures(info: GalleryInfo) -> ImageFolders:
    """Return the reader of a gallery's photographs, from all folders that its record names."""
    return ImageFolders(info.images, dict(info.folders))


def refuse_deleted(gallery: Gallery, entries: Sequence[Entry], sources: Sequence[Source]) -> None:
    """Refuse entries that were deleted for good.

    Raises:
        UserError: the key or the file of an entry was.
    """
    keys, contents = gallery.deleted([entry.key for entry in entries], [source.content for source in sources])
    for entry, source in zip(entries, sources, strict=True):
        if entry.key in keys or source.content in contents:
            raise UserError(
                f"{entry.key} was deleted from the gallery {gallery.name} for good; allow it with `san-tf "
                "gallery lift` or `Gallery.lift`, if it may come back."
            )


def _storable(keys: Sequence[str]) -> list[str]:
    """Unique keys, without file names that are not UTF-8, which no gallery can hold."""
    return [key for key in dict.fromkeys(keys) if not any("\ud800" <= letter <= "\udfff" for letter in key)]


def _portions(values: list[int], size: int) -> list[list[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


# Queries that are compared without the BLAS.
_FEW = 3


def similarities(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the products of each query with each row.

    The BLAS divides even one query among its threads, and callers in several threads then wait for these
    threads in turn: eight searches at once took eight times the CPU time of one after the other. Reading the
    rows is what takes the time, so few queries are as fast in the caller's own thread.

    Args:
        queries: `(Q, D)` float32.
        rows: `(N, D)` float32.

    Returns:
        `(Q, N)` float32.
    """
    if len(queries) > _FEW:
        products: np.ndarray = queries @ rows.T
        return products
    found: np.ndarray = np.einsum("qd,nd->qn", queries, rows)
    return found


def _ranked(query: np.ndarray, candidates: Sequence[Candidate]) -> list[Hit]:
    """Measure the candidates again, so that every engine gives the same scores and order."""
    if not candidates:
        return []
    rows = np.stack([candidate.embedding for candidate in candidates])
    # einsum sums every row in the same order, unlike a matrix product: equal embeddings get equal scores.
    scores = np.einsum("nd,d->n", rows.astype(np.float64), query.astype(np.float64)).astype(np.float32)
    hits = [Hit(candidate.entry, float(score)) for candidate, score in zip(candidates, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.entry.key))


def rerank(
    gallery: Gallery,
    query: np.ndarray,
    hits: Sequence[Hit],
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> list[Hit]:
    """Re-rank the hits of a query among themselves by k-reciprocal encoding (`evaluation.reranking`).

    Args:
        gallery: the gallery of the hits.
        query: `(D,)` embedding of the query.
        hits: the first hits of its list; a hundred or more, so that there are neighbours.
        k1: neighbours that describe an image.
        k2: neighbours to average over.
        lambda_value: weight of the original distance, in [0, 1].

    Returns:
        The same hits with their original scores, in the new order.

    Raises:
        UserError: an entry was deleted meanwhile, or a value is out of range.

    Example:
        >>> hits = gallery.search(query[None], top=100)[0]
        >>> best = rerank(gallery, query, hits)[:20]
    """
    from san_tf.evaluation.reranking import rerank as distances_of

    if len(hits) < 2:
        return list(hits)
    rows = gallery.embeddings([hit.entry.key for hit in hits])
    queries = np.asarray(query, np.float32)[None]
    distances = distances_of(queries, rows, k1, k2, lambda_value, metric="cosine")[0]
    return [hits[place] for place in np.argsort(distances, kind="stable")]
