"""Nearest neighbours of every image among query and gallery.

Only each image's nearest neighbours and its largest distance are kept, so memory grows with the number of
images, not with its square. Distances are symmetric, so only half of them are computed: one tile serves the
images of its rows and of its columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np

from san_tf.evaluation import ranking_kernels as kernels
from san_tf.evaluation.distances import FeatureRows, feature_rows
from san_tf.evaluation.threads import finish_blocks, ranges, run_blocks
from san_tf.progress import with_bar
from san_tf.short_repr import ShortRepr

# Images on each side of a tile: 4 MB of float32.
_TILE = 1024
# Extra neighbours that are kept, because rounding may have put a true neighbour just behind.
_SPARE = 4


@dataclass(frozen=True, repr=False)
class Neighbours(ShortRepr):
    """Nearest neighbours and largest distances, for k-reciprocal encoding.

    Images are numbered: Q queries first, then G gallery images.

    Args:
        query: `(Q, D)` features, checked; float32, or float64 if both sides are.
        gallery: `(G, D)` likewise.
        nearest: `(Q + G, n)` int32: each image itself, then its nearest ones by squared distance. A product
            in the features' type finds a few more than n, and their distances are measured again in float64.
            Of equal distances, the smaller index is first.
        largest: `(Q + G,)` largest squared distance of each image to any other.
    """

    query: np.ndarray
    gallery: np.ndarray
    nearest: np.ndarray
    largest: np.ndarray


def nearest_neighbours(
    query: np.ndarray,
    gallery: np.ndarray,
    number: int,
    metric: str = "euclidean",
    description: str | None = "Comparing all pairs",
) -> Neighbours:
    """Find the `number` nearest images of each, itself included.

    Args:
        query: `(Q, D)` numbers.
        gallery: `(G, D)` numbers.
        number: number of neighbours, at most Q + G.
        metric: "euclidean", or "cosine": Euclidean between rows of length 1, which gives the same order.
        description: of the progress bar; None for no bar.

    Raises:
        UserError: unknown metric, wrong shapes, or features that are not finite.
    """
    sides = feature_rows(query, gallery, metric)
    (query, query_squares), (gallery, gallery_squares) = (_whole(rows) for rows in sides)
    squares = np.concatenate([query_squares, gallery_squares])
    images = len(squares)
    number = min(number, images)
    lists = min(number - 1 + _SPARE, images - 1)
    indices = np.full((images, max(lists, 1)), -1, np.int64)
    distances = np.full(indices.shape, np.inf, query.dtype)
    largest = np.zeros(images, query.dtype)
    # A block holds images of one side only, so that no side is copied.
    blocks = [(start, stop, query[start:stop]) for start, stop in ranges(len(query), _TILE)]
    blocks += [
        (len(query) + start, len(query) + stop, gallery[start:stop])
        for start, stop in ranges(len(gallery), _TILE)
    ]
    locks = [Lock() for _ in blocks]

    def scan(pair: tuple[int, int]) -> None:
        (first, last, rows), (other_first, other_last, others) = (blocks[side] for side in pair)
        tile = rows @ others.T
        with locks[pair[0]]:
            kernels.scan_rows(
                tile, squares[first:last], squares[other_first:other_last], first, other_first, indices,
                distances, largest,
            )  # fmt: skip
        if pair[0] != pair[1]:
            with locks[pair[1]]:
                kernels.scan_columns(tile, first, other_first, indices, distances, largest)

    pairs = _pairs(len(blocks))
    total = len(blocks) * (len(blocks) + 1) // 2
    for _ in with_bar(run_blocks(scan, pairs), description, total):
        pass
    nearest = np.zeros((images, number), np.int32)
    if lists:
        finish_blocks(
            lambda span: kernels.settle_neighbours(query, gallery, *span, indices, nearest),
            ranges(images, 512),
        )
    return Neighbours(query, gallery, nearest, largest)


def _whole(rows: FeatureRows) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows and their squared lengths, checked, in the type of the distances."""
    features = np.require(rows.features, rows.dtype, ["C", "W"]) if not rows.normalized else None
    if features is None:
        features = np.empty(rows.features.shape, rows.dtype)
    squares = np.empty(len(rows), rows.dtype)
    for start, stop in ranges(len(rows), rows.rows_a_block):
        block, squares[start:stop] = rows.block(start, stop)
        if rows.normalized:
            features[start:stop] = block
    return features, squares


def _pairs(blocks: int) -> Iterator[tuple[int, int]]:
    """Yield all pairs of blocks, ordered so that few threads wait for the same block."""
    for apart in range(blocks):
        for block in range(blocks - apart):
            yield block, block + apart
