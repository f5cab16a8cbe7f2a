"""Steps between encoder and ranking: camera bias removal, normalisation, expansion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.distances import feature_rows, l2_normalized
from san_tf.evaluation.feature_set import UNKNOWN, FeatureSet, rows_per_block
from san_tf.evaluation.options import Preparation


def expand_queries(query: np.ndarray, gallery: np.ndarray, k: int = 5, alpha: float = 3.0) -> np.ndarray:
    """Add to each query its k nearest gallery images.

    The result is `q + sum_i max(q.g_i, 0)^alpha g_i` over the k nearest `g_i`, scaled to length 1. `alpha` 0
    is average query expansion, AQE (Chum et al., "Total Recall", ICCV 2007). Larger values give near images
    more weight: alpha query expansion (Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No
    Human Annotation", TPAMI 2019, section 4.2). Ties go to the first images of the gallery.

    Args:
        query: `(Q, D)` float.
        gallery: `(G, D)` float.
        k: images added to each query; at most the whole gallery.
        alpha: exponent of the similarity, at least 0.

    Returns:
        `(Q, D)` float32 of length 1, or float64 if both are.

    Raises:
        UserError: k below 1 or alpha below 0.

    Example:
        >>> result = evaluate_ranking(expand_queries(q, g), q_pids, q_camids, g, g_pids, g_camids, "cosine")
    """
    _check(k, alpha)
    dtype = np.float64 if query.dtype == gallery.dtype == np.float64 else np.float32
    query, pool = l2_normalized(query.astype(dtype)), l2_normalized(gallery.astype(dtype))
    return np.concatenate([rows for _, rows in _expanded(query, pool, k, alpha, leave_itself_out=False)])


def augment_database(gallery: np.ndarray, k: int = 5, alpha: float = 3.0) -> np.ndarray:
    """Replace each gallery image by the weighted sum of itself and its k nearest others (DBA).

    This is database-side augmentation (Turcot and Lowe, "Better matching with fewer features", ICCV workshops
    2009; Arandjelovic and Zisserman, "Three things everyone should know", CVPR 2012), with the weights of
    `expand_queries`. It compares all pairs of gallery images.

    Args:
        gallery: `(G, D)` float.
        k: other images added to each.
        alpha: exponent of the similarity, at least 0.

    Returns:
        `(G, D)` float32 of length 1, or float64 if it was.

    Raises:
        UserError: k below 1 or alpha below 0.
    """
    _check(k, alpha)
    pool = l2_normalized(gallery if gallery.dtype == np.float64 else gallery.astype(np.float32))
    if len(pool) < 2:
        return pool
    return np.concatenate([rows for _, rows in _expanded(pool, pool, k, alpha, leave_itself_out=True)])


def _expanded(
    query: np.ndarray, pool: np.ndarray, k: int, alpha: float, leave_itself_out: bool
) -> Iterator[tuple[int, np.ndarray]]:
    block = rows_per_block(len(pool))
    k = min(k, len(pool) - leave_itself_out)
    for start in range(0, len(query), block):
        rows = query[start : start + block]
        similarity = rows @ pool.T
        if leave_itself_out:
            own = np.arange(len(rows))
            similarity[own, start + own] = -np.inf
        index = _nearest(similarity, k)
        weight = np.maximum(np.take_along_axis(similarity, index, axis=1), 0) ** alpha
        yield start, l2_normalized(rows + np.einsum("qk,qkd->qd", weight, pool[index]))


def _nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k largest values of each row, `(rows, k)`; ties go to the first columns."""
    columns = similarity.shape[1]
    if k == columns:
        return np.broadcast_to(np.arange(columns), similarity.shape)
    least = np.partition(similarity, columns - k, axis=1)[:, columns - k, None]
    chosen = similarity >= least
    for row in np.flatnonzero(np.count_nonzero(chosen, axis=1) > k):
        tied = np.flatnonzero(similarity[row] == least[row])
        superfluous = np.count_nonzero(chosen[row]) - k
        chosen[row, tied[len(tied) - superfluous :]] = False
    return np.nonzero(chosen)[1].reshape(-1, k)


def _check(k: int, alpha: float) -> None:
    if k < 1:
        raise UserError(f"k is {k}, but at least 1 image must be added.")
    if not alpha >= 0:
        raise UserError(f"alpha is {alpha}, but it must be at least 0.")


_CHUNK = 4096


def without_camera_bias(sets: Sequence[FeatureSet]) -> list[FeatureSet]:
    """Subtract from each embedding the mean embedding of its camera.

    Images of one camera look alike, and part of that is in every embedding as the camera's mean. Without it,
    images of different cameras compare more fairly. Only camera ids are needed, no identities. The means are
    over all images of all sets, so each camera should have seen many people. Images of unknown cameras (-1)
    lose the mean of all images.

    Args:
        sets: feature sets of one encoder, such as query and gallery.

    Returns:
        The same sets, float32 (float64 stays); they are not scaled to length 1 again.

    Example:
        >>> query, gallery = without_camera_bias([query, gallery])
    """
    cameras = np.unique(np.concatenate([item.camids for item in sets]))
    cameras = cameras[cameras != UNKNOWN]
    # The last row is of all images, for unknown cameras.
    sums = np.zeros((len(cameras) + 1, sets[0].features.shape[1]))
    counts = np.zeros(len(cameras) + 1)
    rows = [_rows(item.camids, cameras) for item in sets]
    for item, row in zip(sets, rows, strict=True):
        for start in range(0, len(item), _CHUNK):
            chunk = np.asarray(item.features[start : start + _CHUNK], np.float64)
            member = (row[start : start + _CHUNK] == np.arange(len(cameras))[:, None]).astype(np.float64)
            sums[:-1] += member @ chunk
            sums[-1] += chunk.sum(axis=0)
        counts[:-1] += np.bincount(row[row < len(cameras)], minlength=len(cameras))
        counts[-1] += len(item)
    means = sums / np.maximum(counts, 1)[:, None]
    return [
        item.with_features(_subtracted(item.features, means, row))
        for item, row in zip(sets, rows, strict=True)
    ]


def _rows(camids: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Row of each image's camera in the table of means."""
    return np.where(camids == UNKNOWN, len(cameras), np.searchsorted(cameras, camids))


def _subtracted(features: np.ndarray, means: np.ndarray, row: np.ndarray) -> np.ndarray:
    result = np.empty(features.shape, np.float64 if features.dtype == np.float64 else np.float32)
    for start in range(0, len(result), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        result[chunk] = features[chunk] - means[row[chunk]]
    return result


def prepared(
    query: FeatureSet, gallery: FeatureSet, preparation: Preparation
) -> tuple[FeatureSet, FeatureSet]:
    """Return query and gallery, prepared for ranking.

    Expanded embeddings have length 1, so the other side is scaled too. The default preparation returns the
    sets unchanged, memory maps included; any other copies them.

    Args:
        query: Q images.
        gallery: G images.
        preparation: the steps to take.

    Raises:
        UserError: an impossible value, or features that do not fit or are not finite.

    Example:
        >>> query, gallery = prepared(query, gallery, Preparation(normalize=True, query_expansion=5))
    """
    preparation.check()
    if preparation == Preparation():
        return query, gallery
    # Check all rows first: a bad one would spoil its camera's mean, and the message would name another row.
    for side in feature_rows(query.features, gallery.features, "euclidean"):
        for start in range(0, len(side), side.rows_a_block):
            side.block(start, min(start + side.rows_a_block, len(side)))
    if preparation.camera_bias_removal:
        if preparation.normalize:
            query, gallery = _unit(query), _unit(gallery)
        query, gallery = without_camera_bias([query, gallery])
    if preparation.normalize or preparation.database_augmentation or preparation.query_expansion:
        query, gallery = _unit(query), _unit(gallery)
    if preparation.database_augmentation:
        gallery = gallery.with_features(
            augment_database(gallery.features, preparation.database_augmentation, preparation.alpha)
        )
    if preparation.query_expansion:
        query = query.with_features(
            expand_queries(query.features, gallery.features, preparation.query_expansion, preparation.alpha)
        )
    return query, gallery


def _unit(item: FeatureSet) -> FeatureSet:
    dtype = np.float64 if item.features.dtype == np.float64 else np.float32
    return item.with_features(l2_normalized(item.features.astype(dtype, copy=False)))
