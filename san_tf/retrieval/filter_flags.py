"""Filter flags and entry tables of the gallery commands."""

from __future__ import annotations

import argparse
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
from san_tf.retrieval.name_reader import parse_time


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a filter to a command."""
    group = parser.add_argument_group("filter: entries must meet all of these conditions")
    camera = whole_number(-1, 2**62)
    group.add_argument(
        "--cameras", nargs="+", type=camera, metavar="N", default=[], help="one of these cameras"
    )
    group.add_argument(
        "--excluded_cameras", nargs="+", type=camera, metavar="N", default=[], help="none of these cameras"
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


def filter_of(options: argparse.Namespace) -> Filter:
    """Return the filter that the flags describe.

    Raises:
        UserError: a time cannot be read, or `--since` is not before `--until`.
    """
    since, until = (None if text is None else parse_time(text) for text in (options.since, options.until))
    if since is not None and until is not None and since >= until:
        raise UserError(f"--since {options.since} is not before --until {options.until}; exchange them.")
    cameras, excluded = tuple(options.cameras), tuple(options.excluded_cameras)
    return Filter(cameras, excluded, since, until, tuple(options.tags))


def entry_table(entries: Sequence[Entry], scores: Sequence[float] | None = None) -> Table:
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
        camera, pid = _shown(entry.camera if entry.camera >= 0 else None), _shown(entry.pid)
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


def as_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON values."""
    return {**asdict(entry), "tags": list(entry.tags)}


def _shown(value: int | None) -> str:
    return "" if value is None else str(value)
