"""Protocols that repeatedly draw one gallery image per identity: CUHK03 (classic) and VehicleID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.ranking import MAX_RANK
from san_tf.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class SingleShotHits(ShortRepr):
    """Scores of repeated draws.

    Attributes:
        cmc: `(repeats, 50)` float64 CMC of each draw.
        first: `(Q,)` float64 share of draws in which a query's first image is right; NaN without a match.
    """

    cmc: np.ndarray
    first: np.ndarray


def cuhk03_cmcs(
    blocks: Iterable[tuple[int, np.ndarray]],
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    repeats: int,
    rng: np.random.Generator,
) -> SingleShotHits:
    """Return the CMC of one gallery image per identity, drawn `repeats` times.

    A draw is a random order of the gallery, the same for all queries. The first image of each identity
    counts; of the query's identity, the first under another camera. So every draw is a possible gallery, and
    the curves vary as such galleries do. (Some toolkits draw anew for each query, with the same expectation.)
    Equal distances rank in gallery order.

    Args:
        blocks: pairs of the first query's index and `(rows, G)` distances.
        query_pids: `(Q,)` int.
        query_camids: `(Q,)` int, all known.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.
        repeats: number of draws.
        rng: generator of the draws.

    Raises:
        UserError: no query has an image of its identity under another camera.
    """
    draws = [_draw(gallery_pids, gallery_camids, rng) for _ in range(repeats)]
    identities = np.unique(gallery_pids[gallery_pids != -1])
    own = np.searchsorted(identities, query_pids)
    own[own == len(identities)] = 0
    known = (identities[own] == query_pids) if len(identities) else np.zeros(len(query_pids), bool)
    ranks = np.zeros((repeats, len(query_pids)), np.int64)
    for start, block in blocks:
        rows = np.flatnonzero(known[start : start + len(block)])
        identity, camids = own[start + rows], query_camids[start + rows]
        for draw, (first, elsewhere) in enumerate(draws):
            match = np.where(gallery_camids[first[identity]] != camids, first[identity], elsewhere[identity])
            valid = match >= 0
            row, right = rows[valid], match[valid]
            wanted = block[row, right][:, None]
            others = block[row[:, None], first]
            nearer = (others < wanted) | ((others == wanted) & (first < right[:, None]))
            nearer[np.arange(len(row)), identity[valid]] = False
            ranks[draw, start + row] = 1 + np.count_nonzero(nearer, axis=1)
    matched = ranks[0] > 0
    if not matched.any():
        raise UserError(
            "No query has an image of its identity under another camera; check that query and gallery belong "
            "together and that cameras differ."
        )
    found = ranks[:, matched, None] <= np.arange(1, MAX_RANK + 1)
    return SingleShotHits(found.mean(axis=1), np.where(matched, (ranks == 1).mean(axis=0), np.nan))


def vehicleid_draws(
    pids: np.ndarray, repeats: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices of the queries and of the gallery (one image per identity) of each draw.

    Args:
        pids: `(N,)` int identities of all images; junk (-1) is left out.
        repeats: number of draws.
        rng: generator of the draws.

    Raises:
        UserError: no identity has two images.
    """
    kept = np.flatnonzero(pids != -1)
    if len(np.unique(pids[kept])) == len(kept):
        raise UserError("No identity has two images, so there is nothing to find; give all test images.")
    for _ in range(repeats):
        order = rng.permutation(kept)
        _, position = np.unique(pids[order], return_index=True)
        drawn = np.sort(order[position])
        yield np.setdiff1d(kept, drawn, assume_unique=True), drawn


def _draw(pids: np.ndarray, camids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one random order of the gallery.

    Returns:
        Two indices for each identity, sorted as `np.unique`: its first image, and its first image under
        another camera than that one, or -1.
    """
    order = rng.permutation(np.flatnonzero(pids != -1))
    _, position, identity = np.unique(pids[order], return_index=True, return_inverse=True)
    first = order[position]
    other = np.flatnonzero(camids[order] != camids[first[identity]])
    which, position = np.unique(identity[other], return_index=True)
    elsewhere = np.full(len(first), -1, np.int64)
    elsewhere[which] = order[other[position]]
    return first, elsewhere
