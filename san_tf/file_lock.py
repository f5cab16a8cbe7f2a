"""A lock between processes, released when its process ends in any way.

It is our own because it says who holds it, and because a forked child must not keep it: the package filelock
does neither.
"""

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
# Descriptors of the locks that this process holds. A forked child inherits them, and a lock lasts until the
# last copy is closed. So the child of a killed process would keep the lock.
_held: set[int] = set()
# Error codes of file systems without locks, such as some network mounts.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def _let_go_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def file_lock(path: str | os.PathLike[str], wait: bool = False, remove: bool = False) -> Iterator[bool]:
    """Hold the lock of a file while the block runs.

    The operating system releases it when the process ends, even if it is killed. Child processes do not keep
    it. The file says who holds it, see `holder_of`.

    Args:
        path: the lock file; it and its folder are created if missing.
        wait: wait until the lock is free; else return immediately.
        remove: remove the file when the block ends; a killed process leaves it.

    Yields:
        Whether this process holds the lock; always True with `wait`.

    Raises:
        UserError: the file cannot be created.

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
        if descriptor in _held:  # otherwise this is a forked child, and its parent still holds the lock
            if remove:
                path.unlink(missing_ok=True)  # while it is locked: waiting processes will open a new file
            _held.discard(descriptor)
            os.close(descriptor)


def holder_of(path: str | os.PathLike[str]) -> str:
    """Return a description of the process that holds a lock.

    Example:
        >>> holder_of("runs/synthetic/.lock")
        'process 4711 on lab2 since 2026-11-29 12:01:05 (python -m san_tf.experiments.synthetic --seed 1)'
    """
    try:
        signed = json.loads(Path(path).read_bytes())
        return "process {pid} on {host} since {since} ({command})".format(**signed)
    except (OSError, ValueError, KeyError, TypeError):
        # Just locked and not yet signed, or locked by an earlier version, which does not sign.
        return "another process"


def _sign(descriptor: int) -> None:
    signed = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.orig_argv)[:300],
    }
    # The lock also works unsigned, for example on a full disk.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(signed).encode(), 0)


def _locked(path: Path, wait: bool) -> int | None:
    """Return the descriptor of the locked file; None if another process holds the lock."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            continue  # another process has just removed the empty folder
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
                "The file system of %s has no locks; make sure that only one process works there.", path
            )
            return descriptor
        # Its last holder removed the file; a lock on a removed file has no effect.
        os.close(descriptor)
