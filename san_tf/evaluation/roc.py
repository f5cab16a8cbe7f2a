"""Exact ROC curve of "same person or not?" over all pairs, in bounded memory.

A test of Market-1501's size has 50 million pairs, a city's has billions, nearly all of different people. They
need not be kept: the curve rises only at distances of *same*-person pairs, so it is enough to know how many
different-person pairs lie below each of those. The few same-person distances are sorted once. The others are
counted block by block, on all cores, without bins or samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation import ranking_kernels as kernels
from san_tf.evaluation.counted_pairs import cameras_of_pairs
from san_tf.evaluation.feature_set import Distances, FeatureSet
from san_tf.evaluation.threads import finish_blocks, ranges
from san_tf.evaluation.true_matches import TrueMatches
from san_tf.resources import core_count
from san_tf.short_repr import ShortRepr

# Number of cells of equal width over the range of thresholds.
_CELLS = 2**16


@dataclass(frozen=True, repr=False)
class RocCurve(ShortRepr):
    """Accepted pairs at each threshold: a pair is accepted if its distance is at most the threshold.

    Attributes:
        thresholds: `(T,)` distinct distances of same-person pairs, rising. No other threshold gives a better
            point.
        true_accepts: `(T,)` int64 same-person pairs accepted.
        false_accepts: `(T,)` int64 different-person pairs accepted.
        false_below: `(T,)` int64 different-person pairs strictly below the threshold.
        num_same: number of same-person pairs.
        num_different: number of different-person pairs.
    """

    thresholds: np.ndarray
    true_accepts: np.ndarray
    false_accepts: np.ndarray
    false_below: np.ndarray
    num_same: int
    num_different: int

    @property
    def tar(self) -> np.ndarray:
        """`(T,)` true accept rate, in (0, 1]."""
        return self.true_accepts / self.num_same

    @property
    def far(self) -> np.ndarray:
        """`(T,)` false accept rate, in [0, 1]."""
        return self.false_accepts / self.num_different

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return false and true accept rates at the curve's corners, each `(2T + 2,)`, from 0 to 1.

        Between two thresholds only the false accepts grow. At a threshold, ties make both grow along a
        straight line.
        """
        false = np.empty(2 * len(self.thresholds) + 2)
        true = np.empty_like(false)
        false[0] = true[0] = 0.0
        true[1:-1:2] = np.concatenate([[0], self.true_accepts[:-1]]) / self.num_same
        true[2:-1:2] = self.tar
        false[1:-1:2] = self.false_below / self.num_different
        false[2:-1:2] = self.far
        false[-1] = true[-1] = 1.0
        return false, true

    @property
    def auc(self) -> float:
        """Area under the curve: how often a same-person pair is nearer than another; ties count half."""
        false, true = self.points()
        return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))

    @property
    def eer(self) -> float:
        """Equal error rate: the rate where false accepts and false rejects are equal, in [0, 1]."""
        false, true = self.points()
        excess = false - (1 - true)  # rises from -1 to 1
        after = int(np.argmax(excess >= 0))
        step = excess[after] - excess[after - 1]
        share = -excess[after - 1] / step
        return float(false[after - 1] + share * (false[after] - false[after - 1]))

    def tar_at(self, far: float) -> tuple[float, float | None]:
        """Return the highest true accept rate with a false accept rate of at most `far`.

        Returns:
            The rate and its threshold; 0 and None if no threshold keeps `far`.
        """
        # Compare counts, not rates: rounding must not put 3 / 30000 above 1e-4.
        allowed = np.floor(far * self.num_different * (1 + 1e-12))
        within = int(np.searchsorted(self.false_accepts, allowed, side="right"))
        if not within:
            return 0.0, None
        return float(self.tar[within - 1]), float(self.thresholds[within - 1])


