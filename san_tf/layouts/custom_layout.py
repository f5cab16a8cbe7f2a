"""Your own images, with identities from their paths or from a table."""

from __future__ import annotations

import codecs
import collections
import csv
import dataclasses
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from san_tf.archives.files import Files, shown
from san_tf.errors import UserError
from san_tf.image_formats import image_suffixes, is_image_name, suffix_of
from san_tf.layouts.benchmark_builder import BenchmarkConfig
from san_tf.layouts.samples import Sample, Source, listed

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "bounding_box_train", "image_train"),
    "query": ("query", "image_query"),
    "gallery": ("gallery", "test", "bounding_box_test", "image_test"),
}
# One folder per identity, and nothing deeper: `train/cam1/anna/1.jpg` would be ambiguous.
_SPLIT = "(?P<split>train|query|gallery|test|bounding_box_train|bounding_box_test)"
FOLDERS = rf"{_SPLIT}/(?P<identity>[^/]+)/[^/]+"
NAMES = rf"{_SPLIT}/(?P<identity>-1|[0-9]+)_c(?P<camera>[0-9]+).*"
# The same with camera folders around or inside the identity folders, if their names say so.
_CAMERA = "(?P<camera>[Cc][Aa][Mm]([Ee][Rr][Aa])?[ _.-]*[0-9]+)"
_DEEPER = (
    rf"{_SPLIT}/{_CAMERA}/(?P<identity>[^/]+)/[^/]+",
    rf"{_SPLIT}/(?P<identity>[^/]+)/{_CAMERA}/[^/]+",
)
_COLUMNS = ("path", "identity", "camera", "split")
# Most folders around the images that are skipped.
_AROUND = 5


