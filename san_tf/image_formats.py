"""Which files are images, and how they are read: the one definition that all of the package shares."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import stat

import numpy as np
from PIL import Image, features

# What cameras, phones, scanners and data sets of the field write, by Pillow's name of the format.
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
    "JPEG2000": (".jp2", ".j2k"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
# Pillow knows these formats by name, and reads them only where it was built with their library.
_OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_ORIENTATION = 0x0112


@functools.cache
def _readable() -> frozenset[str]:
    """Formats that the installed Pillow reads."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return frozenset(
        name
        for name in _FORMATS
        if name in Image.OPEN and (name not in _OPTIONAL or features.check(_OPTIONAL[name]))
    )


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the image files that are read here: JPEG, PNG, and what the installed Pillow reads besides.

    `.heic` and `.heif` are among them where the package `pillow-heif` is installed.

    Example:
        >>> ".jpg" in image_suffixes(), ".webp" in image_suffixes(), ".txt" in image_suffixes()
        (True, True, False)
    """
    return frozenset(suffix for name in _readable() for suffix in _FORMATS[name])


def suffix_of(name: str) -> str:
    """The suffix of a file's name or path in small letters, with its dot; empty if there is none.

    Example:
        >>> suffix_of("train/0002_c1.JPG"), suffix_of("train/README"), suffix_of("train/.jpg")
        ('.jpg', '', '')
    """
    name = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def is_image_name(name: str) -> bool:
    """Whether a file's name or path has the suffix of an image that is read here."""
    return suffix_of(name) in image_suffixes()


def is_jpeg_or_png(content: bytes) -> bool:
    """Whether the first bytes of a file are those of a JPEG or PNG, whatever its name says."""
    return content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def jpeg_or_png(content: bytes, max_pixels: int = 50_000_000) -> bytes:
    """Bring a file to a format that TensorFlow's decoder takes, without loss.

    A JPEG or PNG file comes back as it is, damaged or not. A file of another format is decoded and stored as
    PNG, with its EXIF orientation, if it has one; of an animation or of several pages the first picture.

    Args:
        content: of the file.
        max_pixels: a file of another format with more of them is refused before any of them is decoded.

    Raises:
        ValueError: the file is empty, of an unknown format, too large or damaged. The message is half a
            sentence ("is empty"), so that callers can put the file's name before it.

    Example:
        >>> jpeg_or_png(Path("0002_c1.webp").read_bytes())[1:4]
        b'PNG'
    """
    if not content:
        raise ValueError("is empty")
    if content.startswith(b"\xff\xd8") or is_jpeg_or_png(content):
        return content
    try:
        image = Image.open(io.BytesIO(content), formats=sorted(_readable()))
    except Exception:  # whatever Pillow meets in bytes that nobody wrote on purpose
        raise ValueError("is not an image of a format that is read here, or is damaged") from None
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"has {image.width}x{image.height} pixels, more than {max_pixels:,} in all")
        try:
            image.load()
            orientation = image.getexif().get(_ORIENTATION, 1)
            pixels = _as_png_holds(image)
        except ValueError as error:
            if str(error).startswith("has pixels of"):
                raise
            raise ValueError("is damaged: it cannot be decoded") from None
        except Exception:
            raise ValueError("is damaged: it cannot be decoded") from None
    exif = Image.Exif()
    if orientation in range(2, 9):
        exif[_ORIENTATION] = orientation
    target = io.BytesIO()
    pixels.info = {}
    pixels.save(target, "PNG", exif=exif if len(exif) else None)
    return target.getvalue()


def _as_png_holds(image: Image.Image) -> Image.Image:
    """The same pixels in a mode that PNG files have."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):  # Pillow would cut everything above 255 off
        raise ValueError("has pixels of 32 bits, which photographs have not; store it with 8 bits")
    return image.convert("RGB")


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a file that a folder of images names, whatever it turns out to be.

    A link to a device would never end, and a pipe would wait for a writer: neither is opened to be read.

    Args:
        path: of the file; links are followed.
        max_bytes: of it.

    Raises:
        ValueError: it is a pipe, a device, a folder, or larger; half a sentence.
        OSError: it is missing or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("is a pipe or a device, not a file")
        # Also where the size is a lie, as in /proc.
        content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"is larger than {max_bytes // 2**20} MB")
        return content


def stamp_of(path: str | os.PathLike[str]) -> str:
    """Size and times of a file; no tool that restores the others leaves the last, so new bytes are seen."""
    try:
        state = os.stat(path)
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
