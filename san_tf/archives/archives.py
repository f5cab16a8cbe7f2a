"""Reads archives in place, unpacking only files in which a library must seek."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from san_tf.archives.archive_index import Entry, archive_errors_named
from san_tf.archives.files import DamagedFileError, Files, shown
from san_tf.errors import UserError


class ArchiveFiles(Files):
    """Files of an archive; subclasses read the formats.

    Args:
        archive: path of the archive.
        root: folder in the archive to which paths are relative; empty for its root.

    Raises:
        UserError: the file is truncated, is not an archive, or holds something unsafe.
    """

    def __init__(self, archive: str | os.PathLike[str], root: str = "") -> None:
        self.place = Path(archive)
        self.root = root
        with archive_errors_named(self.place):
            state = self.place.stat()
            self._version = (state.st_mtime_ns, state.st_size, state.st_ctime_ns)
            self._entries = self._index(self.place, self._version)

    @staticmethod
    def _index(archive: Path, version: tuple[int, ...]) -> dict[str, Entry]:
        """Return the archive's files by path; cached for each version of the archive."""
        raise NotImplementedError

    def _copy(self, entry: Entry, file: IO[bytes]) -> None:
        """Write the file of an entry."""
        raise NotImplementedError

    def _content(self, entry: Entry) -> bytes:
        """Read the file of an entry."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Callable[..., Files], tuple[Path, str]]:
        return type(self), (self.place, self.root)

    def paths(self, under: str = "") -> list[str]:
        """See `Files.paths`."""
        skipped = len(self._full(""))
        start = self._full(f"{under}/" if under else "")
        return sorted(path[skipped:] for path in self._entries if path.startswith(start))

    def has(self, path: str) -> bool:
        """See `Files.has`."""
        full = self._full(path)
        return full in self._entries or any(entry.startswith(f"{full}/") for entry in self._entries)

    def size(self, path: str) -> int:
        """See `Files.size`."""
        return self._entries[self._full(path)].size

    def stamp(self, path: str) -> str:
        """See `Files.stamp`."""
        return f"{self._version} {self._full(path)}"

    def rooted(self, folder: str) -> Files:
        """See `Files.rooted`."""
        return type(self)(self.place, self._full(folder))

    def describe(self, path: str) -> str:
        """See `Files.describe`."""
        return shown(f"{self._full(path)} in {self.place}")

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """See `Files.local`."""
        entry = self._entry(path)
        with tempfile.TemporaryDirectory(prefix="san_tf_") as folder:
            free = shutil.disk_usage(folder).free
            if entry.size > free:
                raise UserError(
                    f"{self.describe(path)} needs {entry.size:,} bytes temporarily, and {folder} has "
                    f"{free:,} free; unpack the archive, or point TMPDIR to another disk."
                )
            target = Path(folder) / Path(path).name
            with archive_errors_named(self.place), target.open("wb") as file:
                self._copy(entry, file)
            yield target

    def _read(self, path: str) -> bytes:
        try:
            return self._content(self._entries[self._full(path)])
        except KeyError:
            raise
        except (EOFError, ValueError, OverflowError, struct.error, zlib.error, gzip.BadGzipFile):
            raise DamagedFileError("is damaged") from None

    def _entry(self, path: str) -> Entry:
        try:
            return self._entries[self._full(path)]
        except KeyError:
            raise UserError(f"{self.describe(path)} is missing; copy the benchmark again.") from None

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if self.root else path
