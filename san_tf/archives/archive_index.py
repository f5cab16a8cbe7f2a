"""Index of an archive's files, checked member by member, because archives come from strangers.

It refuses names that lead out of the archive's folder, links, devices, and decompression bombs, before their
contents are read.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from san_tf.archives.files import MAX_MEMBERS, is_litter, shown
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
