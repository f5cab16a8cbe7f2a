"""Functions of the page, independent of HTTP: uploads, searches, pictures, textures."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from san_tf.data.headers import read_header
from san_tf.data.quality import CropQuality, crop_quality
from san_tf.data.upright import PhotographError, upright
from san_tf.page.page_encoder import Network
from san_tf.page.questions import Listing, RefusedError, Search
from san_tf.retrieval.embedded import STORE
from san_tf.retrieval.entries import ASKING, Entry, Hit
from san_tf.retrieval.gallery import FIRST_NAMED, Candidate, Gallery, GalleryInfo, gallery_pictures, rerank
from san_tf.retrieval.image_files import NoPictureError

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Thread-safe cache of limited size, our own because `cachetools` refuses a value above the capacity.

    It drops the least recently used value first. `cachetools` would also need a lock around each call, so it
    would save few lines for one more dependency.

    Args:
        capacity: largest sum of sizes.
        size: function that returns the size of a value; None counts each as 1.

    Example:
        >>> thumbnails = Recent(64 * 2**20, len)
        >>> thumbnails.put("a.jpg", content)
        >>> thumbnails.get("a.jpg") is content
        True
    """

    def __init__(self, capacity: int, size: Callable[[Value], int] | None = None) -> None:
        self._capacity = capacity
        self._size = size or (lambda value: 1)
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> Value | None:
        """Return a value; None if it is not in the cache."""
        with self._lock:
            if name not in self._values:
                return None
            self._values.move_to_end(name)
            return self._values[name]

    def put(self, name: str, value: Value) -> None:
        """Store a value; one larger than the capacity stays until the next comes."""
        with self._lock:
            if name in self._values:
                self._held -= self._size(self._values.pop(name))
            self._values[name] = value
            self._held += self._size(value)
            while self._held > self._capacity and len(self._values) > 1:
                _, forgotten = self._values.popitem(last=False)
                self._held -= self._size(forgotten)

    def __len__(self) -> int:
        return len(self._values)


# Entries that are inspected to see whether the gallery has times, identities and pictures.
_SAMPLE = 500
_MAX_TAGS = 500
_MB = 2**20


class GoneError(RefusedError):
    """A requested entry, upload or file does not exist, or no longer."""


