"""What this user has named: exports, which are programs, and the folders of a gallery's photographs.

A gallery, or a table of features, says which export made its embeddings and where its photographs lie, and
may come from a stranger. TensorFlow runs whatever an export holds, and a folder may be the whole disk. So
neither is used because a gallery names it: it is used when the user names it, and remembered from then on in
`$XDG_STATE_HOME/san_tf/trusted.json` (`~/.local/state` where that is not set). A record that cannot be
written or read, or that others may write, trusts nothing; the user then names the export again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.file_lock import file_lock

# The export that comes with the repository: its fingerprint (`serving.fingerprint`) and its digest.
_SHIPPED = Path(__file__).resolve().parents[1] / "saved_models" / "synthetic" / "1"
SHIPPED_FINGERPRINT = "d76c1f6e3bba7972"
SHIPPED_DIGEST = "e44c8d86f12d0093b9a6ca7ca2ff576169acf174a84ba029cb786862d157c34c"
# What TensorFlow and `ExportedEncoder` read of an export.
_READ = ("saved_model.pb", "saved_model.pbtxt", "variables/*", "assets/*", "assets.extra/san_tf.json")


def export_digest(folder: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of an export's graph, weights, assets and metadata, by their names.

    `serving.fingerprint` leaves the graph out: it tells whether embeddings agree, not whether programs do.

    Raises:
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _READ for path in folder.glob(pattern) if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def remember_export(folder: str | os.PathLike[str], fingerprint: str) -> None:
    """Remember an export that the user named himself.

    Args:
        folder: `<path>/<version>` of the export.
        fingerprint: of its weights and preprocessing, see `serving.fingerprint`.
    """
    path = os.path.realpath(folder)
    with contextlib.suppress(OSError):
        _remember("exports", path, {"fingerprint": fingerprint, "digest": export_digest(path)})


def known_export(fingerprint: str, named: str = "") -> Path | None:
    """Return an export of a fingerprint that the user has named before, unchanged; None if there is none.

    The export that comes with the repository is known, too.

    Args:
        fingerprint: that a gallery notes.
        named: the folder that it names: preferred where it is one of several.
    """
    if not fingerprint:
        return None
    exports = _remembered("exports")
    known = [
        (path, facts.get("digest"))
        for path, facts in reversed(exports.items())
        if isinstance(facts, dict) and facts.get("fingerprint") == fingerprint
    ]
    known.sort(key=lambda pair: pair[0] != os.path.realpath(named) if named else False)
    if fingerprint == SHIPPED_FINGERPRINT:
        known.append((str(_SHIPPED), SHIPPED_DIGEST))
    for path, digest in known:
        with contextlib.suppress(OSError):
            if os.path.isdir(path) and export_digest(path) == digest:
                return Path(path)
    return None


def remember_images(gallery: str, noted: str | None, folder: str | os.PathLike[str]) -> None:
    """Remember the folder that the user named himself for the photographs of a gallery.

    Args:
        gallery: its path or address.
        noted: the folder that the gallery names.
        folder: that the user named.
    """
    _remember("images", _place(gallery), {"noted": noted, "folder": os.path.abspath(folder)})


def known_images(gallery: str, noted: str) -> str | None:
    """Return the folder that the user has named before for the photographs of this gallery; None if none.

    Args:
        gallery: its path or address.
        noted: the folder that the gallery names: another one makes it another gallery.
    """
    known = _remembered("images").get(_place(gallery))
    if not isinstance(known, dict) or known.get("noted") != noted or not isinstance(known.get("folder"), str):
        return None
    return str(known["folder"])


def _place(gallery: str) -> str:
    return gallery if "://" in gallery else os.path.realpath(gallery.removeprefix("milvus:"))


def _record() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    # The standard wants relative ones ignored.
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return folder / "san_tf" / "trusted.json"


def _remembered(kind: str) -> dict[str, Any]:
    try:
        descriptor = os.open(_record(), os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
                return {}
            known = json.loads(file.read())[kind]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, RecursionError):
        # RuntimeError: there is no home. A record that is missing or damaged trusts nothing.
        return {}
    return known if isinstance(known, dict) else {}


def _remember(kind: str, name: str, value: Any) -> None:
    with contextlib.suppress(OSError, RuntimeError, UserError):
        path = _record()
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with file_lock(path.with_suffix(".lock"), wait=True):
            known = {each: _remembered(each) for each in ("exports", "images")}
            if known[kind].get(name) == value and list(known[kind])[-1] == name:
                return
            known[kind].pop(name, None)  # the latest stands last
            known[kind][name] = value
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(known, indent=2), encoding="utf-8")
            path.chmod(0o600)
