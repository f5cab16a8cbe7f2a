"""Reads and checks images before they are sent to a server."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps

from san_tf.data.upright import MAX_PIXELS, PhotographError, upright
from san_tf.errors import UserError, one_line
from san_tf.image_formats import read_regular

Image = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | PIL.Image.Image
# Size of `MAX_PIXELS` in an incompressible PNG file with 16 bits per colour.
_MAX_BYTES = 6 * MAX_PIXELS + 2**20
# Pillow's modes that a PNG file stores unchanged.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TAKEN = "give the path or the contents of a JPEG or PNG file, a uint8 array (H, W, 3) or a PIL image"


class OutgoingImage(NamedTuple):
    """An image's name in messages, and the contents of its file."""

    name: str
    contents: bytes


def checked_images(images: Any) -> Iterable[Image]:
    """Return the images to embed, after checking that they are an ordered sequence.

    Raises:
        UserError: they are a single image, or have no order.
    """
    single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, PIL.Image.Image))
    shape = tuple(getattr(images, "shape", ()))
    if single or (len(shape) in (2, 3) and shape[-1:] != ()):
        kind = "path" if isinstance(images, (str, os.PathLike)) else "image"
        raise UserError(f"The images are a single {kind}; put it into a list: [{kind}].")
    if isinstance(images, (Mapping, set, frozenset)) or not hasattr(images, "__iter__"):
        raise UserError(
            f"The images are a {type(images).__name__}; give a list, so that their embeddings have an order."
        )
    found: Iterable[Image] = images
    return found


def read_image(number: int, image: Image) -> OutgoingImage:
    """Turn an image into the contents of a JPEG or PNG file to send.

    Args:
        number: number of the image, its name in messages if it has no path.
        image: path or contents of an image file, an `(H, W, 3)` uint8 array, or a PIL image. Upright JPEG and
            PNG files are sent unchanged. Everything else is sent as PNG without loss, turned upright.

    Raises:
        UserError: the image cannot be read, is of another kind, or has more than `MAX_PIXELS`.
    """
    name = f"Image {number}"
    try:
        if isinstance(image, (bytes, bytearray, memoryview)):
            contents = upright(bytes(image))
        elif isinstance(image, (str, os.PathLike)):
            name = one_line(os.fspath(image), 400)
            contents = upright(read_regular(image, _MAX_BYTES))
        elif isinstance(image, PIL.Image.Image):
            contents = _png(name, image)
        elif hasattr(image, "__array__"):
            contents = _png(name, _picture(name, np.asarray(image)))
        else:
            raise UserError(f"{name} is a {type(image).__name__}; {_TAKEN}.")
    except (UserError, MemoryError):
        raise
    except PhotographError as error:
        raise UserError(f"{name} {error}; leave it out or copy it again.") from error
    except IsADirectoryError as error:
        raise UserError(f"{name} cannot be read (Is a directory); name the files in it.") from error
    except OSError as error:
        raise UserError(
            f"{name} cannot be read ({error.strerror}); leave it out or copy it again."
        ) from error
    except ValueError as error:  # a pipe, a device, or a name with a zero byte
        raise UserError(f"{name} cannot be read ({one_line(error)}); leave it out.") from error
    return OutgoingImage(name, contents)


def good_picture() -> OutgoingImage:
    """A grey image that every export can embed: a server that refuses it refuses all images."""
    return OutgoingImage("A grey picture", _png("A grey picture", PIL.Image.new("RGB", (16, 32), (128,) * 3)))


def _picture(name: str, array: np.ndarray) -> PIL.Image.Image:
    if (
        array.dtype != np.uint8
        or array.ndim != 3
        or array.shape[2] != 3
        or isinstance(array, np.ma.MaskedArray)
    ):
        raise UserError(
            f"{name} is a {array.dtype} array {array.shape}; give uint8 (H, W, 3), RGB from 0 to 255."
        )
    if not array.size:
        raise UserError(f"{name} has no pixels, {array.shape}; leave it out.")
    _check_pixels(name, *array.shape[:2])
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def _png(name: str, picture: PIL.Image.Image) -> bytes:
    _check_pixels(name, picture.height, picture.width)
    if picture.mode not in _MODES:
        raise UserError(f"{name} is a PIL image in the mode {picture.mode}; give image.convert('RGB').")
    if not picture.height or not picture.width:
        raise UserError(f"{name} has no pixels; leave it out.")
    stream = io.BytesIO()
    try:
        # Turned upright, because the PNG file gets no EXIF orientation.
        PIL.ImageOps.exif_transpose(picture).save(stream, "PNG", compress_level=1, exif=b"")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name} cannot be read ({one_line(error)}); leave it out.") from error
    return stream.getvalue()


def _check_pixels(name: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(
            f"{name} has {height}x{width} pixels, more than the {MAX_PIXELS:,} that are sent to a server; "
            "cut the person out first."
        )
