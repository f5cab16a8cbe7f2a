"""Features with their identities and cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from san_tf.short_repr import ShortRepr

UNKNOWN = -1

# Each call yields all distances, block by block: the index of the first query and `(rows, G)` distances.
Distances = Callable[[], Iterable[tuple[int, np.ndarray]]]

# Distances in one block: 256 MB of float32, however large the gallery is.
_VALUES_PER_BLOCK = 2**26


@dataclass(frozen=True, repr=False)
class FeatureSet(ShortRepr):
    """Embeddings of images, with identities and cameras.

    Attributes:
        features: `(N, D)` float; may be a memory map.
        pids: `(N,)` int identities; -1 is junk and never ranked.
        camids: `(N,)` int cameras; -1 is an unknown camera.
    """

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray

    def __len__(self) -> int:
        return len(self.pids)

    def select(self, index: np.ndarray | slice) -> FeatureSet:
        """Return the images at `index`."""
        return FeatureSet(self.features[index], self.pids[index], self.camids[index])

    def with_features(self, features: np.ndarray) -> FeatureSet:
        """Return the same images with other features `(N, D)`."""
        return FeatureSet(features, self.pids, self.camids)


def rows_per_block(gallery_size: int) -> int:
    """Number of queries whose distances to the whole gallery fit into 256 MB, at most 256."""
    return max(1, min(256, _VALUES_PER_BLOCK // max(gallery_size, 1)))


def told_apart(query_camids: np.ndarray, gallery_camids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number unknown cameras (-1) so that they equal no other camera, on either side.

    Two images of unknown cameras must not count as images of one camera: that would remove every true match
    of a data set without cameras.

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
