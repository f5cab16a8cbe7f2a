"""k-reciprocal re-ranking of the hits of a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from san_tf.retrieval.entries import Hit
from san_tf.retrieval.gallery import Gallery


def rerank(
    gallery: Gallery,
    query: np.ndarray,
    hits: Sequence[Hit],
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> list[Hit]:
    """Re-rank the hits of a query among themselves by k-reciprocal encoding (`evaluation.reranking`).

    Args:
        gallery: the gallery of the hits.
        query: `(D,)` embedding of the query.
        hits: the first hits of its list; a hundred or more, so that there are neighbours.
        k1: neighbours that describe an image.
        k2: neighbours to average over.
        lambda_value: weight of the original distance, in [0, 1].

    Returns:
        The same hits with their original scores, in the new order.

    Raises:
        UserError: an entry was deleted meanwhile, or a value is out of range.

    Example:
        >>> hits = gallery.search(query[None], top=100)[0]
        >>> best = rerank(gallery, query, hits)[:20]
    """
    from san_tf.evaluation.reranking import rerank as distances_of

    if len(hits) < 2:
        return list(hits)
    rows = gallery.embeddings([hit.entry.key for hit in hits])
    queries = np.asarray(query, np.float32)[None]
    distances = distances_of(queries, rows, k1, k2, lambda_value, metric="cosine")[0]
    return [hits[place] for place in np.argsort(distances, kind="stable")]
