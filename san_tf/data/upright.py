"""Turns photographs of cameras, phones and scanners into upright JPEG or PNG files.

It does not need TensorFlow, so commands, the page and the client of a server see the same image.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from san_tf.data.headers import read_header, read_orientation
from san_tf.image_formats import jpeg_or_png

# Three times a phone photograph; takes 150 MB when decoded.
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
    """The file cannot be used; the message is half a sentence, such as "is empty"."""


def upright(content: bytes) -> bytes:
    """Return a JPEG or PNG file that decodes to the upright image.

    The header is checked before any pixel is decoded, so a huge image costs nothing. An upright JPEG or PNG
    file is returned unchanged; the decoder handles grey, CMYK, 16 bits and transparency, as in training. A
    file with an EXIF orientation is turned, and another format (see `san_tf.image_formats`) is converted;
    both become PNG without loss. `images.decode_image` applies the orientation itself. This function is for
    decoders that do not: exports of earlier versions, and figures.

    Args:
        content: the file's bytes.

    Returns:
        `content` itself if possible. Of a file with several images (animation, pages), the first.

    Raises:
        PhotographError: the format is unknown, the file is cut off, it has more than `MAX_PIXELS` pixels, or
            it must be turned or converted but cannot be decoded.

    Example:
        >>> upright(b"hello")
        Traceback (most recent call last):
        san_tf.data.upright.PhotographError: is not an image in a supported format
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
            # Low compression, because the result is decoded again right away.
            eight_bits(image).transpose(_TURNS[orientation]).save(stored, "PNG", compress_level=1)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors for damaged bytes
        raise PhotographError("is damaged: it cannot be decoded") from error
    return stored.getvalue()


def eight_bits(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; Pillow itself would clip 16 bits at 255 instead of dividing."""
    image.load()
    if image.mode.startswith("I"):
        high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        image = Image.fromarray(high)
    return image.convert("RGB")
