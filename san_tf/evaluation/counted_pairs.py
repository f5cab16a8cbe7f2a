"""Labels pairs of query and gallery images by protocol: same person, different, or not counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from san_tf.evaluation.feature_set import Distances, FeatureSet, told_apart


def cameras_of_pairs(query: FeatureSet, gallery: FeatureSet, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Return camera ids that are equal where a pair of one person does not count.

    Args:
        query: Q images.
        gallery: G images.
        protocol: for "partial" and "vehicleid" no ids are equal; unknown cameras (-1) never are.

    Returns:
        `(Q,)` and `(G,)` int64.
    """
    query_camids, gallery_camids = told_apart(query.camids, gallery.camids)
    if protocol in ("partial", "vehicleid"):
        return np.zeros_like(query_camids), np.ones_like(gallery_camids)
    return query_camids, gallery_camids


def labelled_blocks(
    distances: Distances, query: FeatureSet, gallery: FeatureSet, protocol: str = "market"
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield distances, block by block, labelled as same person or different people.

    Pairs with junk (identity -1) do not count. Nor do pairs of one identity under one camera for "market" and
    "cuhk03", and all pairs under one camera for "cross-camera". "partial" and "vehicleid" count all others.

    Args:
        distances: yields the blocks.
        query: Q images; only identities and cameras are used.
        gallery: G images likewise.
        protocol: see `san_tf.evaluation.protocols`.

    Yields:
        Index of the block's first query; `(rows, G)` distances; `(rows, G)` bool, pairs of the same person;
        `(rows, G)` bool, pairs of different people.
    """
    query_camids, gallery_camids = cameras_of_pairs(query, gallery, protocol)
    junk = gallery.pids == -1
    for start, block in distances():
        stop = start + len(block)
        pids = query.pids[start:stop, None]
        same = pids == gallery.pids
        different = ~(same | junk)
        same &= ~junk
        elsewhere = query_camids[start:stop, None] != gallery_camids
        same &= elsewhere
        if protocol == "cross-camera":
            different &= elsewhere
        # Pairs with a junk query do not count.
        different[query.pids[start:stop] == -1] = False
        yield start, block, same, different
