"""What an archive holds, admitted member by member, because a stranger wrote it.

Names that lead out of the archive's own folder, links, devices, and members or archives that swell beyond
reason are refused by name before anything of them is read.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from san_tf.archives.files import MAX_MEMBERS, is_litter, shown
from san_tf.errors import UserError

# The largest benchmark of the field takes some 3 GB and half a million files; photographs hardly compress.
MAX_TOTAL_BYTES = 64 * 2**30
MAX_RATIO = 200
# A list of file names may well be packed a hundredfold, as long as it is small.
SMALL = 2**20


class Entry(NamedTuple):
    """A file of an archive.

    Attributes:
        offset: of its bytes (tar), or of its local header (zip).
        size: bytes of the file.
        packed: bytes in the archive.
        deflated: whether they are compressed.
        checksum: CRC-32 of the file; -1 where the archive has none.
    """

    offset: int
    size: int
    packed: int
    deflated: bool = False
    checksum: int = -1


class ArchiveIndex:
    """The files of an archive by their paths.

    Args:
        archive: its path, for messages.
    """

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.entries: dict[str, Entry] = {}
        self._total = 0
        self._members = 0

    def admit(self, name: str, kind: str, entry: Entry) -> None:
        """Take a member in, or refuse the archive because of it.

        Args:
            name: as the archive says.
            kind: "file", "folder", or what else it is, for the message.
            entry: where it is.

        Raises:
            UserError: the member is unsafe; the sentence names it.
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
            f"The archive {shown(str(self.archive))} holds {what} {name!r}; do not use it, get the benchmark "
            "from its source."
        )


@contextlib.contextmanager
def archive_errors_named(archive: Path) -> Iterator[None]:
    """Turn whatever a truncated, damaged or foreign archive raises into a sentence that names it.

    The libraries raise what they stumble on: unknown versions, names that cannot be decoded, offsets that no
    file has, headers nested without end.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # by who writes what the archive holds
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
            # The disk's fault, or the permissions'; a position that cannot be is the archive's.
            raise UserError(
                f"The archive {shown(str(archive))} cannot be read ({error.strerror}); copy it again, or "
                "mend its permissions."
            ) from error
        raise UserError(
            f"The archive {shown(str(archive))} is damaged or was not copied to its end; copy it again."
        ) from error
