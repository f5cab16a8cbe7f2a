"""Finds photographs in folders, tables and archives, without holding all in memory."""

from __future__ import annotations

import csv
import errno
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from san_tf.archives.archive_types import open_archive
from san_tf.archives.files import DamagedFileError, is_litter
from san_tf.data.upright import MAX_PIXELS, PhotographError, upright
from san_tf.errors import UserError
from san_tf.image_formats import is_image_name, read_regular, stamp_of, suffix_of
from san_tf.whole_numbers import WholeNumbers

__all__ = ["MAX_PIXELS", "PhotographError", "is_decodable", "upright"]


def is_decodable(content: bytes) -> bool:
    """Return whether the decoder of exported graphs can decode the file."""
    # Imported here, so that commands report wrong flags before TensorFlow starts.
    import tensorflow as tf

    from san_tf.data.images import decode_image

    try:
        with tf.device("CPU"):
            decode_image(tf.constant(content))
    except tf.errors.InvalidArgumentError:
        return False
    return True


_ARCHIVES = (".tar", ".zip")
_COMPRESSED = (".tgz", ".tar.gz")
# No photograph is larger, but a wrong path in a table may name any file.
_MAX_BYTES = 256 * 2**20
# Links between folders can multiply without end.
_MAX_FOLDERS = 1_000_000
# Names of the same column of a table.
_SAME = {"pids": "pid", "camids": "camid"}
_IDENTIFYING = {
    "pid": "identity",
    "pids": "identity",
    "camid": "camera",
    "camids": "camera",
    "camera": "camera",
}
_HINTS = {suffix: "pip install pillow-heif reads them" for suffix in (".heic", ".heif")}


class Photograph(NamedTuple):
    """A photograph that has not been read yet.

    Attributes:
        name: path of the file, or of an archive and its member.
        read: reads its bytes; raises DamagedFileError.
        columns: other cells of its row in a table, as written.
        stamp: returns a text that changes with the file, without reading it.
    """

    name: str
    read: Callable[[], bytes]
    columns: dict[str, str]
    stamp: Callable[[], str] = str


def photographs(
    places: Sequence[str | os.PathLike[str]],
    others: Counter[str] | None = None,
    listed: dict[str, str] | None = None,
) -> Iterator[Photograph]:
    """Yield the photographs of folders, tables, archives and single files, in a repeatable order.

    - Folder: files with image names (see `san_tf.image_formats`) in it and its subfolders, sorted in each
      folder. Links are followed, but not to a folder above them.
    - `.csv`: files in the column `path`, relative to the table's folder; other columns are kept.
    - `.tar` or `.zip`: the images in it, read in place.

    Args:
        places: paths of folders, tables, archives and files.
        others: counts the ignored files by kind: their suffix, or a description.
        listed: is filled with their paths, and why they are ignored.

    Raises:
        UserError: a place is missing or of another kind, or an archive is broken or unsafe.

    Example:
        >>> for photograph in photographs(["crops", "more.csv", "shards/000.tar"]):
        ...     content = photograph.read()
    """
    ignored = _Ignored(Counter() if others is None else others, {} if listed is None else listed)
    for place in map(Path, places):
        name = place.name.lower()
        if place.is_dir():
            yield from _folder(place, ignored, (), [0])
        elif not place.exists():
            raise UserError(f"{place} does not exist; name a folder, a .csv, a .tar, a .zip or an image.")
        elif not place.is_file():
            raise UserError(f"{place} is a pipe or a device, not a file; name a file or a folder.")
        elif name.endswith(".csv"):
            yield from _table(place)
        elif name.endswith(_ARCHIVES):
            yield from _archive(place, ignored)
        elif name.endswith(_COMPRESSED):
            raise UserError(f"{place} is compressed as a whole; unpack it, or pack it as .tar.")
        elif is_image_name(name):
            yield _file(place)
        else:
            hint = f" ({_HINTS[suffix_of(name)]})" if suffix_of(name) in _HINTS else ""
            raise UserError(f"{place} is not a folder, .csv, .tar, .zip or image{hint}; name one of these.")


class _Ignored(NamedTuple):
    """Files that are not read: their numbers by kind, and their paths."""

    numbers: Counter[str]
    listed: dict[str, str]

    def add(self, path: str, kind: str, why: str = "") -> None:
        self.numbers[kind] += 1
        # Escaped where it is not UTF-8, as tables hold names.
        self.listed[path.encode("utf-8", "backslashreplace").decode()] = why or f"is not read: {kind}"


