"""Opens galleries by path or address."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
        folder = _encoder_of(name, info, model)
        shown, withheld = info.images, ""
        if images is not None:
            shown = os.path.abspath(images)
            remember_images(name, info.images, shown)
        elif info.images is not None:
            shown = known_images(name, info.images)
            if shown is None and _lies_beside(name, info.images):
                shown = info.images
            if shown is None:
                withheld = (
                    f"The gallery {name} says that its photographs are in {info.images}, which does not lie "
                    "beside it and was not named here before; name it with --images if that is right."
                )
        gallery.info = replace(info, images=shown)
    except BaseException:
        gallery.close()
        raise
    return Searchable(gallery, folder, withheld)


def _encoder_of(gallery: str, info: GalleryInfo, named: str | None) -> str:
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
