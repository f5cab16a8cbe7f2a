"""A read-only tree of files: a folder here, an archive in `archives`; what reads them cannot tell."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from san_tf.errors import UserError
from san_tf.image_formats import read_regular, stamp_of

# No image of 4096x4096 pixels, and no list, needs more.
MAX_FILE_BYTES = 64 * 2**20
# More than any benchmark has; a folder that links lead out of is met before it fills the memory.
MAX_MEMBERS = 2_000_000


class DamagedFileError(ValueError):
    """One file is damaged, and the others may be well. The message is half a sentence, such as "is empty"."""


class Files(abc.ABC):
    """Files by their paths relative to a root, written with `/`.

    Hidden files and what file managers leave behind (`Thumbs.db`, `__MACOSX`) are not there. Objects can be
    pickled, and read from several threads at once.

    Attributes:
        place: the folder or archive, for messages.
        random_access: whether reading one file costs no more than that file.
    """

    place: Path
    random_access = True

    @abc.abstractmethod
    def paths(self, under: str = "") -> list[str]:
        """The files in the folder `under` and in its subfolders, sorted; empty if there is no such folder."""

    @abc.abstractmethod
    def has(self, path: str) -> bool:
        """Whether a file or folder is there."""

    @abc.abstractmethod
    def size(self, path: str) -> int:
        """Bytes of a file, from its folder or archive entry, without reading it."""

    @abc.abstractmethod
    def stamp(self, path: str) -> str:
        """What changes when a file changes, found without reading it."""

    @abc.abstractmethod
    def rooted(self, folder: str) -> Files:
        """The same tree seen from one of its folders."""

    @abc.abstractmethod
    def local(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """A file on disk for libraries that must seek; out of an archive a temporary one, removed after."""

    @abc.abstractmethod
    def _read(self, path: str) -> bytes: ...

    def read(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            DamagedFileError: it is missing, larger than 64 MB, damaged, or cannot be read.
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
        """Read a file that nothing can do without.

        Raises:
            UserError: in place of `DamagedFileError`, the whole sentence.
        """
        try:
            return self.read(path)
        except DamagedFileError as error:
            raise UserError(f"{self.describe(path)} {error}; copy the benchmark again.") from error

    def order(self, paths: Sequence[str]) -> list[int]:
        """The indices of `paths` in the order that is cheapest to read, that of `stream`."""
        return list(range(len(paths)))

    def stream(self, paths: Sequence[str]) -> Iterator[tuple[int, Callable[[], bytes]]]:
        """Yield for each path its index in `paths` and a function that reads it, in the cheapest order.

        The functions may be called in any thread, soon.
        """
        for index, path in enumerate(paths):
            yield index, lambda path=path: self.read(path)  # type: ignore[misc]

    def describe(self, path: str) -> str:
        """The file as a user would look for it, printable."""
        return shown(str(self.place / path))


def shown(name: str) -> str:
    r"""A name without what a terminal would obey, and with bytes that are not UTF-8 written out.

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
    """Whether a path is hidden, or what a file manager leaves behind.

    Example:
        >>> is_litter("query/Thumbs.db"), is_litter("__MACOSX/query/._0001.jpg"), is_litter("query/0001.jpg")
        (True, True, False)
    """
    parts = path.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1] == "Thumbs.db"


class FolderFiles(Files):
    """Files in a folder; links to files and folders are followed.

    Args:
        folder: the root.
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
    """Add the files below a folder; a link to one of the folders above it is left out, for it has no end."""
    try:
        state = os.stat(folder)
        here = (state.st_dev, state.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            listed = [(entry.name, entry.is_dir()) for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        raise UserError(
            f"The folder {shown(folder)} cannot be read ({error.strerror}); mend its permissions."
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