@dataclass(frozen=True)
class Upload:
    """A picture that was dropped on the page; kept only in memory."""

    content: bytes
    embedding: np.ndarray


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        query: the entry that was the query; None for an upload.
        pid: identity of the query, where known.
        hits: best first, without the query itself.
        seconds: time of the search.
    """

    query: Entry | None
    pid: int | None
    hits: list[Hit]
    seconds: float


class PageService:
    """A gallery with its encoder, as the page uses them.

    Answers are always of the present gallery: entries are looked up each time, and pictures are cached by
    their content. Photographs come from the folder that the gallery names when this object is made.

    Args:
        gallery: the gallery to search.
        network: encoder of the gallery's embeddings.
        name: name of the gallery to show.
        open_to_change: opens the gallery for changes; None if entries are neither added nor deleted.

    Attributes:
        after_deletion: is called when entries were deleted; None for nothing.

    Raises:
        UserError: the gallery was made with another encoder.
    """

    def __init__(
        self,
        gallery: Gallery,
        network: Network,
        name: str,
        open_to_change: Callable[[], AbstractContextManager[Gallery]] | None = None,
    ) -> None:
        own = GalleryInfo(network.size, network.name, network.fingerprint)
        gallery.info.check_encoder(gallery.name, own)
        self._gallery, self._network, self._name = gallery, network, name
        self._images = gallery_pictures(gallery.info)
        self._place = _file_of(gallery.name)
        self._open_to_change = open_to_change
        self.after_deletion: Callable[[], object] | None = None
        self._uploads: Recent[Upload] = Recent(128 * _MB, lambda upload: len(upload.content))
        self._pictures: Recent[tuple[bytes, str]] = Recent(64 * _MB, lambda picture: len(picture[0]))
        self._textures: Recent[bytes] = Recent(64 * _MB, len)
        self._qualities: Recent[CropQuality] = Recent(10_000)

    def warm_up(self) -> None:
        """Run everything once, because the first run compiles and loads."""
        self._network.warm_up()
        asked = ASKING.set(None)  # the audit log has the searches of people
        try:
            for entry in self._gallery.entries(limit=1):
                self.search(Search(key=entry.key, rerank=50))
        finally:
            ASKING.reset(asked)

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to know of the gallery and its encoder."""
        self._check_place()
        sample, cameras = self._gallery.entries(limit=_SAMPLE), self._gallery.cameras()
        return {
            "name": self._name,
            "entries": len(self._gallery),
            "cameras": cameras,
            "camera_names": {
                str(number): self.camera_name(number) for number in cameras if number >= FIRST_NAMED
            },
            "tags": self._gallery.tags()[:_MAX_TAGS],
            "model": self._network.name,
            "paints": self._network.paints,
            "times": any(entry.time is not None and math.isfinite(entry.time) for entry in sample),
            "identities": any(entry.pid is not None for entry in sample),
            "pictures": bool(self._images) and any(entry.image for entry in sample),
        }

    @property
    def model(self) -> str:
        """Name of the encoder to show."""
        return self._network.name

    @property
    def name(self) -> str:
        """Name of the gallery to show."""
        return self._name

    @property
    def network(self) -> Network:
        """The gallery's encoder."""
        return self._network

    @property
    def gallery(self) -> Gallery:
        """The gallery to search.

        Raises:
            GoneError: it was removed or replaced.
        """
        self._check_place()
        return self._gallery

    def open_to_change(self) -> AbstractContextManager[Gallery]:
        """Open the gallery to add or delete entries.

        Raises:
            GoneError: as `gallery`.
            RefusedError: the server was started for reading only.
        """
        self._check_place()
        if self._open_to_change is None:
            raise RefusedError("The gallery is open for reading only; start the server with --writable.")
        return self._open_to_change()

    @property
    def has_pictures(self) -> bool:
        """Whether the photographs of the entries may be read."""
        return bool(self._images)

    def camera_name(self, camera: int) -> str:
        """Return the name of a camera, or its number; "" where it is unknown."""
        return self._gallery.info.camera_name(camera)

    def listing(self, wanted: Listing) -> list[Entry]:
        """Return a part of the gallery, in the order of its keys."""
        self._check_place()
        return self._gallery.entries(wanted.where.filter(), wanted.start, wanted.limit)

    def upload(self, content: bytes) -> str:
        """Keep a picture in memory for searches, and return its name for later requests.

        Raises:
            RefusedError: the content is not a picture, is damaged, or has too many pixels.
        """
        name = secrets.token_urlsafe(16)
        self._uploads.put(name, Upload(content, self._network.embed(content)))
        return name

    def search(self, wanted: Search) -> Found:
        """Find the entries nearest to a query.

        Raises:
            GoneError: the entry or upload does not exist, or no longer.
        """
        began = time.perf_counter()
        if wanted.key is not None:
            found = self._candidate(wanted.key)
            query, embedding, pid = found.entry, found.embedding, found.entry.pid
        else:
            self._check_place()
            query = None
            embedding, pid = self._upload(wanted.upload or "").embedding, wanted.pid
        count = max(wanted.top, wanted.rerank) + (query is not None)
        hits = self._gallery.search(embedding[None], count, wanted.where.filter())[0]
        hits = [hit for hit in hits if query is None or hit.entry.key != query.key]
        if wanted.rerank:
            hits = self._reranked(embedding, hits, wanted.rerank)
        return Found(query, pid, hits[: wanted.top], time.perf_counter() - began)

    def picture(self, key: str) -> tuple[bytes, str]:
        """Return an entry's picture for the page, and its media type.

        Raises:
            GoneError: the entry does not exist, or has no picture.
            NoPictureError: its picture is missing or cannot be used.
        """
        content = self._content(key)
        return _made_once(self._pictures, _digest(content), lambda: for_page(content))

    def texture(self, key: str) -> bytes:
        """Return the texture of an entry, as PNG.

        Raises:
            RefusedError: the entry has no picture, or the encoder paints no textures.
            NoPictureError: as `picture`.
        """
        return self._texture(self._content(key))

    def upload_texture(self, name: str) -> bytes:
        """Return the texture of an uploaded picture, as PNG.

        Raises:
            RefusedError: the upload was dropped, or the encoder paints no textures.
        """
        return self._texture(self._upload(name).content)

    def pixels(self, wanted: Search) -> np.ndarray | None:
        """Return the query's picture, `(H, W, 3)` uint8; None if it has none."""
        if wanted.upload is not None:
            return pixels_for_page(self._upload(wanted.upload).content)
        return self.entry_pixels(wanted.key or "")

    def quality(self, wanted: Search) -> CropQuality:
        """Return whether the query's picture shows something, judged once for each content."""
        # Decoding would take more than half as long as the search itself.
        try:
            content = (
                self._upload(wanted.upload).content if wanted.upload else self._content(wanted.key or "")
            )
            judged: CropQuality = _made_once(
                self._qualities, _digest(content), lambda: crop_quality(pixels_for_page(content))
            )
        except ValueError:  # no picture
            return CropQuality(1.0, "")
        return judged

    def entry_pixels(self, key: str) -> np.ndarray | None:
        """Return an entry's picture, `(H, W, 3)` uint8; None if it has none."""
        try:
            return pixels_for_page(self._content(key))
        except ValueError:
            return None

    def decoded(self, paint: Callable[[str], bytes], name: str) -> np.ndarray | None:
        """Return a texture, `(T, T, 3)` uint8, by `texture` or `upload_texture`; None if there is none."""
        try:
            return np.asarray(Image.open(io.BytesIO(paint(name))).convert("RGB"))
        except ValueError:
            return None

    def _texture(self, content: bytes) -> bytes:
        return _made_once(self._textures, _digest(content), lambda: self._painted(content))

    def _painted(self, content: bytes) -> bytes:
        target = io.BytesIO()
        Image.fromarray(self._network.paint(content)).save(target, "PNG")
        return target.getvalue()

    def _content(self, key: str) -> bytes:
        entry = self._candidate(key).entry
        if not self._images or not entry.image:
            raise GoneError("This entry has no picture.")
        return self._images.read(entry.image)

    def _upload(self, name: str) -> Upload:
        upload = self._uploads.get(name)
        if upload is None:
            raise GoneError("The uploaded picture is no longer in memory; drop it on the page again.")
        return upload

    def _candidate(self, key: str) -> Candidate:
        self._check_place()
        found = self._gallery.lookup([key]).get(key)
        if found is None:
            raise GoneError("The gallery does not hold this entry, or no longer.")
        return found

    def _check_place(self) -> None:
        # A deleted file stays readable, with all its people, as long as this process has it open.
        if self._place is not None and self._place != _file_of(self._gallery.name):
            raise GoneError("The gallery was removed or replaced since the page was started; start it again.")

    def _reranked(self, embedding: np.ndarray, hits: list[Hit], first: int) -> list[Hit]:
        return [*rerank(self._gallery, embedding, hits[:first]), *hits[first:]]


