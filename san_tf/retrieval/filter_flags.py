"""Filter flags and entry tables of the gallery commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from san_tf.command_line import Terminal, printable
from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.gallery import FIRST_NAMED, Gallery, GalleryInfo
from san_tf.retrieval.name_reader import parse_time


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a filter to a command."""
    group = parser.add_argument_group("filter: entries must meet all of these conditions")
    group.add_argument(
        "--cameras",
        nargs="+",
        type=_camera,
        metavar="N",
        default=[],
        help="one of these cameras, by number or name",
    )
    group.add_argument(
        "--excluded_cameras", nargs="+", type=_camera, metavar="N", default=[], help="none of these cameras"
    )
    group.add_argument(
        "--pids",
        nargs="+",
        type=whole_number(-1, 2**62),
        metavar="N",
        default=[],
        help="one of these identities",
    )
    group.add_argument(
        "--since", metavar="TIME", help="from this time on (UTC): 2026-01-31, 2026-01-31T08:30, Unix seconds"
    )
    group.add_argument("--until", metavar="TIME", help="before this time")
    group.add_argument("--tags", nargs="+", metavar="WORD", default=[], help="all of these tags")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        # Python refuses thousands of digits, and SQLite and FAISS refuse more than 64 bits.
        try:
            number = int(text) if len(text) < 40 else most + 1
        except ValueError:
            number = most + 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!a} is not a whole number from {least} to {most}")
        return number

    return read


def _camera(text: str) -> str:
    # A number is checked like all others, and is that number however it is written.
    if re.fullmatch(r"[+-]?\d+", text):
        return str(whole_number(-1, 2**62)(text))
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is not the name of a camera")
    return text


def duration(text: str) -> float:
    """Read a duration such as `30d`, `12h` or `4w`, in seconds; an argparse type."""
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", text.strip())
    if found is None or int(found[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is not a duration; write 12h, 30d or 4w")
    return int(found[1]) * {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}[found[2]]


def filter_of(options: argparse.Namespace, info: GalleryInfo | None = None) -> Filter:
    """Return the filter that the flags describe.

    Args:
        options: the flags.
        info: record of the gallery, which knows the names of cameras; None only checks the flags.

    Raises:
        UserError: a time cannot be read, `--since` is not before `--until`, or a camera is unknown.
    """
    since, until = (None if text is None else parse_time(text) for text in (options.since, options.until))
    if since is not None and until is not None and since >= until:
        raise UserError(f"--since {options.since} is not before --until {options.until}; exchange them.")
    cameras, excluded = (
        tuple(_number(name, info) for name in names) for names in (options.cameras, options.excluded_cameras)
    )
    return Filter(cameras, excluded, since, until, tuple(options.tags), tuple(options.pids))


def _number(name: str, info: GalleryInfo | None) -> int:
    number = -1 if info is None else info.camera_number(name)
    if number is None:
        raise UserError(f"There is no camera {name!r}; `san-tf gallery info` shows the cameras of a gallery.")
    return number


def unknown_values(gallery: Gallery, where: Filter) -> list[str]:
    """Return the conditions of a filter that no entry of the gallery can meet, such as "camera 7"."""
    found = []
    if cameras := {*where.cameras, *where.excluded_cameras} - {-1}:
        missing = sorted(cameras.difference(gallery.cameras()))
        found += [f"camera {gallery.info.camera_name(number)}" for number in missing]
    if pids := set(where.pids) - {-1}:
        found += [f"identity {number}" for number in sorted(pids.difference(gallery.pids()))]
    if where.tags:
        found += [f"tag {tag}" for tag in sorted(set(where.tags).difference(gallery.tags()))]
    return found


def entry_table(info: GalleryInfo, entries: Sequence[Entry], scores: Sequence[float] | None = None) -> Table:
    """Return a table for `print_table`, one row per entry; with scores, a ranked list."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for heading in ("", "score") if scores is not None else ():
        table.add_column(heading, justify="right")
    table.add_column("key", overflow="fold")
    for heading in ("camera", "time", "pid"):
        table.add_column(heading, justify="right", no_wrap=heading == "time")
    table.add_column("tags")
    for number, entry in enumerate(entries):
        ranked = (str(number + 1), f"{scores[number]:.3f}") if scores is not None else ()
        camera, pid = info.camera_name(entry.camera), _shown(entry.pid)
        cells = (*ranked, entry.key, camera, time_text(entry.time), pid, " ".join(entry.tags))
        # As `Text`: in a plain cell, brackets in a file's name or a tag would be read as a style.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def print_table(console: Terminal, table: Table) -> None:
    """Print a table; to a file or a pipe in full width, so that no key is broken over lines."""
    if not console.is_terminal:
        wide = console.options.update(max_width=2**20)
        console = Terminal(file=console.file, width=Measurement.get(console, wide, table).maximum)
    console.print(table)


def time_text(time: float | None) -> str:
    """Return a time (seconds since 1970) as UTC date and time; "" where unknown."""
    if time is None:
        return ""
    try:
        return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{time:g} s"


def as_json(info: GalleryInfo, entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON values; a camera with a name also has its name."""
    facts = {**asdict(entry), "tags": list(entry.tags)}
    if entry.camera >= FIRST_NAMED:
        facts["camera_name"] = info.camera_name(entry.camera)
    return facts


def _shown(value: int | None) -> str:
    return "" if value is None else str(value)
