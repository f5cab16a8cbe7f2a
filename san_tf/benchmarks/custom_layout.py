"""Images of one's own: who is in them is told by their paths, or by a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from san_tf.benchmarks.builder import BenchmarkConfig
from san_tf.benchmarks.files import Files
from san_tf.benchmarks.samples import Sample, Source
from san_tf.data.records import IMAGE_SUFFIXES
from san_tf.errors import UserError

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "bounding_box_train", "image_train"),
    "query": ("query", "image_query"),
    "gallery": ("gallery", "test", "bounding_box_test", "image_test"),
}
_COLUMNS = ("path", "identity", "camera", "split")


@dataclasses.dataclass(kw_only=True)
class CustomConfig(BenchmarkConfig):
    r"""Builder configuration of images of one's own.

    Attributes:
        place: folder or archive with the images, in the manual folder; empty for that folder itself.
        pattern: regular expression that a whole path (relative to the place, with `/`) matches, with the
            group `identity` and, where known, `camera` and `split`.
        table: CSV file in the place, in place of a pattern: a row an image, with the columns `path`,
            `identity` and, where known, `camera` and `split`.
        split_names: what paths and tables call the splits `train`, `query` and `gallery`.
        split: of the images whose path or row tells none.
        junk: identities that no evaluation counts (-1 in the records).
        distractors: identities that are of nobody who is searched (0 in the records).

    Example:
        >>> CustomConfig(name="shop", pattern=r"(?P<split>\w+)/(?P<identity>\d+)_cam(?P<camera>\d+)_.*")
    """

    place: str = ""
    pattern: str | None = None
    table: str | None = None
    split_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: SPLIT_NAMES)
    split: str = "train"
    junk: tuple[str, ...] = ("-1",)
    distractors: tuple[str, ...] = ()


class _Row(NamedTuple):
    path: str
    identity: str
    camera: str
    split: str


def custom_sources(files: Files, config: CustomConfig) -> dict[str, list[Source]]:
    """The images of each split that has any.

    Identities that are whole numbers from 1 on keep them; if one is not, all are numbered from 1 in the order
    of their names. Cameras are numbered from 0 in the order of theirs; -1 is unknown. A record's file name is
    that of the image, or its path with `__` for `/` where two images of a split have the same.

    Args:
        files: the images.
        config: what tells identities, cameras and splits.

    Raises:
        UserError: neither or both of pattern and table are given, or the one that is is wrong, or leaves
            images out.
    """
    if (config.pattern is None) == (config.table is None):
        raise UserError(
            f"The configuration {config.name} of custom needs either a pattern or a table; give one."
        )
    paths = [path for path in files.paths() if path.lower().endswith(tuple(IMAGE_SUFFIXES))]
    if not paths:
        raise UserError(f"{files.place} holds no .jpg, .jpeg or .png file; put your images there.")
    rows = list(_matched(files, paths, config) if config.table is None else _tabled(files, paths, config))
    special = {**dict.fromkeys(config.junk, -1), **dict.fromkeys(config.distractors, 0)}
    pids = {**_identities({row.identity for row in rows} - set(special)), **special}
    camids = {name: camid for camid, name in enumerate(_in_order({row.camera for row in rows} - {""}))}
    sources = {}
    for split in config.split_names:
        chosen = [row for row in rows if row.split == split]
        if chosen:
            names = _names([row.path for row in chosen])
            samples = [
                Sample(row.path, pids[row.identity], camids.get(row.camera, -1), name)
                for row, name in zip(chosen, names, strict=True)
            ]
            sources[split] = [Source(files, samples)]
    return sources


def _matched(files: Files, paths: Sequence[str], config: CustomConfig) -> Iterator[_Row]:
    """What the pattern says of every image."""
    try:
        pattern = re.compile(config.pattern or "")
    except re.error as error:
        raise UserError(f"The pattern {config.pattern!r} is no regular expression: {error}.") from error
    if "identity" not in pattern.groupindex:
        raise UserError(
            f"The pattern {config.pattern!r} has no group identity; write one as (?P<identity>...)."
        )
    matches = [pattern.fullmatch(path) for path in paths]
    missed = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if missed:
        raise UserError(
            f"{len(missed):,} of {len(paths):,} images do not match the pattern {config.pattern!r}, first "
            f"{files.describe(missed[0])}; change the pattern or move them away."
        )
    for path, match in zip(paths, matches, strict=True):
        groups = match.groupdict() if match else {}
        split = _split(groups.get("split") or "", config, files.describe(path))
        yield _Row(path, groups["identity"], groups.get("camera") or "", split)


def _tabled(files: Files, paths: Sequence[str], config: CustomConfig) -> Iterator[_Row]:
    """What the table says, row by row."""
    table = str(config.table)
    place = files.describe(table)
    try:
        lines = csv.DictReader(io.StringIO(files.require(table).decode("utf-8-sig")), strict=True)
        columns = {name: (name or "").strip().lower() for name in lines.fieldnames or ()}
        rows = [
            (
                lines.line_num,
                {columns.get(name, ""): (value or "").strip() for name, value in row.items() if name},
            )
            for row in lines
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{place} is no CSV file in UTF-8: {error}.") from error
    for name in _COLUMNS[:2]:
        if name not in columns.values():
            raise UserError(f"{place} has no column {name}; its first line names {', '.join(_COLUMNS)}.")
    if not rows:
        raise UserError(f"{place} names no images; give a row an image.")
    there, seen = set(paths), set()
    for number, row in rows:
        path = row["path"].replace("\\", "/").removeprefix("./")
        if path not in there:
            raise UserError(
                f"{place}, line {number}: there is no image {path!r} in {files.place}; mend the path."
            )
        if path in seen:
            raise UserError(f"{place}, line {number}: {path} is there twice; remove one of the rows.")
        if not row["identity"]:
            raise UserError(f"{place}, line {number}: {path} has no identity; write one, or -1 for junk.")
        seen.add(path)
        split = _split(row.get("split", ""), config, f"{place}, line {number}")
        yield _Row(path, row["identity"], row.get("camera", ""), split)


def _split(name: str, config: CustomConfig, where: str) -> str:
    """The split that a path or table calls `name`."""
    if not name:
        return config.split
    for split, names in config.split_names.items():
        if name in names:
            return split
    known = ", ".join(name for names in config.split_names.values() for name in names)
    raise UserError(f"{where}: there is no split {name!r}; the names of splits are {known}.")


def _identities(names: Iterable[str]) -> dict[str, int]:
    """Numbers of identities: their own where all are whole numbers from 1 on."""
    ordered = _in_order(names)
    own = all(name.isascii() and name.isdigit() and 0 < int(name) < 2**63 for name in ordered)
    return {name: int(name) if own else number for number, name in enumerate(ordered, 1)}


def _in_order(names: Iterable[str]) -> list[str]:
    """Names sorted, whole numbers by value."""
    names = list(names)
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _names(paths: Sequence[str]) -> list[str]:
    """File names that differ, also without their suffixes, which name textures."""
    names = [path.rpartition("/")[2] for path in paths]
    if len({name.rpartition(".")[0] for name in names}) == len(names):
        return names
    return [path.replace("/", "__") for path in paths]