def left_out_summary(
    left_out: Mapping[str, str], others: Mapping[str, int], what: str = "photographs"
) -> str:
    """Return a sentence that counts left-out files by kind.

    Args:
        left_out: problems of photographs, by name.
        others: numbers of ignored files by kind, as `photographs` counts them.
        what: name of what is left out.

    Example:
        >>> left_out_summary({"a.jpg": "is empty", "b.jpg": "is missing"}, {".txt": 3})
        'Left out: 2 photographs (is empty: 1, is missing: 1); 3 others (.txt: 3).'
    """
    problems = Counter(left_out.values())
    parts = []
    for name, kinds in ((what, problems), ("others", Counter(others))):
        if kinds:
            shown = [f"{kind}: {number:,}{_hint(kind)}" for kind, number in kinds.most_common(12)]
            more = len(kinds) - len(shown)
            listed = ", ".join(shown) + (f", and {more:,} more kinds" if more else "")
            parts.append(f"{sum(kinds.values()):,} {name} ({listed})")
    return f"Left out: {'; '.join(parts) or 'nothing'}."


def _hint(kind: str) -> str:
    return f" [{_HINTS[kind]}]" if kind in _HINTS else ""


def _file(path: Path, columns: dict[str, str] | None = None) -> Photograph:
    return Photograph(
        str(path), functools.partial(_read, path), columns or {}, functools.partial(stamp_of, path)
    )


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        told = "is missing; its path has \\ where / is needed" if "\\" in str(path) else "is missing"
        raise DamagedFileError(told) from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise DamagedFileError("is a pipe or a device, not a file") from None
        if error.errno == errno.EISDIR:
            raise DamagedFileError("is a folder, not a file") from None
        raise DamagedFileError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # not a plain file, too large, or a path with a zero byte
        raise DamagedFileError(str(error) if str(error).startswith("is ") else "is missing") from None


def _folder(
    folder: Path, others: _Ignored, above: tuple[tuple[int, int], ...], visited: list[int]
) -> Iterator[Photograph]:
    try:
        state = folder.stat()
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror}); check its permissions."
        ) from error
    here = (state.st_dev, state.st_ino)
    if here in above:
        others.add(str(folder), "link to a folder above it")
        return
    visited[0] += 1
    if visited[0] > _MAX_FOLDERS:
        raise UserError(f"{folder} has more than {_MAX_FOLDERS:,} folders; remove circular links.")
    for entry in found:
        if is_litter(entry.name):
            others.add(entry.path, "hidden")
        elif entry.is_dir():
            yield from _folder(Path(entry.path), others, (*above, here), visited)
        elif is_image_name(entry.name):
            yield _file(Path(entry.path))
        else:
            others.add(entry.path, suffix_of(entry.name) or "without a suffix")


def _table(path: Path) -> Iterator[Photograph]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            names = {name.strip().lower(): name for name in rows.fieldnames or ()}
            if "path" not in names:
                told = "; ".join(rows.fieldnames or ())
                if ";" in told.replace("; ", "") or "\t" in told:
                    raise UserError(f"{path} does not separate its cells by commas; save it with commas.")
                raise UserError(f"{path} has no column `path`; its first line must name the columns.")
            meanings = Counter(_SAME.get(key, key) for key in names)
            twice = [name for name, number in meanings.items() if number > 1]
            if twice or len(names) < len(rows.fieldnames or ()):
                raise UserError(
                    f"{path} names a column twice ({', '.join(twice or names)}); keep one of them."
                )
            if "features" in names:
                raise UserError(f"{path} has a column `features`, the name of the embeddings; rename it.")
            numbers = WholeNumbers()
            for row in rows:
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}, line {rows.line_num} has more or fewer cells than the first line; fix it."
                    )
                for key, name in names.items():
                    if what := _IDENTIFYING.get(key):
                        numbers.check(what, row[name], f"{path}, line {rows.line_num}")
                image = path.parent / row[names["path"]].strip()
                yield _file(image, {key: row[name] for key, name in names.items() if key != "path"})
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file ({error}); write it anew.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _archive(path: Path, others: _Ignored) -> Iterator[Photograph]:
    files = open_archive(path)
    for member in files.paths():
        if is_image_name(member):
            read = functools.partial(files.read, member)
            yield Photograph(f"{path}/{member}", read, {}, functools.partial(files.stamp, member))
        else:
            others.add(f"{path}/{member}", suffix_of(member) or "without a suffix")
