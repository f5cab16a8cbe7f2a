"""Files of a gallery's folder of images, and of no other place."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PureWindowsPath

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
