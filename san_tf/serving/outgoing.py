"""Images on their way to a server: read, and looked at before they are sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from san_tf.data.headers import read_header
from san_tf.errors import UserError

Image = str | os.PathLike[str] | bytes
# Larger images would take the server gigabytes to decode; a crop of a person has some ten thousand pixels.
MAX_PIXELS = 50_000_000


class OutgoingImage(NamedTuple):
    """What an image is called in messages, and the contents of its file."""

    name: str
    contents: bytes


def read_image(number: int, image: Image) -> OutgoingImage:
    """Read an image and look at its first bytes.

    Args:
        number: what it is called where it has no path.
        image: path or contents of a JPEG or PNG file.

    Raises:
        UserError: it cannot be read, is neither JPEG nor PNG, or has more than `MAX_PIXELS`.
    """
    if isinstance(image, bytes):
        name, contents = f"Image {number}", image
    else:
        name = os.fspath(image)
        try:
            contents = Path(image).read_bytes()
        except OSError as error:
            raise UserError(
                f"{name} cannot be read ({error.strerror}); leave it out or copy it again."
            ) from error
    try:
        header = read_header(contents)
    except ValueError as error:
        raise UserError(f"{name} {error}; leave it out or copy it again.") from error
    if header.height * header.width > MAX_PIXELS:
        raise UserError(
            f"{name} has {header.height}x{header.width} pixels, more than the {MAX_PIXELS:,} that are "
            "sent to a server; cut the person out first."
        )
    return OutgoingImage(name, contents)
