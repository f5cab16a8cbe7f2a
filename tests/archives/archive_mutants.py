"""Archives that nobody packed: good ones, changed where it hurts; the same for the same seed."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator

_NUMBERS = (0, 1, 127, 255, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 2**31, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
_NAMES = ("", ".", "/", "a/", "a//b", "a\\b", "\udcff.jpg", "\x1b[2J.jpg", "a\nb", "ü", "x" * 300, "../a")
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_KEYS = ("size", "path", "linkpath", "mtime", "uid", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.major")
_VALUES = ("-1", "1e400", "nan", "9" * 30, "", "\0", "1,2", "x", "../x", "0x10", str(2**63))


def mutants(seed: int, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield suffixes and contents of archives.

    Args:
        seed: of the changes.
        number: how many.
    """
    draw = random.Random(seed)
    makers = (_zip, _zip_fields, _zip_names, _tar, _tar_fields, _tar_headers, _tar_names)
    for index in range(number):
        suffix, content = makers[index % len(makers)](draw)
        if suffix == ".tar" and draw.random() < 0.3:
            suffix, content = ".tgz", gzip.compress(content, 1, mtime=0)
            if draw.random() < 0.3:
                content = _bytes_changed(draw, content)
        yield suffix, content


def good_zip(names: tuple[str, ...] = ("a/1.jpg", "a/2.jpg", "b.txt")) -> bytes:
    """A zip archive."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo(name)
            info.compress_type = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
            archive.writestr(info, b"0123456789" * 40)
    return target.getvalue()


def good_tar(names: tuple[str, ...] = ("a/1.jpg", "a/2.jpg", "b.txt")) -> bytes:
    """A tar archive."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 400
            archive.addfile(info, io.BytesIO(b"0123456789" * 40))
    return target.getvalue()


def _bytes_changed(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        if draw.random() < 0.8:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        elif draw.random() < 0.5:
            del changed[draw.randrange(len(changed)) :][: draw.randint(1, 40)]
        else:
            place = draw.randrange(len(changed))
            changed[place:place] = draw.randbytes(draw.randint(1, 40))
    return bytes(changed)


def _zip(draw: random.Random) -> tuple[str, bytes]:
    return ".zip", _bytes_changed(draw, good_zip())


def _zip_fields(draw: random.Random) -> tuple[str, bytes]:
    """Fields of the directory, of local headers and of the end: versions, sizes, offsets, lengths."""
    changed = bytearray(good_zip())
    for _ in range(draw.randint(1, 3)):
        magic, length = draw.choice([(b"PK\1\2", 46), (b"PK\3\4", 30), (b"PK\5\6", 22)])
        places = [at for at in range(len(changed) - length) if changed[at : at + 4] == magic]
        if not places:
            continue
        field = draw.randrange(4, length - 1, 2)
        size = draw.choice((2, 4)) if field + 4 <= length else 2
        value = draw.choice(_NUMBERS) % 256**size
        at = draw.choice(places) + field
        changed[at : at + size] = value.to_bytes(size, "little")
    return ".zip", bytes(changed)


def _zip_names(draw: random.Random) -> tuple[str, bytes]:
    """Names of the same length, whatever their bytes, with the flag of UTF-8 or without; extra fields."""
    changed = bytearray(good_zip(("a/name.jpg", "a/other.jpg")))
    if draw.random() < 0.3:
        names = tuple(name.encode("utf-8", "replace").decode() for name in draw.sample(_NAMES[1:], 2))
        changed = bytearray(good_zip(names))
    for at in range(len(changed) - 46):
        if changed[at : at + 4] == b"PK\1\2":
            changed[at + 9] ^= draw.choice((0, 8))
            name = struct.unpack_from("<H", changed, at + 28)[0]
            kept = draw.randint(0, name)
            changed[at + 46 : at + 46 + kept] = draw.randbytes(kept)
            if draw.random() < 0.3:
                struct.pack_into("<HH", changed, at + 28, kept, name - kept)  # the rest is an extra field
    return ".zip", bytes(changed)


def _tar(draw: random.Random) -> tuple[str, bytes]:
    return ".tar", _bytes_changed(draw, good_tar())


def _tar_fields(draw: random.Random) -> tuple[str, bytes]:
    """Numbers of a header in octal or base 256, also negative ones; its checksum is right again."""
    changed = bytearray(good_tar())
    header = draw.choice((0, 1024))
    start, length = draw.choice([(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (257, 8)])
    kind = draw.random()
    if kind < 0.3:
        value = draw.randbytes(length)
    elif kind < 0.7:
        sign = draw.choice((b"\x80", b"\xff"))
        value = sign + draw.choice(_NUMBERS).to_bytes(16, "big")[-(length - 1) :] if length > 1 else sign
    else:
        value = (b"%o" % draw.choice(_NUMBERS))[-length:].rjust(length, b"0")
    changed[header + start : header + start + length] = value
    _right_checksum(changed, header)
    return ".tar", bytes(changed)


def _tar_headers(draw: random.Random) -> tuple[str, bytes]:
    """Extended headers: absurd values, and thousands of them."""
    if draw.random() < 0.2:
        kind = draw.choice(_HEADERS)
        return ".tar", extended_header(kind, b"11 path=abc\n") * draw.choice((2, 900, 3000)) + good_tar()
    records = b""
    for _ in range(draw.randint(1, 3)):
        record = f" {draw.choice(_KEYS)}={draw.choice(_VALUES)}\n".encode()
        length = len(record) + 2
        records += b"%d" % draw.choice((length, length, length, 0, 3, 10**6, 10**30)) + record
    kind = draw.choice((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_SPARSE, tarfile.SOLARIS_XHDTYPE))
    return ".tar", extended_header(kind, records) + good_tar()


def _tar_names(draw: random.Random) -> tuple[str, bytes]:
    names = draw.sample(_NAMES, 3)
    return ".tar", good_tar(tuple(names))


def extended_header(kind: bytes, records: bytes) -> bytes:
    """A tar header that says more of the next one, such as the name that it has."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(records)
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    return bytes(header) + records + bytes(-len(records) % 512)


def _right_checksum(content: bytearray, header: int) -> None:
    content[header + 148 : header + 156] = b" " * 8
    total = sum(content[header : header + 512])
    content[header + 148 : header + 156] = b"%06o\0 " % total
