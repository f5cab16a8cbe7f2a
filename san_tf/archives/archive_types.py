"""Opens archives: what zip, tar and single compressed files have in common, and the type a suffix means.

Tar archives: plain ones with random access, compressed ones only from the beginning. Zip archives for many
threads: `zipfile` lists the members, and bytes are read by offset.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from san_tf.archives.files import MAX_MEMBERS, DamagedFileError, Files, is_litter, shown
from san_tf.errors import UserError

# The largest re-ID benchmark takes about 3 GB and half a million files; photographs hardly compress.
MAX_TOTAL_BYTES = 64 * 2**30
MAX_RATIO = 200
# A small list of file names may have a compression ratio of a hundred.
SMALL = 2**20


class Entry(NamedTuple):
    """A file of an archive.

    Attributes:
        offset: position of its bytes (tar), or of its local header (zip).
        size: bytes of the file.
        packed: bytes in the archive.
        deflated: whether these are compressed.
        checksum: CRC-32 of the file; -1 if the archive has none.
    """

    offset: int
    size: int
    packed: int
    deflated: bool = False
    checksum: int = -1


class ArchiveIndex:
    """The files of an archive by their paths.

    Args:
        archive: path of the archive, for messages.
    """

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.entries: dict[str, Entry] = {}
        self._total = 0
        self._members = 0

    def admit(self, name: str, kind: str, entry: Entry) -> None:
        """Add a member to the index, or refuse the archive because of it.

        Args:
            name: name in the archive.
            kind: "file", "folder", or a description of anything else, for the message.
            entry: the member's position and size.

        Raises:
            UserError: the member is unsafe; the message names it.
        """
        if min(entry.offset, entry.size, entry.packed) < 0 or max(entry[:3]) >= 2**63:
            raise EOFError
        clean = name.replace("\\", "/")
        parts = [part for part in clean.split("/") if part not in ("", ".")]
        if clean.startswith("/") or clean[1:2] == ":" or ".." in parts or "\0" in clean:
            self._refuse(name, "a path that leads out of it")
        if kind not in ("file", "folder"):
            self._refuse(name, kind)
        self._members += 1
        self._total += entry.size
        swollen = entry.size > SMALL and entry.size > MAX_RATIO * entry.packed
        if swollen or self._total > MAX_TOTAL_BYTES or self._members > MAX_MEMBERS:
            self._refuse(name, "more than any benchmark does (a decompression bomb?), seen at")
        path = "/".join(parts)
        if kind == "folder" or is_litter(path):
            return
        if not path:
            self._refuse(name, "a file without a name,")
        if path in self.entries:
            self._refuse(name, "a file that is there twice")
        self.entries[path] = entry

    def _refuse(self, name: str, what: str) -> None:
        raise UserError(
            f"The archive {shown(str(self.archive))} holds {what} {name!r}; do not use it, but get the "
            "benchmark from its source."
        )


@contextlib.contextmanager
def archive_errors_named(archive: Path) -> Iterator[None]:
    """Turn any error about a truncated, damaged or foreign archive into a sentence that names it.

    The libraries raise many kinds of errors: for unknown versions, undecodable names, impossible offsets or
    endlessly nested headers.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # an error of writing the extracted file, not of the archive
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
            # An error of the disk or of permissions. EINVAL and EOVERFLOW mean an impossible position.
            raise UserError(
                f"The archive {shown(str(archive))} cannot be read ({error.strerror}); copy it again, or "
                "check its permissions."
            ) from error
        raise UserError(
            f"The archive {shown(str(archive))} is damaged or was not copied to its end; copy it again."
        ) from error


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


# A member's header may claim any size, and tarfile would read all of it.
_MAX_READ = 2**24
_CHUNK = 2**20


class TarFiles(ArchiveFiles):
    """Files of an uncompressed tar archive; see `ArchiveFiles`."""

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def _index(archive: Path, version: tuple[int, ...]) -> dict[str, Entry]:
        with archive.open("rb") as file:
            return _indexed(archive, _Stream(file, archive.stat().st_size, EOFError()))

    def _content(self, entry: Entry) -> bytes:
        with self.place.open("rb") as file:
            content = os.pread(file.fileno(), entry.size, entry.offset)
        if len(content) != entry.size:
            raise EOFError
        return content

    def _copy(self, entry: Entry, file: IO[bytes]) -> None:
        with self.place.open("rb") as archive:
            _copy_range(archive, entry, file)


class GzipTarFiles(ArchiveFiles):
    """Files of a compressed tar archive; see `ArchiveFiles`. Use `stream` to read many files."""

    random_access = False

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def _index(archive: Path, version: tuple[int, ...]) -> dict[str, Entry]:
        limit = min(MAX_TOTAL_BYTES, max(SMALL, MAX_RATIO * archive.stat().st_size))
        swollen = UserError(
            f"The archive {archive} swells to more than {limit:,} bytes (a decompression bomb?); do not use "
            "it, but get the benchmark from its source."
        )
        with gzip.open(archive, "rb") as file:
            stream = _Stream(file, limit, swollen)  # type: ignore[arg-type]
            entries = _indexed(archive, stream)
            while stream.read(_CHUNK):  # its checksum comes last
                pass
            return entries

    def order(self, paths: Sequence[str]) -> list[int]:
        """Return the indices in the archive's order; see `Files.order`."""
        return sorted(range(len(paths)), key=lambda index: self._entry(paths[index]).offset)

    def stream(self, paths: Sequence[str]) -> Iterator[tuple[int, Callable[[], bytes]]]:
        """Read the archive once, and yield the files in the archive's order; see `Files.stream`."""
        with archive_errors_named(self.place), gzip.open(self.place, "rb") as archive:
            for index in self.order(paths):
                entry = self._entry(paths[index])
                archive.seek(entry.offset)
                content = archive.read(entry.size)
                if len(content) != entry.size:
                    raise EOFError
                yield index, lambda content=content: content  # type: ignore[misc]

    def _content(self, entry: Entry) -> bytes:
        with gzip.open(self.place, "rb") as archive:
            archive.seek(entry.offset)
            return archive.read(entry.size)

    def _copy(self, entry: Entry, file: IO[bytes]) -> None:
        with gzip.open(self.place, "rb") as archive:
            _copy_range(archive, entry, file)  # type: ignore[arg-type]


