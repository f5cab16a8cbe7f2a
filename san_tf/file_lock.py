"""A lock between processes that work in one folder; it goes with its process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from san_tf.errors import UserError


@contextlib.contextmanager
def file_lock(path: str | os.PathLike[str], wait: bool = False, remove: bool = False) -> Iterator[bool]:
    """Hold the lock that a file stands for.

    The operating system releases it when the process ends, even if it is killed.

    Args:
        path: of an empty file, made where there is none; its folder too.
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
    try:
        yield True
    finally:
        if remove:
            path.unlink(missing_ok=True)  # while it is held: who waits for it will look for another
        os.close(descriptor)


def _locked(path: Path, wait: bool) -> int | None:
    """Descriptor of the locked file; None where somebody else holds it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
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
        # Its former holder removed it: a lock on a file without a name keeps nobody out.
        os.close(descriptor)
