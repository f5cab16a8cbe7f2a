"""The compiled loop of ROC curves: where among a few sorted thresholds do billions of distances lie?"""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled

CELLS = 2**16


def cell_starts(thresholds: np.ndarray) -> tuple[np.ndarray, float]:
    """Cut the thresholds' range into cells of equal width, so that a distance's neighbours are found at once.

    Args:
        thresholds: `(T,)` rising.

    Returns:
        `(CELLS + 1,)` int64, how many thresholds lie below each cell's lower edge; and cells per distance.
    """
    low, high = float(thresholds[0]), float(thresholds[-1])
    width = (high - low) / CELLS or 1.0
    edges = low + width * np.arange(CELLS + 1)
    starts = np.searchsorted(thresholds.astype(np.float64), edges)
    starts[-1] = len(thresholds)
    return starts, 1.0 / width


@compiled
def count_others(
    block: np.ndarray,
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    other_cameras_only: bool,
    thresholds: np.ndarray,
    starts: np.ndarray,
    scale: float,
    up_to: np.ndarray,
    below: np.ndarray,
) -> int:
    """Count the different-person pairs of some queries by the threshold they first fall under.

    Args:
        block: `(n, G)` distances of n queries.
        query_pids: `(n,)` int64; -1 is nobody.
        query_camids: `(n,)` int64.
        gallery_pids: `(G,)` int64; -1 is junk.
        gallery_camids: `(G,)` int64.
        other_cameras_only: whether pairs of one camera do not count.
        thresholds: `(T,)` rising, of the block's type.
        starts: of `cell_starts`.
        scale: of `cell_starts`.
        up_to: `(T + 1,)` int64, added to: pairs by the first threshold they are at most.
        below: `(T + 1,)` int64, added to: pairs by the first threshold they are below.

    Returns:
        All pairs that count, those beyond the last threshold included.
    """
    number, cells = 0, len(starts) - 1
    low, high = thresholds[0], thresholds[-1]
    for row in range(len(block)):
        if query_pids[row] == -1:
            continue
        for image in range(block.shape[1]):
            if gallery_pids[image] == -1 or gallery_pids[image] == query_pids[row]:
                continue
            if other_cameras_only and gallery_camids[image] == query_camids[row]:
                continue
            number += 1
            distance = block[row, image]
            if distance > high:
                continue
            if distance <= low:
                place = 0
            else:
                # A cell more on both sides: rounding may have put the distance into a neighbour.
                cell = int((np.float64(distance) - np.float64(low)) * scale)
                place = starts[max(cell - 1, 0)]
                end = starts[min(cell + 2, cells)]
                while place < end:
                    middle = (place + end) // 2
                    if thresholds[middle] < distance:
                        place = middle + 1
                    else:
                        end = middle
            up_to[place] += 1
            below[place + (thresholds[place] == distance)] += 1
    return number
