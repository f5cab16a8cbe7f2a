"""k-reciprocal re-ranking in memory that grows with the number of images, not its square.

Zhong, Zheng, Cao and Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017: two
images are alike if they have the same neighbours among query *and* gallery. An image's k-reciprocal
neighbours, those of its k1 nearest that also have it among theirs, describe it. Their weights are exp(-d),
with d the squared Euclidean distance as a share of the image's largest. Descriptions are averaged over the k2
nearest. Their Jaccard distance J is mixed with the original one: lambda d + (1 - lambda) J.

The published code holds several matrices of all pairs. Here only a few neighbours of each image and its
largest distance are held (`neighbours`), descriptions are sparse, and final distances are computed block by
block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation import ranking_kernels as kernels
from san_tf.evaluation.distances import BLOCK_BYTES, FeatureRows, feature_rows
from san_tf.evaluation.ranking_kernels import SparseRows
from san_tf.evaluation.threads import finish_blocks, ranges, run_blocks
from san_tf.progress import with_bar
from san_tf.resources import core_count
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


def camera_neighbours(
    features: np.ndarray,
    cameras: np.ndarray,
    number: int,
    level: int = 10,
    description: str | None = "Comparing all pairs",
) -> Neighbours:
    """Find the `number` nearest images of each, with distances made comparable between cameras.

    Two images by one camera are nearer than two by different cameras, whoever they show. So a distance is
    measured from the level of its camera pair: from the squared distance of images i and j are taken half of
    i's mean distance to its `level` nearest images by j's camera, and half of j's to its nearest by i's
    camera. That is cross-domain similarity local scaling (Conneau et al., "Word Translation Without Parallel
    Data", ICLR 2018, section 2.3), with cameras as the domains.

    Args:
        features: `(N, D)` numbers, finite.
        cameras: `(N,)` int; images whose camera is unknown share a number.
        number: number of neighbours, itself included, at most N.
        level: nearest images that make a level; a camera with fewer has its level from those.
        description: of the progress bar; None for no bar.

    Returns:
        Neighbours; `largest` is of the distances as they were.

    Example:
        >>> camera_neighbours(features, cameras, 15).nearest[7]
        array([   7, 1204,   12, ...], dtype=int32)
    """
    rows = np.ascontiguousarray(features, np.float32)
    images, number = len(rows), min(number, len(rows))
    own, place = np.unique(cameras, return_inverse=True)
    # Images of one camera stand together, so that a camera is a slice.
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(len(own) + 1))
    others, squares = rows[order], np.einsum("nd,nd->n", rows, rows)
    column = np.argsort(order)  # of each image
    levels = np.empty((images, len(own)), np.float32)
    largest = np.empty(images, np.float32)
    nearest = np.empty((images, number), np.int32)
    spans = list(ranges(images, max(16, BLOCK_BYTES // (4 * images))))

    def distances(start: int, stop: int) -> np.ndarray:
        tile: np.ndarray = rows[start:stop] @ others.T
        tile *= -2.0
        tile += squares[order]
        tile += squares[start:stop, None]
        return np.maximum(tile, 0.0, out=tile)

    for step in with_bar(range(2 * len(spans)), description, 2 * len(spans)):
        start, stop = spans[step % len(spans)]
        tile = distances(start, stop)
        itself = np.arange(stop - start), column[start:stop]
        if step < len(spans):
            largest[start:stop] = tile.max(axis=1)
            tile[itself] = np.inf
            for camera, (first, last) in enumerate(itertools.pairwise(bounds)):
                levels[start:stop, camera] = _level(tile[:, first:last], level)
        else:
            if start == 0:
                # The only image of a camera has no level of its own camera; others stand in for it.
                alone = ~np.isfinite(levels)
                levels[alone] = 0.0
                means = levels.sum(axis=1) / np.maximum((~alone).sum(axis=1), 1)
                levels[alone] = means[np.nonzero(alone)[0]]
            for camera, (first, last) in enumerate(itertools.pairwise(bounds)):
                tile[:, first:last] -= 0.5 * levels[start:stop, camera, None]
            tile -= 0.5 * levels[order][:, place[start:stop]].T
            tile[itself] = -np.inf
            found = np.argpartition(tile, number - 1, axis=1)[:, :number]
            found.sort(axis=1)  # of equal distances, the same ones come first each time
            ranks = np.argsort(np.take_along_axis(tile, found, axis=1), axis=1, kind="stable")
            nearest[start:stop] = order[np.take_along_axis(found, ranks, axis=1)]
    return Neighbours(rows[:1], rows[1:], nearest, largest)


def _level(distances: np.ndarray, number: int) -> np.ndarray:
    """Mean of the `number` smallest distances of each row, `(N,)`; infinite where there are none."""
    number = min(number, distances.shape[1])
    smallest = np.partition(distances, number - 1, axis=1)[:, :number]
    finite = np.isfinite(smallest)
    counts = finite.sum(axis=1)
    sums = np.where(finite, smallest, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def _pairs(blocks: int) -> Iterator[tuple[int, int]]:
    """Yield all pairs of blocks, ordered so that few threads wait for the same block."""
    for apart in range(blocks):
        for block in range(blocks - apart):
            yield block, block + apart


@dataclass(frozen=True)
class Reranking:
    """Compact data from which re-ranked distances are computed, block by block.

    Args:
        neighbours: neighbours of all images, with the features.
        queries: `(Q, Q + G)` sparse descriptions of the queries.
        lists: `(Q + G, G)` sparse: for each image, the gallery images that it describes.
        lambda_value: weight of the original distance, in [0, 1].

    Example:
        >>> reranking = Reranking.of(q, g)
        >>> evaluate_distances(reranking.blocks(), q_pids, q_camids, g_pids, g_camids).mAP
        0.94
        >>> top_of_distances(reranking.blocks(), q_pids, q_camids, g_pids, g_camids, k=10).indices[0]
        array([ 512,   17, ...])
    """

    neighbours: Neighbours
    queries: SparseRows
    lists: SparseRows
    lambda_value: float

    @classmethod
    def of(
        cls,
        query_features: np.ndarray,
        gallery_features: np.ndarray,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        metric: str = "euclidean",
    ) -> Reranking:
        """Compare all images and describe each by its neighbours.

        It takes as long as half a matrix product of all images with all, and some 1 to 2 kB of memory per
        image beside the features. Features are copied once if they are a memory map, are to be normalised,
        or are not float32 (or both float64).

        Args:
            query_features: `(Q, D)` numbers.
            gallery_features: `(G, D)` numbers.
            k1: neighbours that describe an image, before the additions.
            k2: neighbours to average over, the image itself included; 1 for no averaging.
            lambda_value: weight of the original distance in [0, 1]; 1 keeps the original ranking.
            metric: "euclidean", or "cosine": Euclidean between rows of length 1.

        Raises:
            UserError: k1, k2 or lambda out of range, unknown metric, or features that do not fit.
        """
        if k1 < 1 or k2 < 1:
            raise UserError(f"k1 and k2 of re-ranking must be at least 1, not {k1} and {k2}.")
        if not 0.0 <= lambda_value <= 1.0:
            raise UserError(f"Lambda weights the original distance, so give 0 to 1, not {lambda_value}.")
        found = nearest_neighbours(query_features, gallery_features, max(k1 + 1, k2), metric)
        rows, queries = described(found, k1, k2), len(found.query)
        lists = SparseRows(*kernels.invert_rows(rows, queries))
        end = rows.bounds[queries]
        kept = SparseRows(
            rows.bounds[: queries + 1].copy(), rows.images[:end].copy(), rows.weights[:end].copy()
        )
        return cls(found, kept, lists, lambda_value)

    def blocks(
        self, block: int = 256, description: str | None = "Re-ranking"
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield re-ranked distances of `block` queries to the whole gallery, block after block.

        Args:
            block: queries at a time; memory is `block * G` values.
            description: of the progress bar; None for no bar.

        Yields:
            Index of the block's first query, and `(up to block, G)` distances, as `evaluate_distances` and
            `top_of_distances` take them.
        """
        query, gallery = self.neighbours.query, self.neighbours.gallery
        squares, gallery_squares = (np.einsum("nd,nd->n", side, side) for side in (query, gallery))
        step = max(256, BLOCK_BYTES // gallery[0].nbytes)
        starts = range(0, len(query), block)
        for first in with_bar(starts, description, len(starts)):
            distances = np.empty((min(block, len(query) - first), len(gallery)), query.dtype)

            def fill(span: tuple[int, int], first: int = first, distances: np.ndarray = distances) -> None:
                rows, out = slice(first + span[0], first + span[1]), distances[slice(*span)]
                for start in range(0, len(gallery), step):
                    tile = query[rows] @ gallery[start : start + step].T
                    kernels.square_distances(
                        tile, squares[rows], gallery_squares[start : start + step],
                        out[:, start : start + step],
                    )  # fmt: skip
                kernels.blend_distances(
                    out, rows.start, self.queries, self.lists, self.neighbours.largest, self.lambda_value
                )

            finish_blocks(fill, ranges(len(distances), -(-len(distances) // core_count())))
            yield first, distances

    def matrix(self) -> np.ndarray:
        """Return all re-ranked distances, `(Q, G)`."""
        return np.concatenate([rows for _, rows in self.blocks()])


def rerank(
    query_features: np.ndarray,
    gallery_features: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: str = "euclidean",
) -> np.ndarray:
    """Return re-ranked distances, `(Q, G)`; args and errors as `Reranking.of`, which saves the matrix."""
    return Reranking.of(query_features, gallery_features, k1, k2, lambda_value, metric).matrix()


def described(found: Neighbours, k1: int, k2: int) -> SparseRows:
    """Describe each of N images by its k-reciprocal neighbours, and average over the k2 nearest.

    Args:
        found: at least `max(k1 + 1, k2)` neighbours of each image.
        k1: see `Reranking.of`.
        k2: likewise.

    Returns:
        `(N, N)` sparse rows, each with weights that sum to 1.
    """
    nearest = found.nearest
    width = nearest.shape[1]
    # Half of k1 as in the published code: Python rounds 2.5 to 2.
    first, half = min(k1 + 1, width), min(round(k1 / 2) + 1, width)
    rows = _joined(
        len(nearest),
        lambda start, stop: kernels.encode_reciprocal(
            found.query, found.gallery, nearest, found.largest, start, stop, first, half
        ),
    )
    if k2 == 1:
        return rows
    return _joined(
        len(nearest), lambda start, stop: kernels.expand_rows(rows, nearest, start, stop, min(k2, width))
    )


def jaccard_graph(
    features: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    largest: float = 0.8,
    description: str | None = "Comparing all pairs",
    cameras: np.ndarray | None = None,
    level: int = 10,
) -> SparseRows:
    """Return the Jaccard distances between N images that are at most `largest`, as a sparse graph.

    It is the distance of re-ranking with lambda 0. Memory grows with N, not with its square: an image has few
    neighbours that share a description with it, and all other pairs have the distance 1.

    Args:
        features: `(N, D)` numbers.
        k1: neighbours that describe an image, before the additions.
        k2: neighbours to average over, the image itself included; 1 for no averaging.
        largest: largest distance that is kept, in [0, 1).
        description: of the progress bar; None for no bar.
        cameras: `(N,)` int, to make neighbours comparable between cameras, see `camera_neighbours`; None for
            the nearest of all.
        level: see `camera_neighbours`.

    Returns:
        N sparse rows: near images, the image itself included, and their distances; symmetric.

    Raises:
        UserError: k1, k2 or `largest` out of range, fewer than two images, or features that are not finite.

    Example:
        >>> bounds, images, distances = jaccard_graph(features)
        >>> images[bounds[7] : bounds[8]]  # near image 7
        array([  7,  12, 512], dtype=int32)
    """
    if k1 < 1 or k2 < 1:
        raise UserError(f"k1 and k2 of Jaccard distances must be at least 1, not {k1} and {k2}.")
    if not 0.0 <= largest < 1.0:
        raise UserError(f"The largest Jaccard distance to keep lies in [0, 1); received {largest}.")
    if len(features) < 2:
        raise UserError(f"Jaccard distances need at least two images; received {len(features)}.")
    number = max(k1 + 1, k2)
    if cameras is None:
        found = nearest_neighbours(features[:1], features[1:], number, "euclidean", description=description)
    elif not np.isfinite(features).all():
        raise UserError("The features hold values that are not finite.")
    else:
        found = camera_neighbours(features, cameras, number, level, description)
    rows = described(found, k1, k2)
    lists = SparseRows(*kernels.invert_rows(rows, 0))
    return _joined(len(features), lambda start, stop: kernels.jaccard_rows(rows, lists, start, stop, largest))


def _joined(number: int, rows: Callable[[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]) -> SparseRows:
    """Make `number` sparse rows in pieces, on all cores, and join them in order."""
    pieces: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def make(span: tuple[int, int]) -> None:
        pieces[span[0]] = rows(*span)

    finish_blocks(make, ranges(number, 512))
    lengths, images, weights = (
        np.concatenate(parts) for parts in zip(*(pieces[start] for start in sorted(pieces)), strict=True)
    )
    return SparseRows(np.concatenate([[0], np.cumsum(lengths)]), images, weights)
