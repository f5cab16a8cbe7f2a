"""What the first bytes of a JPEG or PNG file say: format, size and channels, without decoding a pixel."""

from __future__ import annotations

import struct
from typing import NamedTuple

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# SOF0..SOF15 carry the frame size; C4 (Huffman tables), C8 (reserved) and CC (arithmetic coding) do not.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


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
        The header; a palette PNG counts as three channels, because it is decoded to RGB.

    Raises:
        ValueError: the bytes are empty, neither JPEG nor PNG, or cut off before the size. The message is
            half a sentence ("is empty"), so that callers can put the file's name before it.

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


def _read_jpeg_header(encoded: bytes) -> ImageHeader:
    position = 2
    while position + 9 < len(encoded):
        if encoded[position] != 0xFF:
            break
        marker = encoded[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
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
