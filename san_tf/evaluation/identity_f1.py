"""IDF1: how well identities hold over time and cameras (Ristani et al., 2016, arXiv:1609.01775)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np

from san_tf.errors import UserError

# Boxes by frame, then by identity: left, top, width, height in pixels.
Boxes = Mapping[Hashable, Mapping[int, tuple[float, float, float, float]]]


class IdentityScores(NamedTuple):
    """Scores of identities against the truth.

    Attributes:
        idf1: 2 IDTP / (true boxes + found boxes), in [0, 1].
        precision: IDTP / found boxes (IDP).
        recall: IDTP / true boxes (IDR).
        matched: IDTP: boxes whose identity is that of the truth, under the best assignment of identities.
        true: number of true boxes.
        found: number of found boxes.
    """

    idf1: float
    precision: float
    recall: float
    matched: int
    true: int
    found: int


def identity_scores(truth: Boxes, found: Boxes, overlap: float = 0.5) -> IdentityScores:
    """Compare identities with the truth, over all frames of all cameras at once.

    Each true identity is assigned to at most one found identity, so that the most boxes agree: those that
    are in the same frame and overlap enough. Someone with two identities at two cameras agrees at one only.

    Args:
        truth: true boxes, by frame; over several cameras frames are pairs such as `("door", 1)`.
        found: likewise; its identities are any numbers.
        overlap: least intersection over union of boxes that agree, in (0, 1].

    Raises:
        UserError: neither has a box, or `overlap` is out of range.

    Example:
        >>> box = (10.0, 10.0, 20.0, 40.0)
        >>> truth = {("door", 1): {1: box}, ("hall", 9): {1: box}}
        >>> identity_scores(truth, {("door", 1): {5: box}, ("hall", 9): {6: box}}).idf1
        0.5
    """
    from scipy.optimize import linear_sum_assignment

    if not 0 < overlap <= 1:
        raise UserError(f"overlap must be in (0, 1]; received {overlap!r}.")
    true, other = sum(map(len, truth.values())), sum(map(len, found.values()))
    if not true + other:
        raise UserError("Neither the truth nor the answer has a box; give those of the same frames.")
    rows, columns = _places(truth), _places(found)
    agree = np.zeros((len(rows), len(columns)), np.int64)
    for frame, boxes in truth.items():
        others = found.get(frame)
        if boxes and others:
            enough = _overlaps(np.array(list(boxes.values())), np.array(list(others.values()))) >= overlap
            places = np.array([columns[pid] for pid in others])
            for pid, hits in zip(boxes, enough, strict=True):
                agree[rows[pid], places[hits]] += 1
    matched = int(agree[linear_sum_assignment(agree, maximize=True)].sum()) if agree.size else 0
    return IdentityScores(
        2 * matched / (true + other), matched / other if other else 0.0, matched / true if true else 0.0,
        matched, true, other,
    )  # fmt: skip


def _places(boxes: Boxes) -> dict[int, int]:
    """Number all identities."""
    return {pid: place for place, pid in enumerate(sorted({pid for some in boxes.values() for pid in some}))}


def _overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the `(N, M)` intersection over union of boxes, `(N, 4)` and `(M, 4)`."""
    start = np.maximum(one[:, None, :2], other[None, :, :2])
    stop = np.minimum(one[:, None, :2] + one[:, None, 2:], other[None, :, :2] + other[None, :, 2:])
    shared = np.prod(np.clip(stop - start, 0.0, None), axis=2)
    areas = np.prod(one[:, 2:], axis=1)[:, None] + np.prod(other[:, 2:], axis=1)[None, :]
    return np.asarray(shared / np.maximum(areas - shared, 1e-12))
