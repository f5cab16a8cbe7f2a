"""Finished parts of an interrupted data set build, kept on disk for the next attempt."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.version import __version__

# Items per part: few enough to lose little and use little memory, enough to make syncing cheap.
PART_SIZE = 256
Example = Mapping[str, Any]
# An item is an example, or a sentence that says why there is none.
Item = Example | str
_STAMP, _PROBLEMS, _WHERE = "stamp", "problems", "where"


class Parts:
    """A list of items in files of `PART_SIZE` items, written while the items are made.

    A part is reused only if it is complete and its items would be made from the same sources. Files are
    NumPy's `.npz` with checksums, read without pickle.

    Args:
        folder: the folder of the files; created with the first file.

    Example:
        >>> parts = Parts("data/market1501/standard/unfinished_1.0.0")
        >>> for item in parts.items("train", stamps, lambda indices: (read(index) for index in indices)):
        ...     write(item)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def items(
        self,
        name: str,
        stamps: Sequence[str],
        make: Callable[[Sequence[int]], Iterator[Item]],
        size: int = PART_SIZE,
    ) -> Iterator[Item]:
        """Yield all items in order: complete parts from disk, the others newly made and kept.

        Args:
            name: name of the list, used in its file names.
            stamps: fingerprint of each item's sources; a changed one makes the whole part again.
            make: takes ascending indices and yields their items. An item is an example (bytes, strings and
                numbers by name, the same names in each) or a sentence that says why there is none.
            size: items per part.

        Raises:
            UserError: the disk is full or the folder cannot be written.
            RuntimeError: `make` ended too early.
        """
        ranges = [range(start, min(start + size, len(stamps))) for start in range(0, len(stamps), size)]
        files = {part: self.folder / f"{name}-{number:05d}.npz" for number, part in enumerate(ranges)}
        digests = {part: _digest([stamps[index] for index in part]) for part in ranges}
        kept = {part for part in ranges if _is_whole(files[part], digests[part])}
        made = make([index for part in ranges if part not in kept for index in part])
        with contextlib.closing(made):  # type: ignore[type-var]  # a generator, so it can be closed
            for part in ranges:
                if part in kept:
                    yield from _read(files[part])
                    continue
                items = list(itertools.islice(made, len(part)))
                if len(items) < len(part):
                    raise RuntimeError(f"{name}: item {part.start + len(items)} was not made.")
                _write(files[part], digests[part], items)
                yield from items


def _digest(stamps: Sequence[str]) -> str:
    """Fingerprint of a part. It includes the package version, since other versions may make other items."""
    return hashlib.sha256("\n".join([__version__, *stamps]).encode("utf-8", "surrogateescape")).hexdigest()


def _is_whole(file: Path, digest: str) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                return False
        with np.load(file, allow_pickle=False) as arrays:
            return str(arrays[_STAMP]) == digest
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


def _write(file: Path, digest: str, items: Sequence[Item]) -> None:
    examples = [item for item in items if not isinstance(item, str)]
    arrays: dict[str, np.ndarray] = {
        _STAMP: np.array(digest),
        _PROBLEMS: np.array([item for item in items if isinstance(item, str)], dtype=np.str_),
        _WHERE: np.array([isinstance(item, str) for item in items]),
    }
    for field in examples[0] if examples else ():
        values = [example[field] for example in examples]
        if isinstance(values[0], bytes):
            # All bytes in one array: an array of byte strings would drop trailing zeros and pad the others.
            arrays[f"bytes/{field}"] = np.frombuffer(b"".join(values), dtype=np.uint8)
            arrays[f"lengths/{field}"] = np.array([len(value) for value in values], dtype=np.int64)
        else:
            arrays[f"values/{field}"] = np.array(values)
    with atomic_file(file) as temporary, temporary.open("wb") as target:
        np.savez(target, **arrays)  # type: ignore[arg-type]  # mypy takes the arrays for `allow_pickle`


def _read(file: Path) -> Iterator[Item]:
    columns: dict[str, list[Any]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        is_problem, problems = arrays[_WHERE].tolist(), iter(arrays[_PROBLEMS].tolist())
        for name in arrays.files:
            kind, _, field = name.partition("/")
            if kind == "values":
                columns[field] = arrays[name].tolist()
            elif kind == "bytes":
                ends = np.cumsum(arrays[f"lengths/{field}"]).tolist()
                content = arrays[name].tobytes()
                columns[field] = [content[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    rows = zip(*columns.values(), strict=True)
    for problem in is_problem:
        yield next(problems) if problem else dict(zip(columns, next(rows), strict=True))
