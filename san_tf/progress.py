"""The progress bar of long evaluations, on standard error, so that what a command prints can be piped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import track

from san_tf.command_line import Terminal

Item = TypeVar("Item")


def with_bar(items: Iterable[Item], description: str | None, total: int | None) -> Iterator[Item]:
    """Pass items on and show how many have been; the bar vanishes at the end.

    Args:
        items: to pass on.
        description: beside the bar; None for no bar. There is none either if nobody is watching: standard
            error is not a terminal.
        total: how many items there are; None if that is not known.
    """
    console = Terminal(stderr=True)
    if description is None or not console.is_terminal:
        yield from items
    else:
        yield from track(items, description, total, console=console, transient=True)
