"""Galleries by name: a path for one on this machine, an address for one on a server."""

from __future__ import annotations

import os
from pathlib import Path

from san_tf.errors import UserError
from san_tf.retrieval.gallery import Gallery, GalleryInfo

_SERVERS = ("http://", "https://", "tcp://")
_FILE = "milvus:"


def open_gallery(
    uri: str | os.PathLike[str], create: GalleryInfo | None = None, read_only: bool = False
) -> Gallery:
    """Open a gallery, or make one.

    Args:
        uri: a path, for the embedded engine; `milvus:FILE.db`, for Milvus in a file; `http://host:19530` or
            `http://host:19530/NAME`, for a Milvus server.
        create: what a new gallery is to know of its encoder; one that is there must have the same. None
            opens only what is there.
        read_only: refuse changes.

    Raises:
        UserError: there is no such gallery, it is of another encoder, or something else.

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


def _open_embedded(path: Path, create: GalleryInfo | None, read_only: bool) -> Gallery:
    from san_tf.retrieval.embedded import STORE, EmbeddedGallery

    if not path.exists():
        if create is None or read_only:
            raise UserError(f"There is no gallery {path}; make one with `san-tf gallery add {path} ...`.")
        EmbeddedGallery.create(path, create)
    elif not (path / STORE).is_file():
        raise UserError(f"{path} is no gallery, but something else; name another folder.")
    return EmbeddedGallery(path, read_only)
