"""Query expansion and database-side augmentation: an image described together with its nearest ones.

The neighbours of an image mostly show the same person in other poses; their weighted mean is a better
description than the image alone. Both need no labels. All embeddings are compared by cosine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.distances import l2_normalized
from san_tf.evaluation.feature_set import rows_per_block


def expand_queries(query: np.ndarray, gallery: np.ndarray, k: int = 5, alpha: float = 3.0) -> np.ndarray:
    """Add to each query its k nearest gallery images.

    `q + sum_i max(q.g_i, 0)^alpha g_i` over the k nearest `g_i`, scaled to length 1. `alpha` 0 is average
    query expansion, AQE (Chum et al., "Total Recall", ICCV 2007); larger values trust near images more, alpha
    query expansion (Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation",
    TPAMI 2019, section 4.2). Of equally near images the first of the gallery count.

    Args:
        query: `(Q, D)` float.
        gallery: `(G, D)` float.
        k: images added to each query; more than there are means all.
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

    Database-side augmentation (Turcot and Lowe, "Better matching with fewer features", ICCV workshops 2009;
    Arandjelovic and Zisserman, "Three things everyone should know", CVPR 2012), with the weights of
    `expand_queries`. The cost is that of all pairs of the gallery.

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
    """Columns of the k largest values of each row, `(rows, k)`; of equal ones the first."""
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
