"""What every command shares: errors in one sentence, TensorFlow without its notes, what the screen shows."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import simple_parsing
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from san_tf.errors import UserError

# Control characters, which terminals obey, and those that turn the direction of writing; tab and newline are
# what text is made of. A lone surrogate stands for a byte of a path that is not UTF-8, and cannot be encoded.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape what a terminal would obey in place of showing it.

    Names of files, keys of a checkpoint and answers of a server are somebody else's: they must not move the
    cursor, set a title or hide what was printed before.

    Example:
        >>> printable("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """A console on which `printable` holds for all text, in tables and bars too; colours are its own.

    Names stay as they are: `:dog:` in one is no picture of a dog, and its numbers are not coloured.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False, **settings})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Escape the text of every segment; what moves the cursor on purpose are control segments."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


class _Printable(logging.Formatter):
    """What is logged is held to `printable` too: it names files."""

    def format(self, record: logging.LogRecord) -> str:
        """Escape the text."""
        return printable(super().format(record))


class Parser(simple_parsing.ArgumentParser):
    """An argument parser whose errors are one sentence with the next step, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` in place of printing the usage."""
        if message.startswith("unrecognized arguments: "):
            flag = message.removeprefix("unrecognized arguments: ").split()[0]
            near = difflib.get_close_matches(flag.split("=")[0], self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else "see --help for all of them."
            message = f"There is no flag {flag}; {hint}"
        else:
            message = re.sub(r"'([^']{50})[^']{10,}'", r"'\1...'", message)
            message = f"{message[0].upper()}{message[1:]}; see --help."
        raise UserError(message)


def run_as_command(action: Callable[[], None]) -> NoReturn:
    """Run `action` and leave with 0; a user's mistake is printed as one sentence and leaves with 2.

    Where the reader of the command's output ends first, as `head` does, it leaves with 141 without a word, as
    other programs do.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files may be of any bytes, and terminals of any encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())
    try:
        try:
            action()
        except OSError as error:
            _tell_output(error)
            raise
        except SystemExit as left:
            if isinstance(left.__context__, BrokenPipeError):  # rich leaves with 1
                sys.exit(141)
            raise
        finally:
            _flush_output()
    except UserError as error:
        # One line, whatever a file's name holds.
        told = str(error).replace("\n", "\\n")
        print(printable(f"Error: {told}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        told = str(interrupt) or "Stopped; the same command goes on from here."
        print(printable(f"\n{told}"), file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _flush_output() -> None:
    """Write what is still in memory, and say so if it cannot be written."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        _tell_output(error)
        raise


def _tell_output(error: OSError) -> None:
    """Leave, or raise a sentence, if `error` is of the standard output; its reader may have ended."""
    if isinstance(error, BrokenPipeError) and _has_no_reader():
        _forget_output()
        sys.exit(141)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
        _forget_output()
        raise UserError(f"The output cannot be written ({error.strerror}); free some space.") from error


def _has_no_reader() -> bool:
    """Whether the standard output is a pipe whose other end is closed; a connection may break as well."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    try:
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except OSError:
        return False


def _forget_output() -> None:
    """Drop what was not written: Python would try it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
