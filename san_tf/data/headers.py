"""Reads format, size and orientation of an encoded image without decoding it."""

from __future__ import annotations

import struct
from typing import NamedTuple

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# SOF0..SOF15 carry the frame size; C4 (Huffman tables), C8 (reserved) and CC (arithmetic coding) do not.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_ENDS = frozenset({0xD9, 0xDA})
_JPEG_APP1 = 0xE1  # the segment that may hold EXIF data
_EXIF = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
# TIFF field types: 16-bit and 32-bit unsigned integers.
TIFF_SHORT, TIFF_LONG = 3, 4


class ImageHeader(NamedTuple):
    """Format ("jpeg" or "png"), height and width in pixels, and colour channels of an encoded image."""

    format: str
    height: int
    width: int
    channels: int


def read_header(encoded: bytes) -> ImageHeader:
    """Read format, size and channels from the encoded bytes of a JPEG or PNG file.

    Args:
        encoded: the file's content.

    Returns:
        The header; a palette PNG has three channels, because it is decoded to RGB.

    Raises:
        ValueError: the bytes are empty, neither JPEG nor PNG, or cut off before the size. The message is
            half a sentence ("is empty"); callers put the file's name before it.

    Example:
        >>> read_header(Path("0001_c1s1_000151_00.jpg").read_bytes())
        ImageHeader(format='jpeg', height=128, width=64, channels=3)
    """
    if not encoded:
        raise ValueError("is empty")
    if encoded.startswith(_PNG_MAGIC):
        if len(encoded) < 26:
            raise ValueError("is a PNG file that is cut off")
        width, height = struct.unpack(">II", encoded[16:24])
        return _checked(ImageHeader("png", height, width, _PNG_CHANNELS.get(encoded[25], 0)))
    if encoded.startswith(b"\xff\xd8"):
        return _checked(_read_jpeg_header(encoded))
    raise ValueError("is neither a JPEG nor a PNG file")


def read_orientation(encoded: bytes) -> int:
    """Read the EXIF orientation of a JPEG or PNG file, wherever in the file it is.

    Orientations in XMP or in text chunks are ignored, as browsers do.

    Args:
        encoded: the file's content.

    Returns:
        EXIF orientation, 1 to 8; 1 (as stored) if it is missing or unreadable.

    Example:
        >>> read_orientation(Path("phone.jpg").read_bytes())
        6
    """
    if b"Exif" not in encoded and b"eXIf" not in encoded:
        return 1
    try:
        if encoded.startswith(_PNG_MAGIC):
            return exif_orientation(_png_exif(encoded))
        if encoded.startswith(b"\xff\xd8"):
            return exif_orientation(_jpeg_exif(encoded))
    except struct.error:  # cut off
        pass
    return 1


def _jpeg_exif(encoded: bytes) -> bytes:
    """The first EXIF segment before the pixels; b"" if there is none."""
    position = 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _JPEG_NO_LENGTH:
            position += 2
        elif marker in _JPEG_ENDS:
            break
        else:
            (length,) = struct.unpack_from(">H", encoded, position + 2)
            if marker == _JPEG_APP1 and encoded[position + 4 : position + 10] == _EXIF:
                return encoded[position + 10 : position + 2 + length]
            position += 2 + length
    return b""


def _png_exif(encoded: bytes) -> bytes:
    """The first eXIf chunk, which may follow the pixels; b"" if there is none."""
    position = 8
    while position + 8 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, position)
        if encoded[position + 4 : position + 8] == b"eXIf":
            return encoded[position + 8 : position + 8 + length]
        position += 12 + length
    return b""


def exif_orientation(exif: bytes) -> int:
    """Read the orientation in EXIF data; 1 if there is none.

    `images.decode_image` reads it the same way.

    Args:
        exif: a TIFF structure, with or without the prefix `Exif`.
    """
    exif = exif.removeprefix(_EXIF)
    try:
        return _tiff_orientation(exif)
    except struct.error:  # cut off
        return 1


def _tiff_orientation(exif: bytes) -> int:
    """The orientation tag in the first directory of a TIFF structure."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, directory)
    for entry in range(directory + 2, min(directory + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag == ORIENTATION_TAG:
            (value,) = struct.unpack_from(f"{order}{'I' if kind == TIFF_LONG else 'H'}", exif, entry + 8)
            known = kind in (TIFF_SHORT, TIFF_LONG) and number == 1
            return int(value) if known and 1 <= value <= 8 else 1
    return 1


def _read_jpeg_header(encoded: bytes) -> ImageHeader:
    position = 2
    while position + 9 < len(encoded):
        if encoded[position] != 0xFF:
            break
        marker = encoded[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _JPEG_NO_LENGTH:
            position += 2
            continue
        if marker in _JPEG_FRAMES:
            height, width, channels = struct.unpack(">HHB", encoded[position + 5 : position + 10])
            return ImageHeader("jpeg", height, width, channels)
        position += 2 + struct.unpack(">H", encoded[position + 2 : position + 4])[0]
    raise ValueError("is a JPEG file that is cut off or damaged")


def _checked(header: ImageHeader) -> ImageHeader:
    if header.height < 1 or header.width < 1 or header.channels < 1:
        raise ValueError(f"is a {header.format.upper()} file that is damaged")
    return header