def _file_of(gallery: str) -> tuple[int, int, int] | None:
    """Return device and inodes of a gallery on this machine; None for one in memory or on a server."""
    folder = Path(gallery)
    try:
        return folder.stat().st_dev, folder.stat().st_ino, (folder / STORE).stat().st_ino
    except OSError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _made_once(memory: Recent[Any], name: str, make: Callable[[], Any]) -> Any:
    value = memory.get(name)
    if value is None:
        value = make()
        memory.put(name, value)
    return value


# The page shows crops at some 200 pixels, twice that on high-resolution screens.
_SIDE = 512
# Decoded and copied, a picture takes some 12 bytes per pixel, so 16 of the largest would take 10 GB. Pictures
# of more pixels than this are handled one at a time; app.py limits the number of smaller ones.
_LARGE = 2_000_000
_one_large = threading.Lock()


def for_page(content: bytes) -> tuple[bytes, str]:
    """Return a picture for the page, and its media type.

    It is always decoded and encoded again, at most 512 pixels wide and high. Metadata are dropped: place,
    time and device in EXIF, XMP, comments, previews, bytes after the end. A PNG file keeps its pixels unless
    it is made smaller.

    Args:
        content: the bytes of the file.

    Raises:
        NoPictureError: the file cannot be used, has too many pixels, or cannot be decoded.
    """
    target = io.BytesIO()
    with _opened(content) as (image, kind):
        if kind == "png" and max(image.size) <= _SIDE:
            _bare(image).save(target, "PNG", compress_level=1)
            return target.getvalue(), "image/png"
        image.thumbnail((_SIDE, _SIDE))
        _bare(image).save(target, "JPEG", quality=92, subsampling=0)
    return target.getvalue(), "image/jpeg"


def pixels_for_page(content: bytes) -> np.ndarray:
    """Return the picture of `for_page` as `(H, W, 3)` uint8 RGB.

    Raises:
        NoPictureError: as `for_page`.
    """
    with _opened(content) as (image, _):
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(image)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[tuple[Image.Image, str]]:
    """Open a picture as the encoder sees it, in RGB, with the format of its file."""
    with _one_large if _may_be_large(content) else contextlib.nullcontext():
        try:
            content = upright(content)
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as stored:
                kind = "png" if stored.format == "PNG" else "jpeg"
                stored.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # a JPEG is decoded at a reduced size
                stored.load()
                image = _eight_bits(stored)
                if image.mode != "RGB":  # else `convert` would copy it for nothing
                    image = image.convert("RGB")
        except PhotographError as error:
            raise NoPictureError(f"The picture {error}.") from error
        except Exception as error:  # Pillow raises errors of many kinds for corrupt files
            raise NoPictureError("The picture is damaged: it cannot be decoded.") from error
        yield image, kind


def _may_be_large(content: bytes) -> bool:
    try:
        header = read_header(content)
    except ValueError:  # another format, whose size only decoding shows, or not an image
        return True
    return header.height * header.width > _LARGE


def _bare(image: Image.Image) -> Image.Image:
    """Return only the pixels: Pillow would copy the file's comment and colour profile."""
    return Image.fromarray(np.asarray(image))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16 bits in 8 bits: Pillow would clip at 255 instead of dividing."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
