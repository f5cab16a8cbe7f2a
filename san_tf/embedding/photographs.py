"""Files as cameras, phones and scanners write them, brought to what an exported encoder decodes."""

from __future__ import annotations

import io

import tensorflow as tf
from PIL import Image

from san_tf.data.headers import read_header
from san_tf.data.images import decode_image

# Three times a phone's photograph; decoded, it takes 150 MB.
MAX_PIXELS = 50_000_000
_ORIENTATION = 0x0112
# EXIF: what to do with the stored picture, as flips of (rows, columns) after an exchange of both.
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class PhotographError(ValueError):
    """A file cannot be used. The message is half a sentence, such as "is empty"."""


def upright(content: bytes) -> bytes:
    """Return a file that decodes to the picture as it is meant to be seen.

    The header is looked at, no pixel: a file of absurd size costs nothing. Colours need no care here, the
    decoder of the exported graph takes grey, CMYK, 16 bits and transparency as training does. But it ignores
    the EXIF orientation, as crops of surveillance cameras have none; where a file has one, its picture is
    turned and stored again without loss.

    Args:
        content: of the file.

    Returns:
        `content` itself unless it had to be turned.

    Raises:
        PhotographError: it is neither JPEG nor PNG, is cut off, has more than `MAX_PIXELS`, or cannot be
            decoded to be turned.

    Example:
        >>> upright(b"hello")
        Traceback (most recent call last):
        san_tf.embedding.photographs.PhotographError: is neither a JPEG nor a PNG file
    """
    try:
        header = read_header(content)
    except ValueError as error:
        raise PhotographError(str(error)) from None
    if header.height * header.width > MAX_PIXELS:
        raise PhotographError(
            f"has {header.width} x {header.height} pixels, more than {MAX_PIXELS // 1_000_000} million"
        )
    change = _UPRIGHT.get(_orientation(content))
    if change is None:
        return content
    exchange, rows, columns = change
    try:
        with tf.device("CPU"):
            image = decode_image(tf.constant(content)).numpy()
            image = image.transpose(1, 0, 2) if exchange else image
            image = image[:: -1 if rows else 1, :: -1 if columns else 1]
            return bytes(tf.io.encode_png(tf.constant(image)).numpy())
    except tf.errors.InvalidArgumentError:
        raise PhotographError("is damaged: it cannot be decoded") from None


def is_decodable(content: bytes) -> bool:
    """Whether the decoder of exported graphs takes the file."""
    try:
        with tf.device("CPU"):
            decode_image(tf.constant(content))
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _orientation(content: bytes) -> int:
    """The EXIF orientation, 1 (as stored) where there is none or it cannot be read."""
    if b"Exif" not in content[:4096] and b"eXIf" not in content[:4096]:
        return 1
    try:
        with Image.open(io.BytesIO(content)) as image:  # reads the header
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever Pillow meets in bytes that nobody wrote on purpose
        return 1
