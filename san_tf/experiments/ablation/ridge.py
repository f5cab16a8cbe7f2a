"""Ridge regression whose strength is chosen for people it has not seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from san_tf.errors import UserError

# Strengths to choose from, in shares of the number of rows; features have variance 1.
_STRENGTHS = np.logspace(-6, 1, 15)
_FOLDS = 5


class Ridge(NamedTuple):
    """A fitted linear map; `predict` applies it."""

    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    offset: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """From `(N, D)` to `(N, K)` float64."""
        return (features - self.center) / self.scale @ self.weights + self.offset


def fit_ridge(features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> Ridge:
    """Ridge regression, its strength chosen by cross-validation over whole groups.

    Args:
        features: `(N, D)`.
        targets: `(N, K)`.
        groups: `(N,)` int: rows of one group, such as a person, are never on both sides of a fold.

    Raises:
        UserError: there are fewer than two groups.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"A linear probe needs at least two people to learn from, not {len(names)}.")
    features, targets = features.astype(np.float64), targets.astype(np.float64)
    errors = np.zeros(len(_STRENGTHS))
    fold = group % min(_FOLDS, len(names))
    for number in range(fold.max() + 1):
        inside = fold != number
        for index, fitted in enumerate(ridges(features[inside], targets[inside], _STRENGTHS)):
            errors[index] += ((fitted.predict(features[~inside]) - targets[~inside]) ** 2).sum()
    return ridges(features, targets, _STRENGTHS[[errors.argmin()]])[0]


def ridges(features: np.ndarray, targets: np.ndarray, strengths: np.ndarray) -> list[Ridge]:
    """One map for each strength, in shares of N, from one eigendecomposition of the smaller Gram matrix."""
    center, scale = features.mean(0), spread_of(features)
    x, offset = (features - center) / scale, targets.mean(0)
    few = len(x) < x.shape[1]
    # On several threads, BLAS libraries spend more time waiting for each other than on matrices of this size.
    with threadpool_limits(limits=1, user_api="blas"):
        values, vectors = np.linalg.eigh(x @ x.T if few else x.T @ x)
    left = x.T @ vectors if few else vectors
    projected = vectors.T @ (targets - offset if few else x.T @ (targets - offset))
    values = np.maximum(values, 0.0)[:, None]
    return [
        Ridge(center, scale, left @ (projected / (values + strength * len(x))), offset)
        for strength in strengths
    ]


def spread_of(features: np.ndarray) -> np.ndarray:
    """`(D,)` standard deviations of the columns, 1 where a column never changes."""
    spread = features.std(0)
    # A feature that never changes says nothing, and rounding must not be blown up to variance 1.
    return np.where(spread > 1e-9 * np.abs(features).max(initial=1e-300), spread, 1.0)


def explained(predicted: np.ndarray, true: np.ndarray) -> float:
    """R2: the share of the variance of `(N, K)` targets, all columns together, that predictions explain.

    NaN where nothing varies.
    """
    variance = float(((true - true.mean(0)) ** 2).sum())
    return float(1 - ((predicted - true) ** 2).sum() / variance) if variance > 0 else float("nan")
