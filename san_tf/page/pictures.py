"""Pictures for the page: small, upright and without metadata."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator

import numpy as np
from PIL import Image

from san_tf.data.headers import read_header
from san_tf.data.upright import PhotographError, upright
from san_tf.retrieval.image_files import NoPictureError

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
