"""Progress bar on standard error, so that a command's output can be piped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import track

from san_tf.command_line import Terminal

Item = TypeVar("Item")


def with_bar(items: Iterable[Item], description: str | None, total: int | None) -> Iterator[Item]:
    """Yield items, and show a progress bar until the end.

    Args:
        items: items to yield.
        description: text beside the bar; None for no bar. There is also no bar if standard error is not a
            terminal.
        total: number of items; None if unknown.
    """
    console = Terminal(stderr=True)
    if description is None or not console.is_terminal:
        yield from items
    else:
        yield from track(items, description, total, console=console, transient=True)
