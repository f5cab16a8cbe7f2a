"""Pictures of a gallery's folder, and of no other place, small enough for a page."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from san_tf.data.headers import ImageHeader, read_header
from san_tf.embedding.photographs import MAX_PIXELS
from san_tf.retrieval.image_files import NoPictureError

# A page shows crops at some 200 pixels, twice that on fine screens.
_SIDE = 512


def checked_header(content: bytes) -> ImageHeader:
    """What the first bytes of a JPEG or PNG file say.

    Raises:
        NoPictureError: it is neither, is cut off there, or has more than `MAX_PIXELS`.
    """
    try:
        header = read_header(content)
    except ValueError as error:
        raise NoPictureError(f"The picture {error}.") from error
    if header.height * header.width > MAX_PIXELS:
        raise NoPictureError(
            f"The picture has {header.width} x {header.height} pixels, more than {MAX_PIXELS // 1_000_000} "
            "million."
        )
    return header


def for_page(content: bytes) -> tuple[bytes, str]:
    """Return a picture for a page, and its media type.

    A crop goes as it is. Anything larger is made smaller, which also leaves out what a camera wrote
    beside the pixels, such as the place.

    Args:
        content: of a JPEG or PNG file.

    Raises:
        NoPictureError: it is neither, has too many pixels, or cannot be decoded.
    """
    header = checked_header(content)
    if max(header.height, header.width) <= _SIDE and b"Exif" not in content[:4096]:
        return content, f"image/{header.format}"
    with _opened(content) as image:
        image.thumbnail((_SIDE, _SIDE))
        target = io.BytesIO()
        image.save(target, "JPEG", quality=90)
        return target.getvalue(), "image/jpeg"


def pixels_for_page(content: bytes) -> np.ndarray:
    """The picture of `for_page` as `(H, W, 3)` uint8 RGB.

    Raises:
        NoPictureError: as `for_page`.
    """
    checked_header(content)
    with _opened(content) as image:
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(image)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """An upright RGB picture."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # a JPEG is decoded at the size that is needed
            yield _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise NoPictureError("The picture is damaged: it cannot be decoded.") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16 bits off at 255, where it should divide."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
