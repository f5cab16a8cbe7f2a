"""A lock between processes that work in one folder; it goes with its process, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from san_tf.errors import UserError

_logger = logging.getLogger(__name__)
# Descriptors of the locks that this process holds. A forked child inherits them, and a lock is held until the
# last copy is closed: the child of a killed process would hold it for good.
_held: set[int] = set()
# What systems answer whose files know no locks, such as some network mounts.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def _let_go_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def file_lock(path: str | os.PathLike[str], wait: bool = False, remove: bool = False) -> Iterator[bool]:
    """Hold the lock that a file stands for.

    The operating system releases it when the process ends, even if it is killed; its children do not keep it.
    The file says who holds it, see `holder_of`.

    Args:
        path: of a file, made where there is none; its folder too.
        wait: until whoever holds it lets go; else do not wait.
        remove: the file when the block ends; a process that is killed leaves it.

    Yields:
        Whether this process holds the lock; always True with `wait`.

    Raises:
        UserError: the file cannot be made.

    Example:
        >>> with file_lock("runs/ablation/san/seed_0/.lock") as mine:
        ...     if mine:
        ...         train()
    """
    path = Path(path)
    descriptor = _locked(path, wait)
    if descriptor is None:
        yield False
        return
    _held.add(descriptor)
    _sign(descriptor)
    try:
        yield True
    finally:
        if descriptor in _held:  # else this is a forked child, whose parent still holds it
            if remove:
                path.unlink(missing_ok=True)  # while it is held: who waits for it will look for another
            _held.discard(descriptor)
            os.close(descriptor)


def holder_of(path: str | os.PathLike[str]) -> str:
    """Who holds the lock of a file, as a text for people.

    Example:
        >>> holder_of("runs/synthetic/.lock")
        'process 4711 on lab2 since 2026-11-29 12:01:05 (python -m san_tf.experiments.synthetic --seed 1)'
    """
    try:
        signed = json.loads(Path(path).read_bytes())
        return "process {pid} on {host} since {since} ({command})".format(**signed)
    except (OSError, ValueError, KeyError, TypeError):
        # It has just been taken and is not signed yet, or an older version took it, which does not sign.
        return "another process"


def _sign(descriptor: int) -> None:
    signed = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.orig_argv)[:300],
    }
    # A full disk must not keep anybody from working: the lock holds without a name.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(signed).encode(), 0)


def _locked(path: Path, wait: bool) -> int | None:
    """Descriptor of the locked file; None where somebody else holds it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            continue  # its folder was empty, and somebody has just removed it
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            _logger.warning(
                "%s lies where files cannot be locked; see to it that one process works there.", path
            )
            return descriptor
        # Its former holder removed it: a lock on a file without a name keeps nobody out.
        os.close(descriptor)
