"""Files and folders that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from san_tf.errors import UserError


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _concerns(error: OSError, path: Path) -> bool:
    """Whether `error` is about `path`, a folder above or a file beside it, not a file the block reads."""
    if error.filename is None:
        return True
    failed = Path(os.path.abspath(os.fsdecode(error.filename)))
    absolute = Path(os.path.abspath(path))
    return failed in absolute.parents or failed.is_relative_to(absolute.parent)


@contextlib.contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into a sentence that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full while writing {path}; free some space and start again."
            ) from error
        if not _concerns(error, path):
            raise
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder.") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{path} cannot be written: a file stands where a folder is needed.") from error
        if error.errno == errno.EISDIR:
            raise UserError(f"{path} cannot be written: a folder stands where a file is needed.") from error
        if error.errno == errno.ENOENT and not path.parent.is_dir():
            # Some places (/proc) refuse new folders in this odd way.
            raise UserError(f"{path.parent} cannot be made; choose another folder.") from error
        raise


def _temporary_beside(path: Path, suffix: str) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}{suffix}"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    If the block raises, or the process dies, `path` keeps its former content. A process that was killed
    leaves the temporary file behind; its name starts with a dot and `path`'s name and holds `.tmp`.

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
        temporary = _temporary_beside(path, ".tmp" + "".join(path.suffixes))
        # Not mkstemp: that makes files private, and reading the umask to mend it changes it for all threads.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        try:
            yield temporary
            # A library may have put a private file of its own in the place of ours.
            temporary.chmod(mode)
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, replacing what stood there.

    A reader never sees a half-written folder. Where a folder is replaced there is an instant, between two
    renames, without one.

    Args:
        path: where the folder shall stand; parent folders are made.

    Raises:
        UserError: the disk is full, the place cannot be written, or a file stands at `path`.

    Example:
        >>> with atomic_folder("saved_models/market/1") as temporary:
        ...     (temporary / "model.txt").write_text("...")
    """
    path = Path(path)
    with _disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary = _temporary_beside(path, ".tmp")
        temporary.mkdir()
        try:
            yield temporary
            for entry in [temporary, *temporary.rglob("*")]:
                if not entry.is_symlink():
                    _sync(entry)
            if path.exists():
                _swap(temporary, path)
            else:
                os.replace(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    """Put the folder `temporary` in the place of the folder `path`; on failure put the former back."""
    former = _temporary_beside(path, ".old")
    os.replace(path, former)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(former, path)
        raise
    shutil.rmtree(former, ignore_errors=True)
