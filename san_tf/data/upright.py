"""Photographs as cameras, phones and scanners store them, brought to files that decode as they are seen.

Without TensorFlow, so that commands, the page and the client of a server see the same picture of a file.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from san_tf.data.headers import read_header, read_orientation
from san_tf.image_formats import jpeg_or_png

# Three times a phone's photograph; decoded, it takes 150 MB.
MAX_PIXELS = 50_000_000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotographError(ValueError):
    """A file cannot be used. The message is half a sentence, such as "is empty"."""


def upright(content: bytes) -> bytes:
    """Return a JPEG or PNG file that decodes to the picture as it is meant to be seen.

    The header is looked at before any pixel: a file of absurd size costs nothing. A JPEG or PNG file that
    stands upright is returned as it is; grey, CMYK, 16 bits and transparency are the decoder's, as in
    training. One with an EXIF orientation is turned, and a file of another format (see
    `san_tf.image_formats`) converted; both are stored as PNG without loss. `images.decode_image` follows the
    orientation by itself; this is for decoders that do not: exports of former versions, and figures.

    Args:
        content: of the file.

    Returns:
        `content` itself wherever possible. Of several pictures in a file (an animation, pages) the first.

    Raises:
        PhotographError: it is of no format that is read, is cut off, has more than `MAX_PIXELS`, or has to be
            turned or converted and cannot be decoded.

    Example:
        >>> upright(b"hello")
        Traceback (most recent call last):
        san_tf.data.upright.PhotographError: is not an image of a format that is read here
    """
    try:
        content = jpeg_or_png(content, MAX_PIXELS)
        header = read_header(content)
    except ValueError as error:
        raise PhotographError(str(error)) from None
    if header.height * header.width > MAX_PIXELS:
        raise PhotographError(
            f"has {header.width} x {header.height} pixels, more than {MAX_PIXELS // 1_000_000} million"
        )
    orientation = read_orientation(content)
    if orientation == 1:
        return content
    stored = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            # Compressed a little: what is stored here is decoded at once.
            _eight_bits(image).transpose(_TURNS[orientation]).save(stored, "PNG", compress_level=1)
    except MemoryError:
        raise
    except Exception as error:  # whatever Pillow meets in bytes that nobody wrote on purpose
        raise PhotographError("is damaged: it cannot be decoded") from error
    return stored.getvalue()


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB, 8 bits; Pillow cuts 16 bits off at 255, where it should divide."""
    image.load()
    if image.mode.startswith("I"):
        high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        image = Image.fromarray(high)
    return image.convert("RGB")
