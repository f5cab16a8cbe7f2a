"""Zip archives for many threads: `zipfile` lists the members, and bytes are read by offset."""

from __future__ import annotations

import functools
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from san_tf.archives.archive_index import ArchiveIndex, Entry
from san_tf.archives.archives import ArchiveFiles
from san_tf.errors import UserError

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_CHUNK = 2**20


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
                    _kind(info),
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


def _kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link" if mode == stat.S_IFLNK else "a special file"
    if info.flag_bits & 1:
        return "an encrypted file"
    return "folder" if info.is_dir() else "file"
