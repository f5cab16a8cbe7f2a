"""Pictures of a gallery's folder, and of no other place, small enough for a page."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image, ImageOps

from san_tf.data.headers import ImageHeader, read_header
from san_tf.embedding.photographs import MAX_PIXELS

# A page shows crops at some 200 pixels, twice that on fine screens.
_SIDE = 512
MAX_BYTES = 64 * 2**20


class NoPictureError(ValueError):
    """There is no picture to be shown. The message is a sentence."""


def read_inside(folder: str | os.PathLike[str], name: str, most: int = MAX_BYTES) -> bytes:
    """Read a file that lies in a folder, whatever its name says.

    Names come out of a gallery, which may come from anywhere: one that is absolute, climbs out by `..` or
    leads out by a link is refused, and so is what is no plain file (reading a pipe never ends).

    Args:
        folder: of the photographs.
        name: path relative to it.
        most: bytes it may have.

    Raises:
        NoPictureError: there is no such file inside the folder, or it is too large; the message names
            neither folder nor file.
    """
    windows = PureWindowsPath(name)
    if not name or "\0" in name or os.path.isabs(name) or windows.drive or windows.root:
        raise NoPictureError("This entry has no picture inside the gallery's folder of images.")
    try:
        root = Path(folder).resolve(strict=True)
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise NoPictureError("This entry's picture is not inside the gallery's folder of images.")
        # No link is followed any more: one that appeared since is refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise NoPictureError("This entry's picture is missing.") from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise NoPictureError("This entry's picture is no file.")
        if facts.st_size > most:
            raise NoPictureError(f"This entry's picture is larger than {most // 2**20} MB.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    except OSError as error:
        raise NoPictureError("This entry's picture cannot be read.") from error
    finally:
        os.close(descriptor)


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
