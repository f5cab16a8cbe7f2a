"""Where photographs come from: folders, tables, archives, one after another and never all in memory."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from san_tf.benchmarks.archives import open_archive
from san_tf.benchmarks.files import DamagedFileError, is_litter
from san_tf.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png")
_ARCHIVES = (".tar", ".zip")
_COMPRESSED = (".tgz", ".tar.gz")
# Nobody's photograph is larger, and a wrong path in a table may name anything.
_MAX_BYTES = 256 * 2**20


class Photograph(NamedTuple):
    """A photograph that is not read yet.

    Attributes:
        name: path of the file, or of an archive and the member in it.
        read: reads its bytes; raises DamagedFileError.
        columns: what a table says of it beside its path, as written there.
    """

    name: str
    read: Callable[[], bytes]
    columns: dict[str, str]


def photographs(places: Sequence[str | os.PathLike[str]]) -> Iterator[Photograph]:
    """Yield the photographs of folders, tables, archives and single files, in an order that repeats.

    - A folder: its JPEG and PNG files and those of its subfolders, sorted folder by folder; hidden files and
      what file managers leave behind are not there, links to folders are not followed.
    - A `.csv`: a column `path` (relative paths start at the table's folder); its other columns go along.
    - A `.tar` or `.zip`: the JPEG and PNG files in it, read in place.

    Args:
        places: paths of these.

    Raises:
        UserError: a place is missing, of another kind, or an archive is broken or unsafe.

    Example:
        >>> for photograph in photographs(["crops", "more.csv", "shards/000.tar"]):
        ...     content = photograph.read()
    """
    for place in map(Path, places):
        name = place.name.lower()
        if place.is_dir():
            yield from _folder(place)
        elif not place.exists():
            raise UserError(f"{place} does not exist; name a folder, a .csv, a .tar, a .zip or an image.")
        elif name.endswith(".csv"):
            yield from _table(place)
        elif name.endswith(_ARCHIVES):
            yield from _archive(place)
        elif name.endswith(_COMPRESSED):
            raise UserError(f"{place} can only be read from its beginning on; unpack it, or pack it as .tar.")
        elif name.endswith(IMAGES):
            yield _file(place)
        else:
            raise UserError(
                f"{place} is of no kind that is read here; name a folder, .csv, .tar, .zip or image."
            )


def _file(path: Path, columns: dict[str, str] | None = None) -> Photograph:
    return Photograph(str(path), functools.partial(_read, path), columns or {})


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DamagedFileError(f"is larger than {_MAX_BYTES // 2**20} MB")
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedFileError("is missing") from None
    except OSError as error:
        raise DamagedFileError(f"cannot be read ({error.strerror})") from error


def _folder(folder: Path) -> Iterator[Photograph]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror}); mend its permissions."
        ) from error
    for entry in found:
        if is_litter(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _folder(Path(entry.path))
        elif entry.name.lower().endswith(IMAGES):
            yield _file(Path(entry.path))


def _table(path: Path) -> Iterator[Photograph]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            names = {name.strip().lower(): name for name in rows.fieldnames or ()}
            if "path" not in names:
                raise UserError(f"{path} has no column `path`; its first line must name the columns.")
            for row in rows:
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}, line {rows.line_num}: it has not as many cells as the first line."
                    )
                image = path.parent / row[names["path"]].strip()
                yield _file(image, {key: row[name] for key, name in names.items() if key != "path"})
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file ({error}); write it anew.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _archive(path: Path) -> Iterator[Photograph]:
    files = open_archive(path)
    for member in files.paths():
        if member.lower().endswith(IMAGES):
            yield Photograph(f"{path}/{member}", functools.partial(files.read, member), {})
