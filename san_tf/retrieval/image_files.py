"""Reads images from a gallery's folder of images, and from nowhere else."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

MAX_BYTES = 64 * 2**20
_MISSING = "This entry's picture is missing."
_OUTSIDE = "This entry's picture is not inside the gallery's folder of images."


class NoPictureError(ValueError):
    """An entry has no picture to show; the message is a sentence without paths."""


class ImageFolder:
    r"""Safe reader of a folder of photographs.

    Names come from a gallery, which may come from a stranger. A name that is absolute or leaves the folder by
    `..` or by a link is refused, whenever the link was made. So are a folder that was later replaced by a
    link, and anything but a plain file (reading a pipe never ends).

    Args:
        folder: folder of the photographs; links to it are followed only now.

    Example:
        >>> ImageFolder("market/bounding_box_test").read("0002_c1s1_000451_03.jpg")[:2]
        b'\xff\xd8'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.realpath(folder))
        try:
            descriptor = os.open(self._root, os.O_RDONLY)
        except OSError:
            return  # the folder does not exist, or not yet
        try:
            self._root = _place_of(descriptor)
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def read(self, name: str, most: int = MAX_BYTES) -> bytes:
        """Read a file inside the folder.

        Args:
            name: path relative to the folder; not trusted.
            most: largest size, in bytes.

        Raises:
            NoPictureError: there is no such file inside the folder, or it is too large.
        """
        windows = PureWindowsPath(name)
        if not name or "\0" in name or os.path.isabs(name) or windows.drive or windows.root:
            raise NoPictureError("This entry has no picture inside the gallery's folder of images.")
        try:
            path = (self._root / name).resolve(strict=True)
            inside = path.is_relative_to(self._root)
            # O_NOFOLLOW: the file may have become a link meanwhile.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags) if inside else -1
        except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: links in a circle
            raise NoPictureError(_MISSING) from error
        if not inside:
            raise NoPictureError(_OUTSIDE)
        try:
            # A folder of the path may have become a link before it was opened: check the opened file's place.
            if not _place_of(descriptor).is_relative_to(self._root):
                raise NoPictureError(_OUTSIDE)
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise NoPictureError("This entry's picture is not a file.")
            if facts.st_size > most:
                raise NoPictureError(f"This entry's picture is larger than {most // 2**20} MB.")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(most)
        except OSError as error:
            raise NoPictureError("This entry's picture cannot be read.") from error
        finally:
            os.close(descriptor)


class ImageFolders:
    """Safe reader of the folders of a gallery's photographs.

    Args:
        images: the first folder; None if it may not be read.
        folders: more folders, by the name that begins the paths of their photographs.
    """

    def __init__(self, images: str | None, folders: Mapping[str, str]) -> None:
        self._first = None if images is None else ImageFolder(images)
        self._others = {name: ImageFolder(folder) for name, folder in folders.items()}

    def __bool__(self) -> bool:
        return self._first is not None or bool(self._others)

    def read(self, image: str, most: int = MAX_BYTES) -> bytes:
        """Read the photograph of an entry.

        Args:
            image: path from the gallery; not trusted.
            most: largest size, in bytes.

        Raises:
            NoPictureError: as `ImageFolder.read`, or its folder may not be read.
        """
        name, _, rest = image.partition("/")
        if name in self._others:
            return self._others[name].read(rest, most)
        if self._first is None:
            raise NoPictureError("This entry has no picture inside the gallery's folder of images.")
        return self._first.read(image, most)


def read_inside(folder: str | os.PathLike[str], name: str, most: int = MAX_BYTES) -> bytes:
    """Read a file inside a folder; see `ImageFolder`.

    Args:
        folder: folder of the photographs.
        name: path relative to it; not trusted.
        most: largest size, in bytes.

    Raises:
        NoPictureError: as `ImageFolder.read`.
    """
    return ImageFolder(folder).read(name, most)


def _place_of(descriptor: int) -> Path:
    """Return the path of an open file or folder, without links; OSError where the system does not know it."""
    if sys.platform == "darwin":
        found = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return Path(os.fsdecode(found.partition(b"\0")[0]))
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
