"""Features with their identities and cameras, of one model or of several fused ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.distances import l2_normalized
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


def concatenated(features: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Concatenate the embeddings of several models, each scaled to length 1 and weighted.

    Each embedding is scaled by the root of its weight, with weights that sum to 1. So the cosine similarity
    of the whole is `cos = sum_m w_m cos_m`, and its length is 1.

    Args:
        features: M arrays, each `(N, D_m)` float, of the same images in the same order.
        weights: M numbers above 0; None for equal weights.

    Returns:
        `(N, sum of D_m)` float32, or float64 if all are.

    Raises:
        UserError: the numbers of images differ, or the weights are not M numbers above 0.

    Example:
        >>> concatenated([np.array([[3.0, 4.0]]), np.array([[2.0]])], weights=[3, 1]).round(3)
        array([[0.52 , 0.693, 0.5  ]])
    """
    if not features:
        raise UserError("There are no features to concatenate; give those of at least one model.")
    shares = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
    if len(shares) != len(features) or not (np.isfinite(shares) & (shares > 0)).all():
        raise UserError(
            f"Weights must be one number above 0 for each of the {len(features)} models; received "
            f"{', '.join(f'{share:g}' for share in shares)}."
        )
    numbers = [len(item) for item in features]
    if len(set(numbers)) > 1:
        raise UserError(
            f"The models describe different numbers of images ({', '.join(map(str, numbers))}); embed the "
            "same images, in the same order."
        )
    dtype = np.float64 if all(item.dtype == np.float64 for item in features) else np.float32
    result = np.empty((numbers[0], sum(item.shape[1] for item in features)), dtype)
    place = 0
    for item, share in zip(features, shares / shares.sum(), strict=True):
        end = place + item.shape[1]
        result[:, place:end] = l2_normalized(item.astype(dtype))
        result[:, place:end] *= np.sqrt(share)
        place = end
    return result
