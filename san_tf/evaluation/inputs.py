"""Checks of the features and ids that users give to the evaluation.

Each mistake raises a `UserError` of one sentence. `name` is "query", "gallery" or a file's name.
"""

from __future__ import annotations

import numpy as np

from san_tf.errors import UserError

METRICS = ("euclidean", "cosine")
# The largest float32 is 3.4e38; sums of a few squares must stay below it.
_LARGEST_SQUARE = 1e37


def check_metric(metric: str) -> None:
    """Raise `UserError` unless the metric is one of `METRICS`."""
    if metric not in METRICS:
        raise UserError(f"There is no metric {metric!r}; choose one of: {', '.join(METRICS)}.")


def checked_features(name: str, features: np.ndarray) -> np.ndarray:
    """Return features `(N, D)` of real numbers, checked; a memory map stays a memory map.

    `check_values` checks the values later, as they are read.

    Raises:
        UserError: wrong shape or type, or no rows or columns.
    """
    features = np.asanyarray(features)
    if features.ndim != 2:
        raise UserError(
            f"The {name} features have shape {features.shape}; give one row per image, (N, D), for example "
            "by reshape(N, -1)."
        )
    if features.dtype.kind not in "fiub":
        raise UserError(f"The {name} features are of type {features.dtype}; give real numbers (float32).")
    if not len(features):
        raise UserError(f"The {name} features are empty; embed at least one image.")
    if not features.shape[1]:
        raise UserError(f"The {name} features have no dimensions; give (N, D) with D of at least 1.")
    return features


def check_dimensions(query: np.ndarray, gallery: np.ndarray) -> None:
    """Raise `UserError` if query and gallery have different dimensions."""
    if query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"Query features have {query.shape[1]} dimensions and gallery features {gallery.shape[1]}; "
            "embed both with the same encoder."
        )


def check_values(name: str, squares: np.ndarray, rows: np.ndarray, single: bool) -> None:
    """Raise `UserError` for rows with NaN or infinity, or too long for float32.

    Args:
        name: whose features.
        squares: `(n,)` float64 squared lengths of the rows.
        rows: `(n,)` indices of the rows.
        single: whether distances are computed in float32.
    """
    finite = np.isfinite(squares)
    if not finite.all():
        raise UserError(
            f"The {name} features hold NaN or infinity (first in row {int(rows[np.argmin(finite)])}); use "
            "an earlier checkpoint of the encoder."
        )
    if single and len(squares) and squares.max() > _LARGEST_SQUARE:
        raise UserError(
            f"The {name} features are too long for float32 (row {int(rows[np.argmax(squares)])}); normalise "
            "them, or give float64 for query and gallery."
        )


def checked_ids(name: str, ids: np.ndarray, number: int) -> np.ndarray:
    """Return identities or cameras as `(number,)` int64, checked.

    -1 is junk (or an unknown camera); ids are 0 or larger.

    Args:
        name: for example "query pids".
        ids: whole numbers; floats without a fraction are allowed, as CSV readers give them.
        number: number of images.

    Raises:
        UserError: another shape, not whole numbers, or below -1.
    """
    ids = np.asarray(ids)
    if ids.shape != (number,):
        raise UserError(
            f"The {name} have shape {ids.shape}, but there are {number} images; give one id per image, "
            f"({number},)."
        )
    if ids.dtype.kind not in "iuf" or (ids.dtype.kind == "f" and not np.array_equal(ids, np.trunc(ids))):
        raise UserError(
            f"The {name} are of type {ids.dtype}, not whole numbers; number the names, for example with "
            "np.unique(ids, return_inverse=True)[1]."
        )
    if ids.dtype.kind == "u" and ids.max(initial=0) > np.iinfo(np.int64).max:
        raise UserError(f"The {name} hold {ids.max()}, which is too large for int64; number them anew.")
    if ids.dtype.kind == "f" and len(ids) and not np.abs(ids).max() < 2.0**63:
        raise UserError(
            f"The {name} hold {np.abs(ids).max()}, which is too large for int64; number them anew."
        )
    whole = ids.astype(np.int64)
    if whole.min(initial=0) < -1:
        raise UserError(
            f"The {name} hold {whole[whole < -1][0]} (row {int(np.argmax(whole < -1))}); ids are 0 or "
            "larger, and only -1 is special: junk."
        )
    return whole


def checked_distances(distances: np.ndarray, first: int, number: int, size: int) -> np.ndarray:
    """Return a block of distances as float32 or float64, checked.

    Args:
        distances: `(rows, size)` distances.
        first: index of the block's first query.
        number: number of all queries.
        size: number of gallery images.

    Raises:
        UserError: the shape does not fit these numbers.
    """
    distances = np.asarray(distances)
    if distances.ndim != 2 or distances.shape[1] != size or not 0 <= first <= number - len(distances):
        raise UserError(
            f"Distances of shape {distances.shape} from query {first} on do not fit {number} queries and "
            f"{size} gallery images; give one row per query and one column per gallery image."
        )
    return distances if distances.dtype in (np.float32, np.float64) else distances.astype(np.float64)
