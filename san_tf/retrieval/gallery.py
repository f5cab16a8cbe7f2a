"""What every gallery does, whatever keeps it: add, search, filter, list, delete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from san_tf.errors import UserError
from san_tf.retrieval.checks import checked_embeddings, checked_entries
from san_tf.retrieval.entries import EVERYTHING, Entry, Filter, Hit

# Candidates beyond those asked for: an engine's rounding may have put one just behind.
_SPARE = 8


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery knows of the encoder whose embeddings it holds, and of its photographs.

    Attributes:
        size: numbers of an embedding.
        model: folder of the encoder's export, such as `saved_models/market/1`; "" where it is not known.
        fingerprint: of the encoder's weights and preprocessing (`serving.fingerprint`); "" where not known.
        images: folder that the entries' images are in; None where there are no photographs.
    """

    size: int
    model: str = ""
    fingerprint: str = ""
    images: str | None = None

    def check_encoder(self, gallery: str, encoder: GalleryInfo) -> None:
        """Refuse another encoder: its embeddings cannot be compared with those in the gallery.

        Args:
            gallery: name of the gallery that has this information.
            encoder: size and fingerprint of the one that is to be used; an unknown fingerprint passes.

        Raises:
            UserError: they differ.
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


@dataclass(frozen=True)
class Candidate:
    """What an engine proposes for a query: an entry and its `(D,)` float32 embedding of length 1."""

    entry: Entry
    embedding: np.ndarray


class Gallery(ABC):
    """Embeddings with their entries.

    An engine implements the methods that begin with an underscore, and `entries`, `cameras`, `tags`,
    `__len__` and `close`; what users give is checked here, once. Methods may be called from several threads.

    Args:
        name: of the gallery, for messages: its path or address.
        info: its encoder and photographs.
        read_only: refuse changes.

    Example:
        >>> with open_gallery("people.gallery", create=GalleryInfo(512, "market/1")) as gallery:
        ...     gallery.add(embeddings, [Entry("a.jpg", camera=0), Entry("b.jpg", camera=1)])
        ...     hits = gallery.search(query[None], top=5, where=Filter(excluded_cameras=(0,)))[0]
        >>> hits[0].entry.key, hits[0].score
        ('b.jpg', 0.93)
    """

    def __init__(self, name: str, info: GalleryInfo, read_only: bool = False) -> None:
        self.name = name
        self.info = info
        self._read_only = read_only

    def add(self, embeddings: np.ndarray, entries: Sequence[Entry]) -> None:
        """Add entries; those of keys that are there already replace them. On disk when it returns.

        Args:
            embeddings: `(N, D)` numbers; they are kept as float32 of length 1.
            entries: N of them; of the same key, the last counts.

        Raises:
            UserError: sizes that do not fit the gallery, values that are not finite or all 0, entries that
                are none; the disk is full, then nothing of this call is in the gallery.
        """
        self._refuse_if_read_only()
        rows = checked_embeddings(self.name, self.info.size, embeddings)
        checked = checked_entries(self.name, entries, len(rows))
        last = {entry.key: number for number, entry in enumerate(checked)}
        if not last:
            return
        kept = sorted(last.values())
        self._add(np.ascontiguousarray(rows[kept]), [checked[number] for number in kept])

    def search(self, queries: np.ndarray, top: int = 20, where: Filter = EVERYTHING) -> list[list[Hit]]:
        """Find the entries nearest to each query.

        Args:
            queries: `(Q, D)` embeddings by the gallery's encoder, of any length but 0.
            top: entries a query, at most.
            where: which entries count.

        Returns:
            A list a query, best first; equal scores in the order of their keys. It is shorter than `top`
            only where fewer entries pass `where`.

        Raises:
            UserError: sizes that do not fit the gallery, values that are not finite or all 0.
        """
        rows = checked_embeddings(self.name, self.info.size, queries)
        if top < 1:
            raise UserError(f"A search finds at least 1 entry, not {top}; ask for more.")
        if not len(rows):
            return []
        found = self._candidates(rows, top + _SPARE, where)
        return [_ranked(row, candidates, top) for row, candidates in zip(rows, found, strict=True)]

    def delete(self, keys: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Delete entries by key, or those that pass a filter (`Filter()`: all of them).

        Args:
            keys: some may not be there.
            where: used if `keys` is None.

        Returns:
            How many there were.

        Raises:
            UserError: neither or both are given.
        """
        self._refuse_if_read_only()
        if (keys is None) == (where is None):
            raise UserError("Name the keys to delete, or a filter for them; one of both.")
        if keys is None:
            return self._delete_where(where or EVERYTHING)
        return self._delete(list(dict.fromkeys(keys)))

    def embeddings(self, keys: Sequence[str]) -> np.ndarray:
        """Return the embeddings of entries, `(N, D)` float32 of length 1, in the order of `keys`.

        Raises:
            UserError: a key is not there.
        """
        found = self.lookup(keys)
        missing = next((key for key in keys if key not in found), None)
        if missing is not None:
            raise UserError(f"{self.name} holds no entry {missing}; `san-tf gallery list` shows its keys.")
        rows = [found[key].embedding for key in keys]
        return np.stack(rows) if rows else np.empty((0, self.info.size), np.float32)

    def lookup(self, keys: Sequence[str]) -> dict[str, Candidate]:
        """Return what is under the keys now, entry and embedding of one moment; missing keys are left out."""
        return self._lookup(list(dict.fromkeys(keys)))

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise UserError(f"The gallery {self.name} was opened to be read only; open it to be changed.")

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that are in the gallery."""
        return self._known(list(dict.fromkeys(keys)))

    def optimize(self) -> None:  # noqa: B027  # most engines see to it themselves
        """Make searches as fast as they can be, after much was added.

        Raises:
            UserError: the disk is full; the gallery is as it was.
        """

    @abstractmethod
    def entries(self, where: Filter = EVERYTHING, start: int = 0, limit: int | None = None) -> list[Entry]:
        """List entries in the order of their keys.

        Args:
            where: which entries count.
            start: how many to pass over.
            limit: how many at most; None for all.
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
        """Let go of files and connections."""

    @abstractmethod
    def _add(self, rows: np.ndarray, entries: list[Entry]) -> None:
        """Store `(N, D)` float32 rows of length 1 under different keys, replacing; durable on return."""

    @abstractmethod
    def _candidates(self, queries: np.ndarray, count: int, where: Filter) -> Iterable[list[Candidate]]:
        """Return for each of `(Q, D)` float32 queries of length 1 the `count` nearest entries, any order."""

    @abstractmethod
    def _delete(self, keys: list[str]) -> int:
        """Delete by different keys; return how many there were."""

    @abstractmethod
    def _delete_where(self, where: Filter) -> int:
        """Delete what passes; return how many there were."""

    @abstractmethod
    def _lookup(self, keys: list[str]) -> dict[str, Candidate]:
        """Return what is under those of the different keys that are there."""

    @abstractmethod
    def _known(self, keys: list[str]) -> set[str]:
        """Return those of the different keys that are there."""

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ranked(query: np.ndarray, candidates: Sequence[Candidate], top: int) -> list[Hit]:
    """Measure the candidates anew, all alike, so that every engine gives the same scores and order."""
    if not candidates:
        return []
    rows = np.stack([candidate.embedding for candidate in candidates])
    # einsum sums every row in the same order, wherever it stands, and a matrix product need not: two entries
    # of the same embedding have the same score.
    scores = np.einsum("nd,d->n", rows.astype(np.float64), query.astype(np.float64)).astype(np.float32)
    hits = [Hit(candidate.entry, float(score)) for candidate, score in zip(candidates, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.entry.key))[:top]
