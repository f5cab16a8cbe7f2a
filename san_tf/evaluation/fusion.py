"""Fusion of the embeddings of several models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.distances import l2_normalized


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