@dataclasses.dataclass(kw_only=True)
class CustomConfig(BenchmarkConfig):
    r"""Builder configuration of your own images.

    Attributes:
        place: folder or archive of the images in the manual folder; empty for that folder itself.
        pattern: regular expression for a whole path (relative to the place, with `/`), with the group
            `identity` and optionally `camera` and `split`.
        table: CSV file in the place, instead of a pattern, with one row per image and the columns `path`,
            `identity` and optionally `camera` and `split`.
        split_names: names that paths and tables use for the splits `train`, `query` and `gallery`.
        split: split of the images whose path or row names none.
        junk: identities that evaluation ignores (-1 in the records).
        distractors: identities that are not in the query (0 in the records).

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


class Found(NamedTuple):
    """The contents of a folder or archive of your own images.

    Attributes:
        sources: sources of each split that has images.
        left_out: number of unused files by kind: a suffix, or a description.
        notes: sentences for the user about anything unexpected.
    """

    sources: dict[str, list[Source]]
    left_out: dict[str, int]
    notes: list[str]


def custom_sources(files: Files, config: CustomConfig) -> dict[str, list[Source]]:
    """Return the sources of each split that has images; see `find_images`."""
    return find_images(files, config).sources


def find_images(files: Files, config: CustomConfig) -> Found:
    """Find the images of each split.

    Identities keep their numbers if all are whole numbers from 1 and no two names mean the same number (`7`
    and `07`). Otherwise they are numbered from 1 in the order of their names. Cameras are numbered from 0 in
    the order of their names; -1 is unknown. Names that differ only in their Unicode form are equal. A
    record's file name is that of the image. If two images of a split have the same name, it is the path with
    `__` for `/`.

    Args:
        files: the images.
        config: says where to find identities, cameras and splits.

    Raises:
        UserError: neither or both of pattern and table are given, or the given one is wrong or leaves images
            out.
    """
    if (config.pattern is None) == (config.table is None):
        raise UserError(
            f"The configuration {config.name} of custom needs either a pattern or a table; give one."
        )
    files = _inside(files, config)
    everything = files.paths()
    paths = [path for path in everything if is_image_name(path)]
    left_out = collections.Counter(
        suffix_of(path) or "without a suffix"
        for path in everything
        if not is_image_name(path) and path != config.table
    )
    if not paths:
        there = f" (only {_counted(left_out)})" if left_out else ""
        raise UserError(
            f"{shown(str(files.place))} holds no image file{there}; put images there: "
            f"{listed(sorted(image_suffixes()), 'or')}."
        )
    rows = list(_matched(files, paths, config) if config.table is None else _tabled(files, paths, config))
    if len(rows) < len(paths):
        left_out[f"images that {config.table} does not name"] = len(paths) - len(rows)
    special = {**dict.fromkeys(config.junk, -1), **dict.fromkeys(config.distractors, 0)}
    people = {row.identity for row in rows} - set(special)
    cameras = {row.camera for row in rows} - {""}
    pids = {**_identities(people), **special}
    camids = {name: camid for camid, name in enumerate(_in_order(cameras))}
    sources = {}
    for split in config.split_names:
        chosen = [row for row in rows if row.split == split]
        if chosen:
            names = _names([shown(row.path) for row in chosen])
            samples = [
                Sample(row.path, pids[row.identity], camids.get(row.camera, -1), name)
                for row, name in zip(chosen, names, strict=True)
            ]
            sources[split] = [Source(files, samples)]
    notes = [*_look_alikes("identities", people), *_look_alikes("cameras", cameras)]
    unknown = sum(not row.camera for row in rows)
    if unknown:
        notes.append(
            f"{unknown:,} of {len(rows):,} images have no camera, so the evaluation cannot leave out gallery "
            "images by the query's own camera: images of the same moment count, and scores come out higher."
        )
    return Found(sources, dict(sorted(left_out.items())), notes)


def _inside(files: Files, config: CustomConfig) -> Files:
    """The files without a folder around all of them, if the configuration means its contents."""
    inner = files
    for _ in range(_AROUND):
        paths = inner.paths()
        if config.table is None:
            pattern = _compiled(config)
            if any(pattern.fullmatch(path) for path in paths) or (
                config.pattern == FOLDERS and any(re.match(_SPLIT + "/", path) for path in paths)
            ):
                return inner
        elif inner.has(config.table):
            return inner
        tops = {path.split("/")[0] for path in paths}
        if len(tops) != 1 or "/" not in paths[0]:
            break
        inner = inner.rooted(tops.pop())
    return files


def _compiled(config: CustomConfig) -> re.Pattern[str]:
    try:
        pattern = re.compile(config.pattern or "")
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"The pattern {config.pattern!r} is not a regular expression: {error}.") from error
    if "identity" not in pattern.groupindex:
        raise UserError(
            f"The pattern {config.pattern!r} has no group identity; write one as (?P<identity>...)."
        )
    return pattern


def _matched(files: Files, paths: Sequence[str], config: CustomConfig) -> Iterator[_Row]:
    """Yield what the pattern finds in each image's path."""
    pattern = _compiled(config)
    if config.pattern == FOLDERS:
        named = (re.compile(deeper) for deeper in _DEEPER)
        pattern = next((deeper for deeper in named if all(map(deeper.fullmatch, paths))), pattern)
    matches = [pattern.fullmatch(path) for path in paths]
    missed = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if missed:
        advice = "change the pattern or move them away"
        if config.pattern == FOLDERS and any(path.count("/") > 2 for path in missed):
            advice = (
                "say which folder is the identity: "
                f'--pattern "{_SPLIT}/(?P<identity>[^/]+)/.*" for the outer one, '
                f'"{_SPLIT}/(?P<camera>[^/]+)/(?P<identity>[^/]+)/.*" for the one inside a camera folder'
            )
        raise UserError(
            f"{len(missed):,} of {len(paths):,} images do not match the pattern {config.pattern!r}, first "
            f"{files.describe(missed[0])}; {advice}."
        )
    for path, match in zip(paths, matches, strict=True):
        groups = match.groupdict() if match else {}
        split = _split(groups.get("split") or "", config, files.describe(path))
        if not groups["identity"]:
            raise UserError(
                f"The pattern {config.pattern!r} finds no identity in {files.describe(path)}; change the "
                "pattern or move the image away."
            )
        yield _Row(path, _same(groups["identity"]), _same(groups.get("camera") or ""), split)


def _tabled(files: Files, paths: Sequence[str], config: CustomConfig) -> Iterator[_Row]:
    """Yield the table's entries, row by row."""
    table = str(config.table)
    place = files.describe(table)
    there, seen = {_same(path): path for path in paths}, set()
    there |= {path: path for path in paths}
    for number, row in _table_rows(files, table):
        written = row["path"]
        forms = (written, _slashed(written), _same(_slashed(written)))
        path = next((there[form] for form in forms if form in there), "")
        if not path:
            kept = files.has(_slashed(written)) and not is_image_name(written)
            problem = f"{written!r} is not an image file" if kept else f"there is no image {written!r}"
            raise UserError(f"{place}, line {number}: {problem} in {shown(str(files.place))}; fix the path.")
        if path in seen:
            raise UserError(f"{place}, line {number}: {shown(path)} is there twice; remove one of the rows.")
        if not row["identity"]:
            raise UserError(
                f"{place}, line {number}: {shown(path)} has no identity; write one, or -1 for junk."
            )
        seen.add(path)
        split = _split(row.get("split", ""), config, f"{place}, line {number}")
        yield _Row(path, _same(row["identity"]), _same(row.get("camera", "")), split)


