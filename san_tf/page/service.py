"""What the page does, whoever carries the questions: uploads, searches, pictures, textures."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from san_tf.errors import UserError
from san_tf.page.network import Network
from san_tf.page.pictures import checked_header, for_page, pixels_for_page
from san_tf.page.questions import Listing, Search
from san_tf.page.recent import Recent
from san_tf.retrieval.entries import Entry, Hit
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.image_files import read_inside

# Of a gallery's entries, so many tell whether it knows times, identities and pictures.
_SAMPLE = 500
_MAX_TAGS = 500
_MB = 2**20


class GoneError(UserError):
    """What is asked for is not here, or not any more. The message is a sentence."""


@dataclass(frozen=True)
class Upload:
    """A picture that was dropped on the page: it is in memory, and nowhere else."""

    content: bytes
    embedding: np.ndarray


@dataclass(frozen=True)
class Found:
    """An answer.

    Attributes:
        query: the entry that was looked for; None for an upload.
        pid: who that is, where it is known.
        hits: best first, without the query itself.
        seconds: that the search took.
    """

    query: Entry | None
    pid: int | None
    hits: list[Hit]
    seconds: float


class PageService:
    """A gallery and its encoder.

    Args:
        gallery: what is searched.
        network: made the gallery's embeddings.
        name: of the gallery, for people.

    Raises:
        UserError: the gallery was made with another encoder.
    """

    def __init__(self, gallery: Gallery, network: Network, name: str) -> None:
        own = GalleryInfo(network.size, network.name, network.fingerprint)
        gallery.info.check_encoder(gallery.name, own)
        self._gallery, self._network, self._name = gallery, network, name
        self._uploads: Recent[Upload] = Recent(128 * _MB, lambda upload: len(upload.content))
        self._shown: Recent[Entry] = Recent(50_000)
        self._pictures: Recent[tuple[bytes, str]] = Recent(64 * _MB, lambda picture: len(picture[0]))
        self._textures: Recent[bytes] = Recent(64 * _MB, len)

    def warm_up(self) -> None:
        """Do everything once, so that nobody waits for what compiles or loads at its first time."""
        self._network.warm_up()
        for entry in self._gallery.entries(limit=1):
            self.search(Search(key=entry.key, rerank=50))

    def facts(self) -> dict[str, Any]:
        """What the page has to know of the gallery and its encoder."""
        sample = self._gallery.entries(limit=_SAMPLE)
        return {
            "name": self._name,
            "entries": len(self._gallery),
            "cameras": self._gallery.cameras(),
            "tags": self._gallery.tags()[:_MAX_TAGS],
            "model": self._network.name,
            "paints": self._network.paints,
            "times": any(entry.time is not None for entry in sample),
            "identities": any(entry.pid is not None for entry in sample),
            "pictures": self._gallery.info.images is not None and any(entry.image for entry in sample),
        }

    def listing(self, wanted: Listing) -> list[Entry]:
        """A part of the gallery."""
        entries = self._gallery.entries(wanted.where.filter(), wanted.start, wanted.limit)
        self._remember(entries)
        return entries

    def upload(self, content: bytes) -> str:
        """Keep a picture in memory for searches, and return the name to ask for it by.

        Raises:
            UserError: it is no picture, is damaged, or has too many pixels.
        """
        name = secrets.token_urlsafe(16)
        self._uploads.put(name, Upload(content, self._network.embed(content)))
        return name

    def search(self, wanted: Search) -> Found:
        """Find who is most alike.

        Raises:
            UserError: there is no such entry or upload (any more).
        """
        began = time.perf_counter()
        if wanted.key is not None:
            query = self._entry(wanted.key)
            embedding, pid = self._gallery.embeddings([wanted.key])[0], query.pid
        else:
            query = None
            embedding, pid = self._upload(wanted.upload or "").embedding, wanted.pid
        count = max(wanted.top, wanted.rerank) + (query is not None)
        hits = self._gallery.search(embedding[None], count, wanted.where.filter())[0]
        hits = [hit for hit in hits if query is None or hit.entry.key != query.key]
        if wanted.rerank:
            hits = self._reranked(embedding, hits, wanted.rerank)
        hits = hits[: wanted.top]
        self._remember(hit.entry for hit in hits)
        return Found(query, pid, hits, time.perf_counter() - began)

    def picture(self, key: str) -> tuple[bytes, str]:
        """An entry's picture for the page, and its media type.

        Raises:
            UserError: there is none.
        """
        return _made_once(self._pictures, key, lambda: for_page(self._content(key)))

    def texture(self, key: str) -> bytes:
        """What the encoder's decoder paints of an entry, as PNG.

        Raises:
            UserError: there is no picture, or the encoder paints none.
        """
        return _made_once(self._textures, f"key {key}", lambda: self._painted(self._content(key)))

    def upload_texture(self, name: str) -> bytes:
        """What the encoder's decoder paints of an uploaded picture, as PNG.

        Raises:
            UserError: it is not here any more, or the encoder paints none.
        """
        upload = self._upload(name)
        return _made_once(self._textures, f"upload {name}", lambda: self._painted(upload.content))

    def pixels(self, wanted: Search) -> np.ndarray | None:
        """The query's picture, `(H, W, 3)` uint8; None if it has none."""
        if wanted.upload is not None:
            return pixels_for_page(self._upload(wanted.upload).content)
        return self.entry_pixels(wanted.key or "")

    def entry_pixels(self, key: str) -> np.ndarray | None:
        """An entry's picture, `(H, W, 3)` uint8; None if it has none."""
        try:
            return pixels_for_page(self._content(key))
        except ValueError:
            return None

    def decoded(self, paint: Callable[[str], bytes], name: str) -> np.ndarray | None:
        """A texture as `(T, T, 3)` uint8, by `texture` or `upload_texture`; None if there is none."""
        try:
            return np.asarray(Image.open(io.BytesIO(paint(name))).convert("RGB"))
        except ValueError:
            return None

    def _painted(self, content: bytes) -> bytes:
        target = io.BytesIO()
        Image.fromarray(self._network.paint(content)).save(target, "PNG")
        return target.getvalue()

    def _content(self, key: str) -> bytes:
        folder, entry = self._gallery.info.images, self._entry(key)
        if folder is None or not entry.image:
            raise GoneError("This entry has no picture.")
        content = read_inside(folder, entry.image)
        checked_header(content)
        return content

    def _upload(self, name: str) -> Upload:
        upload = self._uploads.get(name)
        if upload is None:
            raise GoneError("The uploaded picture is forgotten; drop it on the page again.")
        return upload

    def _remember(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._shown.put(entry.key, entry)

    def _entry(self, key: str) -> Entry:
        entry = self._shown.get(key)
        if entry is None:
            # Nothing in a gallery is nearer to an embedding than the entry it belongs to.
            found = self._gallery.search(self._gallery.embeddings([key]), 50)[0]
            entry = next((hit.entry for hit in found if hit.entry.key == key), None)
            if entry is None:
                raise GoneError("There is no such entry in the gallery.")
            self._remember([entry])
        return entry

    def _reranked(self, embedding: np.ndarray, hits: list[Hit], first: int) -> list[Hit]:
        from san_tf.retrieval.reranking import rerank

        return [*rerank(self._gallery, embedding, hits[:first]), *hits[first:]]


def _made_once(memory: Recent[Any], name: str, make: Callable[[], Any]) -> Any:
    value = memory.get(name)
    if value is None:
        value = make()
        memory.put(name, value)
    return value
