"""Files and folders that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from san_tf.errors import UserError


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into a sentence that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"The disk is full while writing {path}; free some space and start again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder.") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{path} cannot be written: a file stands where a folder is needed.") from error
        raise


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    If the block raises, or the process dies, `path` keeps its former content.

    Args:
        path: where the file shall stand; parent folders are made.

    Raises:
        UserError: the disk is full or the place cannot be written.

    Example:
        >>> with atomic_file("results.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    with _disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes files private; give the result the permissions an ordinary `open` would have.
            temporary.chmod(0o666 & ~_umask())
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, replacing what stood there.

    Args:
        path: where the folder shall stand; parent folders are made.

    Raises:
        UserError: the disk is full or the place cannot be written.

    Example:
        >>> with atomic_folder("saved_models/market/1") as temporary:
        ...     (temporary / "model.txt").write_text("...")
    """
    path = Path(path)
    with _disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                former = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
                os.replace(path, former / path.name)
                os.replace(temporary, path)
                shutil.rmtree(former)
            else:
                os.replace(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