def _table_rows(files: Files, table: str) -> list[tuple[int, dict[str, str]]]:
    """Return line numbers and cells of a CSV file, by column name in lower case.

    Cells are separated by commas, or by semicolons or tabs if the first line uses them, as many spreadsheets
    do.
    """
    place = files.describe(table)
    content = files.require(table)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
        first = text.lstrip().partition("\n")[0]
        mark = "," if "," in first else max(";\t", key=first.count)
        lines = csv.DictReader(io.StringIO(text), delimiter=mark, strict=True)
        columns = {name: name.strip().lower() for name in lines.fieldnames or ()}
        rows = [(lines.line_num, row) for row in lines]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{place} is not a CSV file in UTF-8: {error}; save it as one.") from error
    for name in _COLUMNS:
        number = list(columns.values()).count(name)
        if not number and name in _COLUMNS[:2]:
            raise UserError(f"{place} has no column {name}; its first line names {', '.join(_COLUMNS)}.")
        if number > 1 or (lines.fieldnames or []).count(name) > 1:
            raise UserError(f"{place} has two columns {name}; remove one.")
    if not rows:
        raise UserError(f"{place} names no images; write one row per image.")
    for number, row in rows:
        if None in row:
            raise UserError(
                f"{place}, line {number}: it has more cells than the first line; put cells that hold "
                f"{mark!r} into quotes."
            )
    return [
        (number, {columns[name]: (value or "").strip() for name, value in row.items()})
        for number, row in rows
    ]


def _slashed(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _same(name: str) -> str:
    """A name in the composed form of Unicode: macOS separates letters from their accents."""
    return unicodedata.normalize("NFC", name)


def _look_alikes(what: str, names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence about names that differ but may mean the same."""
    groups = collections.defaultdict(list)
    for name in sorted(names):
        number = name.isascii() and name.isdigit()
        groups[name.lstrip("0") or "0" if number else " ".join(name.casefold().split())].append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if alike:
        others = f" (and {len(alike) - 1:,} more such)" if len(alike) > 1 else ""
        names = listed([repr(name) for name in alike[0]])
        yield f"The {what} {names}{others} are counted as different ones; use one name if they are the same."


def _counted(left_out: Mapping[str, int]) -> str:
    """Numbers of files by kind, as part of a sentence."""
    return listed([f"{number:,} {kind}" for kind, number in left_out.items()])


def _split(name: str, config: CustomConfig, where: str) -> str:
    """Return the split that a path or table calls `name`."""
    if not name:
        return config.split
    for split, names in config.split_names.items():
        if name in names:
            return split
    known = ", ".join(name for names in config.split_names.values() for name in names)
    raise UserError(f"{where}: there is no split {name!r}; the names of splits are {known}.")


def _identities(names: Iterable[str]) -> dict[str, int]:
    """Numbers of identities: their own if all are whole numbers from 1."""
    ordered = _in_order(names)
    # A 64-bit number has no more digits, and Python refuses to read thousands of them.
    own = all(name.isascii() and name.isdigit() and len(name) < 20 for name in ordered)
    own = own and all(0 < int(name) < 2**63 for name in ordered)
    own = own and len({int(name) for name in ordered}) == len(ordered)
    return {name: int(name) if own else number for number, name in enumerate(ordered, 1)}


def _in_order(names: Iterable[str]) -> list[str]:
    """Names sorted, whole numbers by value."""
    names = list(names)
    if all(name.isascii() and name.isdigit() for name in names):
        # By value, for any number of digits.
        return sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    return sorted(names)


def _names(paths: Sequence[str]) -> list[str]:
    """Return file names that are unique even without suffix, because textures are named without it."""
    names = [path.rpartition("/")[2] for path in paths]
    if len({name.rpartition(".")[0] for name in names}) == len(names):
        return names
    return [path.replace("/", "__") for path in paths]
