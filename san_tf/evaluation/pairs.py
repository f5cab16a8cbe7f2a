"""Which pairs of query and gallery image count, and which show the same person, by protocol."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from san_tf.evaluation.feature_set import Distances, FeatureSet, told_apart


def cameras_of_pairs(query: FeatureSet, gallery: FeatureSet, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Cameras by which "one identity under one camera" says which pairs of a person do not count.

    Args:
        query: Q images.
        gallery: G images.
        protocol: "partial" and "vehicleid" let all count; unknown cameras (-1) equal no other.

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
    """Yield distances with what they are distances of.

    Junk (identity -1) makes no pair. The protocol says which others do not count: "market" and "cuhk03" those
    of one identity under one camera, "cross-camera" all under one camera, "partial" and "vehicleid" none.

    Args:
        distances: makes the blocks.
        query: Q images; only identities and cameras are looked at.
        gallery: G images likewise.
        protocol: see `san_tf.evaluation.protocols`.

    Yields:
        Index of the block's first query; `(rows, G)` distances; `(rows, G)` bool, pairs of one person;
        `(rows, G)` bool, pairs of two.
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
        # A junk query is nobody: it is not a pair's half.
        different[query.pids[start:stop] == -1] = False
        yield start, block, same, different
