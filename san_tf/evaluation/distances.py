"""Distances between embeddings, block by block, without holding the whole matrix."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from san_tf.evaluation.inputs import check_dimensions, check_metric, check_values, checked_features

# Size of the gallery features multiplied in one step: large enough for the BLAS, small enough for the cache.
BLOCK_BYTES = 2**24


def l2_normalized(features: np.ndarray) -> np.ndarray:
    """Divide each row of `(N, D)` by its Euclidean length; rows of zeros stay zeros."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)


@dataclass(frozen=True)
class FeatureRows:
    """Features that are converted, normalised and checked block by block, never copied whole.

    Args:
        name: "query" or "gallery", for messages.
        features: `(N, D)`; may be a memory map.
        dtype: type that distances are computed in.
        normalized: whether to divide each row by its length.
    """

    name: str
    features: np.ndarray
    dtype: np.dtype
    normalized: bool = False

    def __len__(self) -> int:
        return len(self.features)

    def block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows `(n, D)`, contiguous, of `dtype`, and their squared lengths, `(n,)` float64.

        Raises:
            UserError: a row is not finite.
        """
        block = self._prepared(self.features[start:stop], np.arange(start, stop))
        self._release_pages()
        return block

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows at `indices` `(n,)`, and their squared lengths, as `block` does."""
        rows = np.empty((len(indices), self.features.shape[1]), self.features.dtype)
        # Reading one row of a memory map loads some 64 kB around it, so take few at a time.
        for start in range(0, len(indices), 512):
            rows[start : start + 512] = self.features[indices[start : start + 512]]
            self._release_pages()
        return self._prepared(rows, indices)

    def _prepared(self, rows: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Contiguous rows of the right type are not copied, unless they are read-only: the loops would be
        # compiled a second time for read-only arrays.
        with np.errstate(over="ignore"):  # values too large for float32 become infinite and are refused below
            rows = np.require(rows, self.dtype, ["C", "W"])
        squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
        check_values(self.name, squares, numbers, self.dtype == np.float32)
        if self.normalized:
            rows = l2_normalized(rows)
            squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
        return rows, squares

    def _release_pages(self) -> None:
        """Release the pages read from a read-only memory map: they count as this process's memory."""
        pages = getattr(self.features, "_mmap", None)
        read_only = getattr(self.features, "mode", "") == "r"
        if pages is not None and read_only and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)

    @property
    def rows_a_block(self) -> int:
        """Rows that fit in `BLOCK_BYTES`, at least 256."""
        return max(256, BLOCK_BYTES // (self.features.shape[1] * self.dtype.itemsize))


def feature_rows(query: np.ndarray, gallery: np.ndarray, metric: str) -> tuple[FeatureRows, FeatureRows]:
    """Check the shapes and types of both sides, and choose the type to compute in.

    Values are checked later, as they are read.

    Args:
        query: `(Q, D)` numbers; computed in float32, or float64 if both are float64.
        gallery: `(G, D)` likewise.
        metric: one of `inputs.METRICS`.

    Raises:
        UserError: unknown metric, wrong shapes or types, or dimensions that differ.
    """
    check_metric(metric)
    query, gallery = checked_features("query", query), checked_features("gallery", gallery)
    check_dimensions(query, gallery)
    dtype = np.dtype(np.float64 if query.dtype == gallery.dtype == np.float64 else np.float32)
    cosine = metric == "cosine"
    return FeatureRows("query", query, dtype, cosine), FeatureRows("gallery", gallery, dtype, cosine)


def distance_blocks(
    query: np.ndarray, gallery: np.ndarray, metric: str = "euclidean", block: int = 256
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the distances of `block` queries to the whole gallery, block after block.

    Euclidean distances are squared, as |q|^2 + |g|^2 - 2 q.g, at least 0. In float32 their error is about
    1e-6 of |q|^2 + |g|^2, so the order of near duplicates may be lost; `ranking.evaluate_ranking` measures
    those again.

    Args:
        query: `(Q, D)` numbers; computed in float32, or float64 if both are float64.
        gallery: `(G, D)` likewise; may be a memory map.
        metric: "euclidean", or "cosine": 1 - cosine similarity, in [0, 2].
        block: queries at a time; memory is `block * G` values.

    Yields:
        Index of the block's first query, and `(up to block, G)` distances.

    Raises:
        UserError: unknown metric, dimensions that differ, or features that are not finite.
    """
    queries, images = feature_rows(query, gallery, metric)
    for start in range(0, len(queries), block):
        rows, squares = queries.block(start, min(start + block, len(queries)))
        distances = np.empty((len(rows), len(images)), rows.dtype)
        for first in range(0, len(images), images.rows_a_block):
            stop = min(first + images.rows_a_block, len(images))
            others, other_squares = images.block(first, stop)
            distances[:, first:stop] = distances_of(rows @ others.T, squares, other_squares, metric)
        yield start, distances


def distances_of(
    products: np.ndarray, squares: np.ndarray, other_squares: np.ndarray, metric: str
) -> np.ndarray:
    """Turn inner products into distances, in place.

    Args:
        products: `(n, m)` inner products; overwritten.
        squares: `(n,)` squared lengths of the first side.
        other_squares: `(m,)` squared lengths of the second side.
        metric: "euclidean" (squared) or "cosine".
    """
    kind = products.dtype
    if metric == "cosine":
        np.subtract(1.0, products, out=products)
    else:
        products *= -2.0
        products += squares.astype(kind)[:, None]
        products += other_squares.astype(kind)
    return np.maximum(products, 0.0, out=products)
