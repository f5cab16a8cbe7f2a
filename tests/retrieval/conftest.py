"""Galleries of every engine, empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from san_tf.retrieval import embedded
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.opening import open_gallery

ENGINES = ("exact", "embedded", "indexed", "milvus")


@pytest.fixture(params=ENGINES)
def empty(request, tmp_path: Path, monkeypatch) -> Callable[[int], Gallery]:
    """Makes an empty gallery for embeddings of a size; `indexed` is the embedded one with its index on."""
    if request.param == "indexed":
        pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
        monkeypatch.setattr(embedded, "_FEWEST", 8)
        monkeypatch.setattr(embedded, "_MOST", 8)

    if request.param == "milvus":
        pytest.importorskip("milvus_lite", reason="san-tf[milvus] is not installed")
        pytest.importorskip("pymilvus", reason="san-tf[milvus] is not installed")

    def make(size: int) -> Gallery:
        if request.param == "exact":
            return ExactGallery(GalleryInfo(size))
        if request.param == "milvus":
            return open_gallery(f"milvus:{tmp_path / 'people.db'}", create=GalleryInfo(size))
        return open_gallery(tmp_path / "people.gallery", create=GalleryInfo(size))

    return make