def roc_curve(
    distances: Distances, query: FeatureSet, gallery: FeatureSet, protocol: str = "market"
) -> RocCurve:
    """Measure how well distances separate same-person pairs from others.

    It reads all distances twice: for the same-person pairs, then for the others. It needs memory for one
    block and some 40 bytes per same-person pair.

    Args:
        distances: yields the same blocks on each call.
        query: Q images; only identities and cameras are used.
        gallery: G images likewise.
        protocol: which pairs count, see `san_tf.evaluation.counted_pairs`.

    Raises:
        UserError: there are no pairs of the same person, or none of different people.

    Example:
        >>> curve = roc_curve(features_distances(query, gallery), query, gallery)
        >>> f"TAR {curve.tar_at(1e-3)[0]:.1%} at FAR 0.1 %, EER {curve.eer:.2%}"
        'TAR 91.3 % at FAR 0.1 %, EER 2.41%'
    """
    query_camids, gallery_camids = cameras_of_pairs(query, gallery, protocol)
    sought = TrueMatches.of(query.pids, query_camids, len(query), gallery.pids, gallery_camids, len(gallery))
    same_person = []
    for start, block in distances():
        bounds = sought.bounds[start : start + len(block) + 1]
        rows = np.repeat(np.arange(len(block)), np.diff(bounds))
        same_person.append(block[rows, sought.matches[bounds[0] : bounds[-1]]])
    thresholds, counts = np.unique(
        np.concatenate(same_person) if same_person else np.empty(0), return_counts=True
    )
    if not len(thresholds):
        raise UserError(
            "No pair of query and gallery image counts as the same person; check that query and gallery "
            "belong together and that cameras differ."
        )
    up_to, below, num_different = _count_others(distances, sought, thresholds, protocol == "cross-camera")
    if not num_different:
        raise UserError("No pair counts as different people, but a ROC curve needs both kinds; add people.")
    return RocCurve(thresholds, np.cumsum(counts), up_to, below, int(counts.sum()), num_different)


def _count_others(
    distances: Distances, sought: TrueMatches, thresholds: np.ndarray, other_cameras_only: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Count the different-person pairs up to each threshold, strictly below it, and in all."""
    cells = kernels.ThresholdCells(thresholds, *_cell_starts(thresholds))
    totals = np.zeros((2, len(thresholds) + 1), np.int64)
    num_different = 0
    for first, block in distances():
        counted: list[tuple[int, np.ndarray]] = []

        def count(
            span: tuple[int, int],
            first: int = first,
            block: np.ndarray = block,
            counted: list[tuple[int, np.ndarray]] = counted,
        ) -> None:
            own = np.zeros((2, len(thresholds) + 1), np.int64)
            rows = slice(first + span[0], first + span[1])
            ids = kernels.PairIds(
                sought.query_pids[rows], sought.query_camids[rows],
                sought.gallery_pids, sought.gallery_camids, other_cameras_only,
            )  # fmt: skip
            number = kernels.count_others(block[slice(*span)], ids, cells, own[0], own[1])
            counted.append((number, own))

        finish_blocks(count, ranges(len(block), -(-len(block) // core_count())))
        for number, own in counted:
            num_different += number
            totals += own
    up_to, below = np.cumsum(totals, axis=1)[:, :-1]
    return up_to, below, num_different


def _cell_starts(thresholds: np.ndarray) -> tuple[np.ndarray, float]:
    """Cut the thresholds' range into cells of equal width, to find the thresholds around a distance fast.

    Args:
        thresholds: `(T,)` rising.

    Returns:
        `(_CELLS + 1,)` int64 thresholds below each cell's lower edge, and the cells per unit of distance.
    """
    low, high = float(thresholds[0]), float(thresholds[-1])
    width = (high - low) / _CELLS or 1.0
    edges = low + width * np.arange(_CELLS + 1)
    starts = np.searchsorted(thresholds.astype(np.float64), edges)
    starts[-1] = len(thresholds)
    return starts, 1.0 / width
