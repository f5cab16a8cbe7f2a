"""The types of archives, and which of them a file's suffix means.

Tar archives: plain ones with random access, compressed ones only from the beginning. Zip archives for many
threads: `zipfile` lists the members, and bytes are read by offset.
"""

from __future__ import annotations

import functools
import gzip
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from san_tf.archives.archive_index import (
    MAX_RATIO,
    MAX_TOTAL_BYTES,
    SMALL,
    ArchiveIndex,
    Entry,
    archive_errors_named,
)
from san_tf.archives.archives import ArchiveFiles
from san_tf.archives.files import Files
from san_tf.errors import UserError

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
