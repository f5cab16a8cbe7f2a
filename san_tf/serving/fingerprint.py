"""Digests of an export's files: compare the embeddings of two exports, and detect damage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from san_tf.errors import UserError

# Key of the digests, by file, in an export's notes.
DIGESTS = "sha256"
_NOTES_FILE = Path("assets.extra") / "san_tf.json"
# Not the calibration and other notes, which may be added later.
_FILES = ("saved_model.pb", "fingerprint.pb", "variables/*", "assets.extra/tf_serving_warmup_requests")
_NOTES = "notes"
_PREPROCESSING = ("image_size", "embedding_size", "l2_normalized", "flip_averaged", "mean", "std", "weights")


def fingerprint(folder: str | os.PathLike[str], metadata: Mapping[str, Any]) -> str:
    """Return a fingerprint of an export's weights and preprocessing.

    Args:
        folder: `<path>/<version>` of the export.
        metadata: metadata of the export, see `serving.read_metadata`.

    Returns:
        16 hexadecimal digits.

    Raises:
        UserError: its weights cannot be read.

    Example:
        >>> fingerprint("saved_models/market/1", read_metadata("saved_models/market/1"))
        '3f5a0c9be1d2478a'
    """
    known = {name: metadata.get(name) for name in _PREPROCESSING}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    try:
        for path in sorted((Path(folder) / "variables").glob("variables.data-*")):
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from error
    return digest.hexdigest()[:16]


def digests_of(folder: str | os.PathLike[str], notes: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests for an export's notes: graph, weights, warm-up requests, preprocessing.

    Args:
        folder: `<path>/<version>`, complete except for the notes.
        notes: the notes to be written.

    Returns:
        SHA-256 in hexadecimal digits by file, relative to `folder`.
    """
    folder = Path(folder)
    files = sorted(path for pattern in _FILES for path in folder.glob(pattern))
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    return digests | {_NOTES: _notes_digest(notes)}


def verify_export(folder: str | os.PathLike[str]) -> None:
    """Check the files of an export against the digests in its notes, if it has any.

    Exports of earlier versions have none. It reads all weights once: about 0.1 s for a ResNet-50.

    Args:
        folder: `<path>/<version>`.

    Raises:
        UserError: a file is missing, added, or not as it was written.
    """
    folder = Path(folder)
    try:
        notes = json.loads((folder / _NOTES_FILE).read_text())
        stated = notes.get(DIGESTS) if isinstance(notes, dict) else None
        if not isinstance(stated, dict):
            return
        found = digests_of(folder, notes)
    except FileNotFoundError:
        return  # an export of another program; code that needs its notes reports that
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder} cannot be read ({error}); copy or export it again.") from error
    for name in sorted({*stated, *found}):
        if stated.get(name) != found.get(name):
            what = f"{_NOTES_FILE}'s description of the preprocessing" if name == _NOTES else name
            state = "missing" if name not in found else "not as it was written"
            raise UserError(f"{folder} is damaged: {what} is {state}; copy or export it again.")


def runtime_digests(folder: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of the files for other runtimes in a folder, by name; see `verify_runtime_file`."""
    return {path.name: _digest(path) for path in sorted(Path(folder).iterdir()) if path.suffix != ".json"}


def verify_runtime_file(path: str | os.PathLike[str]) -> None:
    """Check a file for another runtime, and its weights file, against the notes in its folder, if any.

    Raises:
        UserError: a file is not as it was written.
    """
    path = Path(path)
    try:
        notes = json.loads((path.parent / "san_tf.json").read_text())
        stated = notes.get(DIGESTS) if isinstance(notes, dict) else None
        if not isinstance(stated, dict):
            return
        for file in (path, path.with_suffix(".bin")):
            if file.name in stated and _digest(file) != stated[file.name]:
                raise UserError(f"{file} is damaged: it is not as it was written; export it again.")
    except FileNotFoundError as error:
        if Path(str(error.filename)).suffix != ".json":
            raise UserError(f"{path} lacks {error.filename}; copy it along.") from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({error}); export it again.") from error


def _notes_digest(notes: Mapping[str, Any]) -> str:
    known = {name: notes.get(name) for name in _PREPROCESSING}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
