"""Finds a benchmark in the user's manual folder, or says in one sentence what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from san_tf.archives.archive_types import open_archive
from san_tf.archives.files import Files, FolderFiles, is_litter
from san_tf.errors import UserError
from san_tf.layouts.layout import ARCHIVE_SUFFIXES, Layout
from san_tf.layouts.samples import listed

# Depth of the search for a misplaced copy, and most folders to search.
_DEPTH = 3
_FOLDERS = 2000


def find_copy(folder: str | os.PathLike[str], layout: Layout) -> Files:
    """Return the files of a benchmark's copy.

    It looks for the benchmark's folder, then its archive, then its parts in `folder` itself.

    Args:
        folder: the manual folder; an archive given instead is used as the benchmark's archive.
        layout: layout of the benchmark.

    Returns:
        The files; the root contains the layout's parts.

    Raises:
        UserError: the copy is missing, incomplete, empty or misplaced, or its archive is damaged or unsafe;
            the message says which, and what to do.

    Example:
        >>> find_copy("downloads", MARKET1501).paths("query")[0]
        'query/0001_c1s1_001051_00.jpg'
    """
    folder = Path(folder)
    if folder.is_file() and folder.name.lower().endswith(ARCHIVE_SUFFIXES):
        return _in_archive(folder, layout)
    if not folder.is_dir():
        raise UserError(
            f"The folder {folder}, which should contain {layout.name}, does not exist; "
            + layout.put_there("there")
        )
    for name in layout.folders:
        if (folder / name).is_dir():
            return _complete(FolderFiles(folder / name), layout)
    for name in layout.folders:
        for suffix in ARCHIVE_SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return _in_archive(folder / f"{name}{suffix}", layout)
    here = FolderFiles(folder)
    # A lone `train` folder among other downloads is not a copy of the benchmark; most of its parts are.
    if layout.parts and len(_missing(here, layout)) <= len(layout.parts) // 3:
        return _complete(here, layout)
    raise UserError(_absent(folder, layout))


def _complete(files: Files, layout: Layout) -> Files:
    """Return `files` if all parts exist."""
    missing = _missing(files, layout)
    if not missing:
        return files
    place = Path(files.place)
    if not any(place.iterdir()):
        raise UserError(f"{place} is empty; copy {layout.name} there again.")
    nested = next(_complete_folders(place, layout), None)
    if nested is not None:
        raise UserError(
            f"{layout.name} is too deep, in {nested}; move what is in there to {place}, or name "
            f"{nested} as the manual folder."
        )
    raise UserError(
        f"The copy of {layout.name} in {place} has no {listed(missing)}; copy it again, with "
        f"{listed(layout.parts)}."
    )


def _in_archive(archive: Path, layout: Layout) -> Files:
    """Return the files of an archive, with or without the benchmark's folder around them."""
    files = open_archive(archive)
    roots = {path.split("/")[0] for path in files.paths() if "/" in path}
    for root in (*(name for name in layout.folders if name in roots), ""):
        rooted = files.rooted(root) if root else files
        if not _missing(rooted, layout):
            return rooted
    if not files.paths():
        raise UserError(f"The archive {archive} is empty; copy {layout.name} again.")
    for nested in sorted(_folders_around(files, layout.parts[0])) if layout.parts else ():
        if not _missing(files.rooted(nested), layout):
            raise UserError(
                f"{layout.name} is in {nested} in {archive}, but should be in {layout.folders[0]} "
                "there; unpack it and pack only that folder."
            )
    root = next((root for root in layout.folders if root in roots), "")
    missing = _missing(files.rooted(root) if root else files, layout)
    raise UserError(
        f"The archive {archive} has no {listed(missing)}, so {layout.name} is not complete; copy "
        f"it again, with {listed(layout.parts)}."
    )


def _folders_around(files: Files, part: str) -> set[str]:
    """Folders that hold the file or folder `part`."""
    found = (f"/{path}/".partition(f"/{part}/") for path in files.paths())
    return {before.strip("/") for before, here, _ in found if here} - {""}


def _missing(files: Files, layout: Layout) -> tuple[str, ...]:
    return tuple(part for part in layout.parts if not files.has(part))


def _complete_folders(top: Path, layout: Layout) -> Iterator[Path]:
    """Folders below `top` that hold all parts, the nearest first."""
    if not layout.parts:
        return
    level, seen = [top], 0
    for _ in range(_DEPTH):
        below: list[Path] = []
        for folder in level:
            try:
                below += [entry for entry in sorted(folder.iterdir()) if _is_folder(entry)]
            except OSError:
                continue
        seen += len(below)
        if seen > _FOLDERS:
            return
        yield from (folder for folder in below if not _missing(FolderFiles(folder), layout))
        level = below


def _is_folder(path: Path) -> bool:
    return not is_litter(path.name) and path.is_dir()


def _absent(folder: Path, layout: Layout) -> str:
    """Why `find_copy` found nothing."""
    expected = folder / layout.folders[0]
    elsewhere = next(_complete_folders(folder, layout), None)
    if elsewhere is not None:
        return (
            f"{layout.name} is in {elsewhere}, but should be in {expected}; rename or move it, or name "
            f"{elsewhere} as the manual folder."
        )
    archives = [
        path.name for path in sorted(folder.iterdir()) if path.name.lower().endswith(ARCHIVE_SUFFIXES)
    ]
    if archives:
        return (
            f"{folder} holds no {layout.name}; if {archives[0]} is its archive, rename that to "
            f"{layout.folders[0]}{''.join(Path(archives[0]).suffixes[-1:])}, else {layout.put_there('there')}"
        )
    return f"{folder} holds no {layout.name}; {layout.put_there('there')}"
