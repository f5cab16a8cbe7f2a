"""Images on their way to a server: read, and looked at before they are sent."""

from __future__ import annotations

import os
from typing import NamedTuple

from san_tf.data.upright import PhotographError, upright
from san_tf.errors import UserError
from san_tf.image_formats import read_regular

Image = str | os.PathLike[str] | bytes
MAX_BYTES = 256 * 2**20


class OutgoingImage(NamedTuple):
    """What an image is called in messages, and the contents of its file."""

    name: str
    contents: bytes


def read_image(number: int, image: Image) -> OutgoingImage:
    """Read an image, look at its first bytes, and turn it as its EXIF says: exports of old do not.

    Args:
        number: what it is called where it has no path.
        image: path or contents of an image file; JPEG and PNG that stand upright are sent as they are.

    Raises:
        UserError: it cannot be read, is not an image, or has more than `upright.MAX_PIXELS`.
    """
    name = f"Image {number}" if isinstance(image, bytes) else os.fspath(image)
    try:
        contents = image if isinstance(image, bytes) else read_regular(image, MAX_BYTES)
        return OutgoingImage(name, upright(contents))
    except PhotographError as error:
        raise UserError(f"{name} {error}; leave it out or copy it again.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be read ({reason}); leave it out or copy it again.") from error
