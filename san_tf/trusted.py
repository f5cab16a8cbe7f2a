"""Remembers the exports and photograph folders that the user has named, and therefore trusts.

A gallery, or a table of features, names the export that made its embeddings and the folder of its
photographs. It may come from a stranger. But TensorFlow runs any program that an export contains, and a
folder may be the whole disk. So both are used only after the user has named them. They are then stored in
`$XDG_STATE_HOME/san_tf/trusted.json` (default `~/.local/state`). If that file cannot be read or written, or
if others may write it, nothing is trusted, and the user must name the export again.
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

_PACKAGE = Path(__file__).resolve().parent
_PACKAGED = _PACKAGE / "saved_models"
# Folder of the exports that come along: inside the package in a wheel, beside it in a checkout.
SHIPPED_MODELS = _PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parent / "saved_models"
# In an export that can be trained further, the encoder as a preset.
PRESET_FOLDER = Path("assets.extra") / "preset"
# The encoders that come along: fingerprint (`serving.fingerprint`), then folder and digest.
SHIPPED_EXPORTS = {
    "d76c1f6e3bba7972": (
        SHIPPED_MODELS / "synthetic" / "1",
        "e44c8d86f12d0093b9a6ca7ca2ff576169acf174a84ba029cb786862d157c34c",
    ),
    "b837bae2b06cb82e": (
        SHIPPED_MODELS / "people" / "1",
        "da02b13805163b894005980d362c3070526a580ae2a03748e701ac7e8480a0b2",
    ),
    "f1d94dc06cb035e0": (
        SHIPPED_MODELS / "people_scratch" / "1",
        "80d73760c8d288aa3bee953cc379643f0176f7a98e1f387ae3361373b58fca75",
    ),
}


def model_path(model: str | os.PathLike[str]) -> Path:
    """Return where a model is: a path as it is, or the folder of one that comes along, by its name.

    A path that exists comes first.

    Example:
        >>> model_path("people_scratch")  # unless there is such a file here
        PosixPath('/.../saved_models/people_scratch')
    """
    path = Path(model)
    shipped = SHIPPED_MODELS / path.name
    return shipped if path.name == os.fspath(model) and not path.exists() and shipped.is_dir() else path


def shipped_preset(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of a trainable encoder that comes along, by its name; None if there is none.

    Example:
        >>> shipped_preset("people_scratch")
        PosixPath('/.../saved_models/people_scratch/1/assets.extra/preset')
    """
    text = os.fspath(name)
    if not text or Path(text).name != text:
        return None
    return next(
        iter(sorted((SHIPPED_MODELS / text).glob(f"*/{PRESET_FOLDER.as_posix()}"), reverse=True)), None
    )


def shipped_presets() -> list[str]:
    """Return the names of the trainable encoders that come along."""
    folders = SHIPPED_MODELS.iterdir() if SHIPPED_MODELS.is_dir() else ()
    return sorted(folder.name for folder in folders if shipped_preset(folder.name))


# Files of an export that TensorFlow and `ExportedEncoder` read.
_READ = ("saved_model.pb", "saved_model.pbtxt", "variables/*", "assets/*", "assets.extra/san_tf.json")


def export_digest(folder: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of an export's graph, weights, assets and metadata, with their names.

    Unlike `serving.fingerprint`, it includes the graph: it identifies the program, not just its embeddings.

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
    """Remember an export that the user has named.

    Args:
        folder: `<path>/<version>` of the export.
        fingerprint: fingerprint of its weights and preprocessing, see `serving.fingerprint`.
    """
    path = os.path.realpath(folder)
    with contextlib.suppress(OSError):
        _remember("exports", path, {"fingerprint": fingerprint, "digest": export_digest(path)})


def known_export(fingerprint: str, named: str = "") -> Path | None:
    """Return an unchanged export with a fingerprint that the user has named before; else None.

    The exports in the repository are known too.

    Args:
        fingerprint: fingerprint from a gallery.
        named: folder that the gallery names; preferred if several exports match.
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
    if fingerprint in SHIPPED_EXPORTS:
        shipped, own = SHIPPED_EXPORTS[fingerprint]
        known.append((str(shipped), own))
    for path, digest in known:
        with contextlib.suppress(OSError):
            if os.path.isdir(path) and export_digest(path) == digest:
                return Path(path)
    return None


def remember_images(gallery: str, noted: str | None, folder: str | os.PathLike[str]) -> None:
    """Remember the folder that the user has named for the photographs of a gallery.

    Args:
        gallery: path or address of the gallery.
        noted: the folder that the gallery names.
        folder: the folder that the user named.
    """
    _remember("images", _place(gallery), {"noted": noted, "folder": os.path.abspath(folder)})


def known_images(gallery: str, noted: str) -> str | None:
    """Return the folder that the user has named before for a gallery's photographs; else None.

    Args:
        gallery: path or address of the gallery.
        noted: the folder that the gallery names; if it changed, the user must name the folder again.
    """
    known = _remembered("images").get(_place(gallery))
    if not isinstance(known, dict) or known.get("noted") != noted or not isinstance(known.get("folder"), str):
        return None
    return str(known["folder"])


def _place(gallery: str) -> str:
    return gallery if "://" in gallery else os.path.realpath(gallery.removeprefix("milvus:"))


def _record() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG standard says to ignore relative paths.
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
        # RuntimeError: there is no home folder. If the file is missing or damaged, nothing is trusted.
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
            known[kind].pop(name, None)  # the latest entry comes last
            known[kind][name] = value
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(known, indent=2), encoding="utf-8")
            path.chmod(0o600)
