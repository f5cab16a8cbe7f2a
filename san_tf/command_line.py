"""What every command of the package shares: errors in one sentence, and TensorFlow without its notes."""

from __future__ import annotations

import difflib
import errno
import os
import select
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NoReturn

import simple_parsing

from san_tf.errors import UserError

if TYPE_CHECKING:
    from san_tf.training.distribution import Distribution


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
            message = f"{message[0].upper()}{message[1:]}; see --help."
        raise UserError(message)


def import_tensorflow(
    threads: int = 0, strategy: Literal["mirrored", "multiworker"] | None = None
) -> Distribution | None:
    """Import TensorFlow and start its devices without its notes on oneDNN and missing GPUs.

    It writes them before any of its settings can silence it, and nobody can act on them; what it writes is
    shown if the import fails.

    Args:
        threads: cores that each of TensorFlow's operations may use; 0 for all.
        strategy: of the options.

    Returns:
        Who trains together; None for one device.

    Raises:
        UserError: the strategy cannot be started.
    """
    distribution = None
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    screen = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf

            if threads:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
            if strategy is None:
                from san_tf.training.devices import grow_memory

                grow_memory()
            else:
                from san_tf.training.distribution import start

                distribution = start(strategy, lambda text: print(text, flush=True))
            tf.config.list_logical_devices()
        except UserError:
            raise
        except BaseException:
            notes.seek(0)
            os.write(screen, notes.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
    return distribution


def run_as_command(action: Callable[[], None]) -> NoReturn:
    """Run `action` and leave with 0; a user's mistake is printed as one sentence and leaves with 2.

    Where the reader of the command's output ends first, as `head` does, it leaves with 141 without a word, as
    other programs do.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files may be of any bytes, and terminals of any encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
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
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'Stopped; the same command goes on from here.'}", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def printable(text: str) -> str:
    """Return a text without characters that could command a terminal; they are written as Python does."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


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
