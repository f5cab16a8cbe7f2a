"""A lock between processes that work in one folder; it goes with its process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from san_tf.errors import UserError


@contextlib.contextmanager
def file_lock(path: str | os.PathLike[str], wait: bool = False) -> Iterator[bool]:
    """Hold the lock that a file stands for.

    The operating system releases it when the process ends, even if it is killed. The file stays: removing it
    would let two processes hold locks on two files of one name.

    Args:
        path: of an empty file, made where there is none; its folder too.
        wait: until whoever holds it lets go; else do not wait.

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
