"""Image formats: decides which files are images, and converts them to JPEG or PNG."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import stat
import struct
import warnings

import numpy as np
from PIL import Image, features

# Formats of cameras, phones, scanners and re-ID data sets, by Pillow's name.
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
# Pillow reads these formats only if it was built with their libraries.
_OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_ORIENTATION = 0x0112
# Pillow's warnings about odd files either become errors here, or do not matter.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")


@functools.cache
def _readable() -> frozenset[str]:
    """Return the formats that the installed Pillow reads."""
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
    """Return the suffixes of supported image files: JPEG, PNG and others that Pillow reads.

    They include `.heic` and `.heif` if the package `pillow-heif` is installed.

    Example:
        >>> ".jpg" in image_suffixes(), ".webp" in image_suffixes(), ".txt" in image_suffixes()
        (True, True, False)
    """
    return frozenset(suffix for name in _readable() for suffix in _FORMATS[name])


def suffix_of(name: str) -> str:
    """Return a file's suffix in lower case, with its dot; empty if there is none.

    Example:
        >>> suffix_of("train/0002_c1.JPG"), suffix_of("train/README"), suffix_of("train/.jpg")
        ('.jpg', '', '')
    """
    name = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def is_image_name(name: str) -> bool:
    """Whether a file name or path has the suffix of a supported image format."""
    return suffix_of(name) in image_suffixes()


def is_jpeg_or_png(content: bytes) -> bool:
    """Whether a file starts with the bytes of a JPEG or PNG, whatever its name."""
    return content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def jpeg_or_png(content: bytes, max_pixels: int = 50_000_000) -> bytes:
    """Convert an image file without loss to a format that TensorFlow decodes.

    A JPEG or PNG file is returned unchanged, damaged or not. Another format is decoded and stored as PNG,
    with its EXIF orientation if it has one. Of an animation or several pages, only the first image is used.

    Args:
        content: the file's bytes.
        max_pixels: a file of another format with more pixels is refused before it is decoded.

    Raises:
        ValueError: the file is empty, of an unknown format, too large or damaged. The message is half a
            sentence ("is empty"); callers put the file's name before it.

    Example:
        >>> jpeg_or_png(Path("0002_c1.webp").read_bytes())[1:4]
        b'PNG'
    """
    if not content:
        raise ValueError("is empty")
    if content.startswith(b"\xff\xd8") or is_jpeg_or_png(content):
        return content
    width, height = _webp_size(content)
    if width * height > max_pixels:
        raise ValueError(f"has {width}x{height} pixels, more than {max_pixels:,} in all")
    try:
        image = Image.open(io.BytesIO(content), formats=sorted(_readable()))
    except Image.DecompressionBombError:
        raise ValueError(f"has more than {max_pixels:,} pixels") from None
    except Exception:  # Pillow raises many kinds of errors for damaged bytes
        raise ValueError("is not an image in a supported format, or is damaged") from None
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


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height of a WebP file, else (0, 0); Pillow would allocate memory before reporting them."""
    if len(content) < 30 or content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return 0, 0
    if content[12:16] == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", content[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _as_png_holds(image: Image.Image) -> Image.Image:
    """The same pixels in a mode that PNG files support."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):  # Pillow would clip values above 255
        raise ValueError("has pixels of 32 bits, unlike a photograph; store it with 8 bits")
    return image.convert("RGB")


def holds_several(content: bytes) -> bool:
    """Whether a file that `jpeg_or_png` must convert holds several images: an animation, or pages."""
    if content.startswith(b"\xff\xd8") or is_jpeg_or_png(content):
        return False
    try:
        with Image.open(io.BytesIO(content), formats=sorted(_readable())) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second image does not affect the first
        return True


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a regular file from a folder of images, but not a pipe or device.

    A device may have no end, and a pipe would wait for a writer, so neither is opened for reading.

    Args:
        path: path of the file; links are followed.
        max_bytes: largest size of the file.

    Raises:
        ValueError: it is a pipe, a device, a folder, or larger; the message is half a sentence.
        OSError: the file is missing or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("is a pipe or a device, not a file")
        # Limited again here, because reported sizes may be wrong, as in /proc.
        content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"is larger than {max_bytes // 2**20} MB")
        return content


def stamp_of(path: str | os.PathLike[str]) -> str:
    """Size and times of a file. The last is the change time, which tools cannot restore."""
    try:
        state = os.stat(path)
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
