"""Atomic files and folders: written under a temporary name, synced, then renamed."""

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
    """Whether `error` concerns `path`, a folder above or a file beside it, not a file that is read."""
    if error.filename is None:
        return True
    failed = Path(os.path.abspath(os.fsdecode(error.filename)))
    absolute = Path(os.path.abspath(path))
    return failed in absolute.parents or failed.is_relative_to(absolute.parent)


@contextlib.contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    """Turn errors of a full or read-only disk into a sentence that names the path."""
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
            raise UserError(f"{path} cannot be written: there is a file where a folder is needed.") from error
        if error.errno == errno.EISDIR:
            raise UserError(f"{path} cannot be written: there is a folder where a file is needed.") from error
        if error.errno == errno.ENOENT and not path.parent.is_dir():
            # Some file systems (/proc) refuse new folders with this error.
            raise UserError(f"{path.parent} cannot be made; choose another folder.") from error
        raise


def _temporary_beside(path: Path, suffix: str) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}{suffix}"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], keep_mode: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    If the block raises, or the process dies, `path` keeps its old content. A killed process leaves the
    temporary file behind; its name starts with a dot and the name of `path`, and contains `.tmp`.

    Args:
        path: the file to write; parent folders are created.
        keep_mode: give the new file the permissions of the one it replaces.

    Raises:
        UserError: the disk is full or the file cannot be written.

    Example:
        >>> with atomic_file("results.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    with _disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(path, ".tmp" + "".join(path.suffixes))
        # Not mkstemp: its files are private, and reading the umask to fix that changes it for all threads.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = (path if keep_mode and path.exists() else temporary).stat().st_mode
        try:
            yield temporary
            # A library may have replaced the file by a private one.
            temporary.chmod(mode)
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, replacing an old folder.

    A reader never sees a half-written folder. Replacing a folder takes two renames; for an instant between
    them there is none.

    Args:
        path: the folder to write; parent folders are created.

    Raises:
        UserError: the disk is full, the folder cannot be written, or `path` is a file.

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
    """Replace the folder `path` by the folder `temporary`; on failure restore the old one."""
    former = _temporary_beside(path, ".old")
    os.replace(path, former)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(former, path)
        raise
    shutil.rmtree(former, ignore_errors=True)