def _copy_range(archive: IO[bytes], entry: Entry, file: IO[bytes]) -> None:
    archive.seek(entry.offset)
    left = entry.size
    while left:
        chunk = archive.read(min(_CHUNK, left))
        if not chunk:
            raise EOFError
        file.write(chunk)
        left -= len(chunk)


def _indexed(archive: Path, stream: _Stream) -> dict[str, Entry]:
    index = ArchiveIndex(archive)
    with tarfile.open(fileobj=stream, mode="r:") as opened:  # type: ignore[call-overload]
        while (info := opened.next()) is not None:
            opened.members = []  # half a million of them would fill the memory
            size = info.size if info.isreg() else 0
            index.admit(info.name, _tar_kind(info), Entry(info.offset_data, size, size))
    # tarfile stops without error at a truncated archive or a broken header. A complete one ends with zeros.
    if len(stream.last) != tarfile.BLOCKSIZE or any(stream.last):
        raise EOFError
    return index.entries


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "a link"
    if info.issparse():
        return "a sparse file"
    if info.isdir():
        return "folder"
    return "file" if info.isreg() else "a special file"


class _Stream:
    """Stream for tarfile that limits sizes and remembers the last block.

    Args:
        file: the uncompressed tar archive.
        limit: largest size in bytes.
        beyond: exception to raise at a position beyond the limit.
    """

    def __init__(self, file: IO[bytes], limit: int, beyond: Exception) -> None:
        self._file, self._limit, self._beyond = file, limit, beyond
        self.last = b""

    def read(self, number: int = -1) -> bytes:
        """Read `number` bytes."""
        if not 0 <= number <= _MAX_READ:
            raise tarfile.ReadError(f"a header of {number} bytes")
        self.last = self._file.read(number)
        self._check(self._file.tell())
        return self.last

    def seek(self, position: int) -> int:
        """Go to a position."""
        self._check(position)
        return self._file.seek(position)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise self._beyond


_LOCAL_HEADER = struct.Struct("<4s22xHH")


class ZipFiles(ArchiveFiles):
    """Files of a zip archive; see `ArchiveFiles`."""

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def _index(archive: Path, version: tuple[int, ...]) -> dict[str, Entry]:
        index = ArchiveIndex(archive)
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(f"The archive {archive} uses a rare compression; unpack it.")
                index.admit(
                    info.filename,
                    _zip_kind(info),
                    Entry(
                        info.header_offset,
                        info.file_size,
                        info.compress_size,
                        info.compress_type == zipfile.ZIP_DEFLATED,
                        info.CRC,
                    ),
                )
        return index.entries

    def _content(self, entry: Entry) -> bytes:
        return b"".join(self._chunks(entry))

    def _copy(self, entry: Entry, file: IO[bytes]) -> None:
        for chunk in self._chunks(entry):
            file.write(chunk)

    def _chunks(self, entry: Entry) -> Iterator[bytes]:
        """Yield a file in pieces, limited to the size of its entry, and verify its checksum."""
        with self.place.open("rb") as archive:
            descriptor = archive.fileno()
            header = os.pread(descriptor, _LOCAL_HEADER.size, entry.offset)
            if len(header) != _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                raise EOFError
            _, name, extra = _LOCAL_HEADER.unpack(header)
            position = entry.offset + _LOCAL_HEADER.size + name + extra
            end = position + entry.packed
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if entry.deflated else None
            checksum = left = 0
            left = entry.size
            while position < end:
                chunk = os.pread(descriptor, min(_CHUNK, end - position), position)
                if not chunk:
                    raise EOFError
                position += len(chunk)
                if unpacker is not None:
                    chunk = unpacker.decompress(chunk, left + 1)
                left -= len(chunk)
                if left < 0:
                    raise EOFError
                checksum = zlib.crc32(chunk, checksum)
                yield chunk
            if left or checksum != entry.checksum:
                raise EOFError


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link" if mode == stat.S_IFLNK else "a special file"
    if info.flag_bits & 1:
        return "an encrypted file"
    return "folder" if info.is_dir() else "file"


def open_archive(archive: Path) -> Files:
    """Return the files of a `.zip`, `.tar`, `.tgz` or `.tar.gz` archive.

    Raises:
        UserError: the file is truncated, is not an archive, or holds something unsafe.
    """
    name = archive.name.lower()
    return (ZipFiles if name.endswith(".zip") else GzipTarFiles if name.endswith("gz") else TarFiles)(archive)
