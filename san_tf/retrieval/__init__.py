"""Galleries: stored embeddings with identity, camera and time, to search and filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.retrieval.cross_camera import CrossCamera, similarity_threshold
    from san_tf.retrieval.entries import Entry, Filter, Hit
    from san_tf.retrieval.gallery import Gallery, GalleryInfo
    from san_tf.retrieval.opening import open_gallery

__all__ = [
    "CrossCamera",
    "Entry",
    "Filter",
    "Gallery",
    "GalleryInfo",
    "Hit",
    "open_gallery",
    "similarity_threshold",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "similarity_threshold": "cross_camera",
        "CrossCamera": "cross_camera",
        "Entry": "entries",
        "Filter": "entries",
        "Gallery": "gallery",
        "GalleryInfo": "gallery",
        "Hit": "entries",
        "open_gallery": "opening",
    },
)
