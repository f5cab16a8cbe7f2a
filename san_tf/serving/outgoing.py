"""Images on their way to a server: read, and looked at before they are sent."""

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
# What so many pixels take in a PNG file of 16 bits a colour that could not be compressed.
_MAX_BYTES = 6 * MAX_PIXELS + 2**20
# Modes of Pillow that a PNG file holds as they are.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TAKEN = "give the path or the contents of a JPEG or PNG file, a uint8 array (H, W, 3) or a PIL image"


class OutgoingImage(NamedTuple):
    """What an image is called in messages, and the contents of its file."""

    name: str
    contents: bytes


def checked_images(images: Any) -> Iterable[Image]:
    """Return what is to be embedded, unless it is one image or has no order.

    Raises:
        UserError: going through it would not give images; a path gives letters, for example.
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
    """Turn an image into the contents of a file, the one way to what is sent, and look at its first bytes.

    Args:
        number: what it is called where it has no path.
        image: path or contents of an image file: JPEG and PNG that stand upright are sent as they are,
            others as PNG, turned as their EXIF orientation says; an `(H, W, 3)` uint8 array or a PIL image,
            which are sent as PNG, without loss.

    Raises:
        UserError: it cannot be read, is of another kind, neither JPEG nor PNG, or has more than `MAX_PIXELS`.
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
    except ValueError as error:  # a pipe or a device, a name with a zero byte
        raise UserError(f"{name} cannot be read ({one_line(error)}); leave it out.") from error
    return OutgoingImage(name, contents)


def good_picture() -> OutgoingImage:
    """A grey picture that every server of ours can embed: one that refuses it would refuse all."""
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
        # As it is meant to be seen: the PNG file says nothing of how a camera was held.
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
