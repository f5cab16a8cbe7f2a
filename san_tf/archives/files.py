"""A read-only tree of files with one interface for folders (here) and archives (`archives`)."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from san_tf.errors import UserError
from san_tf.image_formats import read_regular, stamp_of

# Enough for an image of 4096x4096 pixels and for any list.
MAX_FILE_BYTES = 64 * 2**20
# More than any benchmark has. The limit also stops at links that lead out of a folder, before memory is full.
MAX_MEMBERS = 2_000_000


class DamagedFileError(ValueError):
    """One file is damaged, others may be good; the message is half a sentence, such as "is empty"."""


class Files(abc.ABC):
    """Files by their paths relative to a root, written with `/`.

    Hidden files and files of file managers (`Thumbs.db`, `__MACOSX`) are left out. Objects can be pickled.
    Several threads may read them.

    Attributes:
        place: the folder or archive, for messages.
        random_access: whether one file can be read without reading those before it.
    """

    place: Path
    random_access = True

    @abc.abstractmethod
    def paths(self, under: str = "") -> list[str]:
        """Return all files below the folder `under`, sorted; empty if there is no such folder."""

    @abc.abstractmethod
    def has(self, path: str) -> bool:
        """Whether the file or folder exists."""

    @abc.abstractmethod
    def size(self, path: str) -> int:
        """Return a file's size in bytes without reading it."""

    @abc.abstractmethod
    def stamp(self, path: str) -> str:
        """Return a text that changes when the file changes, without reading it."""

    @abc.abstractmethod
    def rooted(self, folder: str) -> Files:
        """Return the same tree with one of its folders as root."""

    @abc.abstractmethod
    def local(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """Provide a file on disk for libraries that must seek; for archives, a temporary copy."""

    @abc.abstractmethod
    def _read(self, path: str) -> bytes: ...

    def read(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            DamagedFileError: the file is missing, larger than 64 MB, damaged or unreadable.
        """
        try:
            if self.size(path) > MAX_FILE_BYTES:
                raise DamagedFileError("is larger than 64 MB")
            return self._read(path)
        except (FileNotFoundError, KeyError):
            raise DamagedFileError("is missing") from None
        except OSError as error:
            raise DamagedFileError(f"cannot be read ({error.strerror or error})") from error

    def require(self, path: str) -> bytes:
        """Read a required file.

        Raises:
            UserError: where `read` would raise `DamagedFileError`; the message is a whole sentence.
        """
        try:
            return self.read(path)
        except DamagedFileError as error:
            raise UserError(f"{self.describe(path)} {error}; copy the benchmark again.") from error

    def order(self, paths: Sequence[str]) -> list[int]:
        """Return the indices of `paths` in the cheapest reading order, as used by `stream`."""
        return list(range(len(paths)))

    def stream(self, paths: Sequence[str]) -> Iterator[tuple[int, Callable[[], bytes]]]:
        """Yield each path's index and a function that reads it, in the cheapest order.

        Any thread may call the functions, but soon.
        """
        for index, path in enumerate(paths):
            yield index, lambda path=path: self.read(path)  # type: ignore[misc]

    def describe(self, path: str) -> str:
        """Return the file's location for a message, printable."""
        return shown(str(self.place / path))


def shown(name: str) -> str:
    r"""Return a name with control characters and bytes that are not UTF-8 escaped.

    Example:
        >>> shown("caf\udce9\x1b[2J.jpg")
        'caf\\xe9\\x1b[2J.jpg'
    """
    if name.isprintable():
        return name
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name
    )


def is_litter(path: str) -> bool:
    """Whether a path is hidden, or a file of a file manager.

    Example:
        >>> is_litter("query/Thumbs.db"), is_litter("__MACOSX/query/._0001.jpg"), is_litter("query/0001.jpg")
        (True, True, False)
    """
    parts = path.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1] == "Thumbs.db"


class FolderFiles(Files):
    """Files in a folder; links to files and folders are followed.

    Args:
        folder: root of the tree.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.place = Path(folder)

    def paths(self, under: str = "") -> list[str]:
        """See `Files.paths`."""
        top = self.place / under
        if not top.is_dir():
            return []
        found: list[str] = []
        _walk(str(top), f"{under}/" if under else "", (), found)
        return sorted(found)

    def has(self, path: str) -> bool:
        """See `Files.has`."""
        return (self.place / path).exists()

    def size(self, path: str) -> int:
        """See `Files.size`."""
        return (self.place / path).stat().st_size

    def stamp(self, path: str) -> str:
        """See `Files.stamp`."""
        return stamp_of(self.place / path)

    def rooted(self, folder: str) -> FolderFiles:
        """See `Files.rooted`."""
        return FolderFiles(self.place / folder)

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """See `Files.local`."""
        if not (self.place / path).is_file():
            raise UserError(f"{self.describe(path)} is missing; copy the benchmark again.")
        yield self.place / path

    def _read(self, path: str) -> bytes:
        try:
            return read_regular(self.place / path, MAX_FILE_BYTES)
        except ValueError as error:
            raise DamagedFileError(str(error)) from None


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...], found: list[str]) -> None:
    """Add the files below a folder; skip links to folders above it, which would never end."""
    try:
        state = os.stat(folder)
        here = (state.st_dev, state.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            listed = [(entry.name, entry.is_dir()) for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        raise UserError(
            f"The folder {shown(folder)} cannot be read ({error.strerror}); check its permissions."
        ) from error
    for name, is_folder in listed:
        if is_folder:
            _walk(f"{folder}/{name}", f"{prefix}{name}/", (*above, here), found)
        else:
            found.append(prefix + name)
    if len(found) > MAX_MEMBERS:
        raise UserError(
            f"{shown(folder)} and the folders around it hold more than {MAX_MEMBERS:,} files; remove the "
            "link that leads out of your images."
        )
