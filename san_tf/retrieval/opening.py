"""Opens galleries by path or address."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from san_tf.atomic import atomic_folder
from san_tf.errors import UserError
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.trusted import known_export, known_images, remember_images

if TYPE_CHECKING:
    from san_tf.retrieval.embedded import Checked, EmbeddedGallery

_SERVERS = ("http://", "https://", "tcp://")
_FILE = "milvus:"


def open_gallery(
    uri: str | os.PathLike[str], create: GalleryInfo | None = None, read_only: bool = False
) -> Gallery:
    """Open a gallery, or make one.

    Args:
        uri: a folder on this machine; `milvus:FILE.db` for Milvus in a file; `http://host:19530` or
            `http://host:19530/NAME` for a Milvus server.
        create: record of a new gallery; an existing one must have the same encoder. None opens only an
            existing gallery.
        read_only: refuse changes.

    Raises:
        UserError: the gallery does not exist, is of another encoder, or is not a gallery.

    Example:
        >>> gallery = open_gallery("people.gallery", create=GalleryInfo(512, "market/1"))
    """
    text = os.fspath(uri)
    if text.startswith((*_SERVERS, _FILE)):
        from san_tf.retrieval.milvus import open_milvus

        gallery: Gallery = open_milvus(text.removeprefix(_FILE), text, create, read_only)
    else:
        gallery = _open_embedded(Path(text), create, read_only)
    try:
        if create is not None:
            gallery.info.check_encoder(gallery.name, create)
    except UserError:
        gallery.close()
        raise
    return gallery


def open_embedded(uri: str | os.PathLike[str], read_only: bool = False) -> EmbeddedGallery:
    """Open an existing gallery on this machine.

    Raises:
        UserError: it does not exist, is not a gallery, or is in Milvus.
    """
    text = os.fspath(uri)
    if text.startswith((*_SERVERS, _FILE)):
        raise UserError(f"{text} is in Milvus, which this command does not know; use Milvus's own tools.")
    return _open_embedded(Path(text), None, read_only)


def backup_gallery(uri: str | os.PathLike[str], out: str | os.PathLike[str], overwrite: bool = False) -> int:
    """Copy a gallery on this machine while it may be read and written.

    The copy is a gallery itself. It holds nothing of what was deleted before. Its index is made when it is
    restored.

    Args:
        uri: path of the gallery.
        out: folder of the backup.
        overwrite: replace an older backup.

    Returns:
        The number of entries.

    Raises:
        UserError: the gallery cannot be read, or the backup cannot be written or exists.
    """
    place = Path(out)
    _check_place(place, uri, overwrite, "add --overwrite or name another folder")
    with open_embedded(uri, read_only=True) as gallery, atomic_folder(place) as temporary:
        gallery.copy_to(temporary)
    with open_embedded(place, read_only=True) as copy:
        return len(copy)


class Restored(NamedTuple):
    """Result of `restore_gallery`: entries now, and those that were deleted again."""

    entries: int
    deleted: int


def restore_gallery(
    backup: str | os.PathLike[str], uri: str | os.PathLike[str], overwrite: bool = False
) -> Restored:
    """Put a backup in the place of a gallery.

    If there is a gallery, what was deleted from it for good since the backup does not come back. Processes
    that search it go on with the restored entries.

    Args:
        backup: folder of the backup.
        uri: path of the gallery.
        overwrite: replace an existing gallery.

    Raises:
        UserError: the backup is damaged or is of another gallery, or the gallery exists.
    """
    place = Path(uri)
    _check_place(place, backup, overwrite, "add --overwrite to replace it")
    with open_embedded(backup, read_only=True) as copy:
        if damaged := copy.damaged():
            raise UserError(
                f"{len(damaged):,} entries of the backup {backup} are damaged, such as {damaged[0]}; take "
                "another backup, or run `san-tf gallery check --drop` on it."
            )
        if place.exists() and any(place.iterdir()):
            with open_embedded(uri) as present:
                present.upgrade()
                if copy.is_recorded and copy.deletion_record()[0] != present.deletion_record()[0]:
                    raise UserError(
                        f"{backup} is a backup of another gallery than {uri}; restore it to another folder."
                    )
                deleted = present.replace_all(copy) or 0
                return Restored(len(present), deleted)
        with atomic_folder(place) as temporary:
            copy.copy_to(temporary)
            with _open_embedded(temporary, None, read_only=False) as restored:
                restored.optimize()
                return Restored(len(restored), 0)


def _check_place(place: Path, source: str | os.PathLike[str], overwrite: bool, cure: str) -> None:
    from san_tf.retrieval.embedded import STORE

    if not place.exists():
        return
    if Path(source).exists() and os.path.samefile(place, source):
        raise UserError(f"{place} and {source} are the same folder; name another one.")
    if not (place / STORE).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place} is not a gallery or a backup, but something else; name another folder.")
    if not overwrite:
        raise UserError(f"{place} exists already; {cure}.")


def _open_embedded(
    path: Path, create: GalleryInfo | None, read_only: bool, mend: bool = False
) -> EmbeddedGallery:
    from san_tf.retrieval.embedded import STORE, EmbeddedGallery

    if not path.exists():
        if create is None or read_only:
            raise UserError(f"There is no gallery {path}; make one with `san-tf gallery add {path} ...`.")
        EmbeddedGallery.create(path, create)
    elif not (path / STORE).is_file():
        raise UserError(f"{path} is not a gallery, but something else; name another folder.")
    return EmbeddedGallery(path, read_only, mend)


def check_gallery(uri: str | os.PathLike[str], drop: bool = False) -> Checked:
    """Check a gallery on this machine against its digests, and repair it; see `EmbeddedGallery.check`.

    Args:
        uri: path of the gallery.
        drop: delete damaged entries.

    Raises:
        UserError: the gallery does not exist, is in Milvus, or cannot be repaired.
    """
    text = os.fspath(uri)
    if text.startswith((*_SERVERS, _FILE)):
        raise UserError(
            f"{text} is in Milvus, where entries have no digests to check; keep a copy with"
            " `san-tf gallery export`."
        )
    gallery = _open_embedded(Path(text), None, read_only=False, mend=True)
    with gallery:
        return gallery.check(drop)


class Searchable(NamedTuple):
    """A gallery to search, with its encoder.

    Attributes:
        gallery: read-only gallery; `info.images` is a folder that may be shown, or None.
        model: folder of the encoder's export.
        withheld: a sentence that says why its photographs are not shown; "" where they are shown.
    """

    gallery: Gallery
    model: str
    withheld: str


def open_to_search(
    uri: str | os.PathLike[str], model: str | None = None, images: str | None = None
) -> Searchable:
    """Open a gallery to search it, without trusting the paths in its record.

    A gallery may come from a stranger, and it names an export and a folder of photographs. An export is a
    program, and a folder may be the whole disk. So the export is used only if the caller names it, or if this
    user has named one of the same fingerprint before (`san_tf.trusted`) and it has not changed. The folder is
    used only if the caller names it, has named it for this gallery before, or if it is in the gallery or
    beside it.

    Args:
        uri: path or address of the gallery, see `open_gallery`.
        model: export named by the user; None for the known one.
        images: folder of the photographs named by the user; remembered for this gallery.

    Raises:
        UserError: gallery, export or folder do not exist, or the export was never named here.
    """
    name = os.fspath(uri)
    if images is not None and not os.path.isdir(images):
        raise UserError(f"--images {images} is not a folder; name the one that holds the photographs.")
    gallery = open_gallery(uri, read_only=True)
    try:
        info = gallery.info
        folder = encoder_of(name, info, model)
        shown, hidden = info.images, []
        if images is not None:
            shown = os.path.abspath(images)
            remember_images(name, info.images, shown)
        elif info.images is not None:
            shown = _known_folder(name, name, info.images)
            hidden += [info.images] if shown is None else []
        others = {}
        for alias, path in info.folders:
            known = _known_folder(name, folder_record(name, alias), path)
            if known is None:
                hidden.append(path)
            else:
                others[alias] = known
        withheld = ""
        if hidden:
            more = f" and {len(hidden) - 1:,} more folders" if len(hidden) > 1 else ""
            withheld = (
                f"The gallery {name} says that its photographs are in {hidden[0]}{more}, which does not lie "
                "beside it and was not named here before; name it with --images if that is right."
            )
        gallery.info = replace(info, images=shown, folders=tuple(others.items()))
    except BaseException:
        gallery.close()
        raise
    return Searchable(gallery, folder, withheld)


def folder_record(gallery: str, alias: str) -> str:
    """Return the name under which one more folder of a gallery is remembered as named by the user."""
    return f"{gallery}#{alias}"


def _known_folder(gallery: str, record: str, path: str) -> str | None:
    known = known_images(record, path)
    return path if known is None and _lies_beside(gallery, path) else known


def encoder_of(gallery: str, info: GalleryInfo, named: str | None) -> str:
    """Return the export that embeds for a gallery: the named one, or one that this user has named before.

    Args:
        gallery: path or address of the gallery.
        info: its record.
        named: export named by the user; None for the known one.

    Raises:
        UserError: the export does not exist, or was never named here.
    """
    known = None if named else known_export(info.fingerprint, info.model)
    if known is not None:
        return str(known)
    place = named or info.model
    if not place or not Path(place).is_dir():
        told = f" ({place})" if place else ""
        raise UserError(f"The encoder of the gallery {gallery}{told} is not there; name it with --model.")
    if named:
        return named
    raise UserError(
        f"The gallery {gallery} names the encoder {info.model}, which was not named here before, or has "
        "changed since; an encoder is a program, so name it with --model if you trust it."
    )


def _lies_beside(gallery: str, images: str) -> bool:
    """Return whether a folder is in a gallery's folder or beside it, with links followed."""
    if "://" in gallery or not os.path.isabs(images):
        return False
    place, folder = Path(gallery.removeprefix(_FILE)).resolve(), Path(images).resolve()
    if folder.is_relative_to(place):
        return True
    # Everything is beside a gallery in the home folder or in /tmp, so these do not count.
    wide = {Path("/"), Path(tempfile.gettempdir()).resolve(), Path(os.path.expanduser("~")).resolve()}
    return place.parent not in wide and place.parent in folder.parents
