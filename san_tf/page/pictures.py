"""Pictures for the page: small, upright, and without what a camera or a program wrote beside the pixels."""

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

# A page shows crops at some 200 pixels, twice that on fine screens.
_SIDE = 512
# Decoded and copied, a picture takes some 12 bytes a pixel, so 16 at once of the largest would take 10 GB.
# Those of more pixels than this wait for each other; app.py bounds how many smaller ones there are at a time.
_LARGE = 2_000_000
_one_large = threading.Lock()


def for_page(content: bytes) -> tuple[bytes, str]:
    """Return a picture for a page, and its media type.

    It is always decoded and stored anew, at most 512 pixels wide and high. What stands beside the pixels does
    not go along: place, time and device in EXIF, XMP, comments, previews, bytes behind the end. A PNG file
    keeps its pixels unless it is made smaller.

    Args:
        content: of the file.

    Raises:
        NoPictureError: it cannot be used, has too many pixels, or cannot be decoded.
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
    """The picture of `for_page` as `(H, W, 3)` uint8 RGB.

    Raises:
        NoPictureError: as `for_page`.
    """
    with _opened(content) as (image, _):
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(image)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[tuple[Image.Image, str]]:
    """A picture as the encoder sees it, in RGB, and the format of its file."""
    with _one_large if _may_be_large(content) else contextlib.nullcontext():
        try:
            content = upright(content)
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as stored:
                kind = "png" if stored.format == "PNG" else "jpeg"
                stored.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # a JPEG is decoded at the size that is needed
                stored.load()
                image = _eight_bits(stored)
                if image.mode != "RGB":  # even then `convert` would copy it
                    image = image.convert("RGB")
        except PhotographError as error:
            raise NoPictureError(f"The picture {error}.") from error
        except Exception as error:  # whatever Pillow meets in bytes that nobody wrote on purpose
            raise NoPictureError("The picture is damaged: it cannot be decoded.") from error
        yield image, kind


def _may_be_large(content: bytes) -> bool:
    try:
        header = read_header(content)
    except ValueError:  # of another format, which only decoding tells, or none
        return True
    return header.height * header.width > _LARGE


def _bare(image: Image.Image) -> Image.Image:
    """The pixels alone: Pillow writes a comment and a colour profile of the file into the next one."""
    return Image.fromarray(np.asarray(image))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16 bits off at 255, where it should divide."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
