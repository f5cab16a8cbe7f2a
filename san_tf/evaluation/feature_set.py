"""Features with the identities and cameras that judging them needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from san_tf.short_repr import ShortRepr

UNKNOWN = -1

# Distances block by block, as often as asked: pairs of the first query's index and `(rows, G)` distances.
Distances = Callable[[], Iterable[tuple[int, np.ndarray]]]

# Distances held at a time: 256 MB of float32, however large the gallery is.
_VALUES_PER_BLOCK = 2**26


@dataclass(frozen=True, repr=False)
class FeatureSet(ShortRepr):
    """Images as an encoder describes them.

    Attributes:
        features: `(N, D)` float; may be a memory map.
        pids: `(N,)` int identities; -1 is junk, which is never ranked.
        camids: `(N,)` int cameras; -1 is an unknown camera.
    """

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray

    def __len__(self) -> int:
        return len(self.pids)

    def select(self, index: np.ndarray | slice) -> FeatureSet:
        """Some of the images."""
        return FeatureSet(self.features[index], self.pids[index], self.camids[index])

    def with_features(self, features: np.ndarray) -> FeatureSet:
        """The same images, described otherwise."""
        return FeatureSet(features, self.pids, self.camids)


def rows_per_block(gallery_size: int) -> int:
    """How many queries to take at a time, so that their distances to the whole gallery fit 256 MB."""
    return max(1, min(256, _VALUES_PER_BLOCK // max(gallery_size, 1)))


def told_apart(query_camids: np.ndarray, gallery_camids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give unknown cameras (-1) numbers that equal no other camera, those of the query none of the gallery.

    Two images whose cameras nobody wrote down cannot be taken for images of one camera: that would remove
    every true match of a data set without cameras.

    Args:
        query_camids: `(Q,)` int.
        gallery_camids: `(G,)` int.

    Returns:
        Both, int64, without -1.

    Example:
        >>> told_apart(np.array([0, -1]), np.array([-1, 4]))
        (array([0, 5]), array([6, 4]))
    """
    query = np.asarray(query_camids).astype(np.int64)
    gallery = np.asarray(gallery_camids).astype(np.int64)
    free = 1 + max(query.max(initial=UNKNOWN), gallery.max(initial=UNKNOWN))
    query[query == UNKNOWN] = free
    gallery[gallery == UNKNOWN] = free + 1
    return query, gallery
