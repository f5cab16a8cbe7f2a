"""Distances between embeddings, a block of queries at a time, so that the whole matrix never has to exist."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from san_tf.errors import UserError

METRICS = ("euclidean", "cosine")


def l2_normalized(features: np.ndarray) -> np.ndarray:
    """Divide each row of `(N, D)` by its Euclidean length; rows of zeros stay zeros."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)


def distance_blocks(
    query: np.ndarray, gallery: np.ndarray, metric: str = "euclidean", block: int = 256
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the distances of `block` queries to the whole gallery, block after block.

    Euclidean distances are left squared, as |q|^2 + |g|^2 - 2 q.g: ranking does not need the root.

    Args:
        query: `(Q, D)` floating; computed in float32, or float64 if both are float64.
        gallery: `(G, D)` likewise.
        metric: "euclidean", or "cosine": 1 - cosine similarity, in [0, 2].
        block: queries at a time; memory is `block * G` values.

    Yields:
        Index of the block's first query, and `(up to block, G)` distances.

    Raises:
        UserError: unknown metric, dimensions that differ, or features that are not finite.
    """
    if metric not in METRICS:
        raise UserError(f"There is no metric {metric!r}; choose one of: {', '.join(METRICS)}.")
    query, gallery = _checked("query", query), _checked("gallery", gallery)
    if query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"Query features have {query.shape[1]} dimensions and gallery features {gallery.shape[1]}; "
            "embed both with the same encoder."
        )
    if metric == "cosine":
        query, gallery = l2_normalized(query), l2_normalized(gallery)
        for start in range(0, len(query), block):
            yield start, 1.0 - query[start : start + block] @ gallery.T
        return
    gallery_square = np.einsum("gd,gd->g", gallery, gallery)
    for start in range(0, len(query), block):
        rows = query[start : start + block]
        distances = rows @ gallery.T
        distances *= -2.0
        distances += np.einsum("qd,qd->q", rows, rows)[:, None]
        distances += gallery_square
        yield start, distances


def _checked(name: str, features: np.ndarray) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"Features are (N, D). Received: {name} features of shape {features.shape}.")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise UserError(
            f"The {name} features are not finite (first in row {int(np.argmin(finite))}); the encoder gives "
            "NaN or infinity, so take an earlier checkpoint."
        )
    return features if features.dtype == np.float64 else features.astype(np.float32)
