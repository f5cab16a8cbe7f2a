"""Measures one query and gallery: ranking, re-ranking, ROC curve and breakdown by camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.feature_set import UNKNOWN, Distances, FeatureSet, rows_per_block
from san_tf.evaluation.options import Measures
from san_tf.evaluation.protocols import ProtocolResult, evaluate_protocol, features_distances
from san_tf.evaluation.ranking import evaluate_ranking
from san_tf.evaluation.reranking import Reranking
from san_tf.evaluation.roc import RocCurve, roc_curve
from san_tf.evaluation.significance import Difference, Interval, as_dict, compare, confidence_intervals
from san_tf.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class CameraPairs(ShortRepr):
    """Scores of each pair of cameras: queries of one, ranked among the images of the other.

    Attributes:
        query_cameras: `(A,)` int64, rising.
        gallery_cameras: `(B,)` int64, rising.
        rank1: `(A, B)` float64 in [0, 1]; NaN where no query has a true match, as for a camera with itself.
        mAP: `(A, B)` likewise.
        queries: `(A, B)` int64: number of queries with a true match.
    """

    query_cameras: np.ndarray
    gallery_cameras: np.ndarray
    rank1: np.ndarray
    mAP: np.ndarray  # the field's name
    queries: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values; None for NaN."""
        return {
            "query_cameras": self.query_cameras.tolist(),
            "gallery_cameras": self.gallery_cameras.tolist(),
            **{
                name: [[None if np.isnan(cell) else cell for cell in row] for row in table.tolist()]
                for name, table in (("rank1", self.rank1), ("mAP", self.mAP))
            },
            "queries": self.queries.tolist(),
        }


def camera_pairs(query: FeatureSet, gallery: FeatureSet, metric: str = "euclidean") -> CameraPairs:
    """Break the scores of the Market-1501 protocol down by camera.

    A mean over all cameras hides one bad camera, for example one that sees only backs. Each pair of query and
    gallery image is compared once, so it costs as much as one evaluation. Images of unknown cameras (-1) are
    left out.

    Args:
        query: Q images.
        gallery: G images.
        metric: "euclidean" or "cosine".

    Raises:
        UserError: all cameras are unknown, or no query has a true match under another camera.

    Example:
        >>> pairs = camera_pairs(query, gallery)
        >>> worst = np.unravel_index(np.nanargmin(pairs.mAP), pairs.mAP.shape)
    """
    asking = np.unique(query.camids[query.camids != UNKNOWN])
    holding = np.unique(gallery.camids[gallery.camids != UNKNOWN])
    if not len(asking) or not len(holding):
        raise UserError("A breakdown by camera needs camids, but all are unknown (-1); give camids.")
    rank1, precision = np.full((2, len(asking), len(holding)), np.nan)
    queries = np.zeros((len(asking), len(holding)), np.int64)
    for column, camera in enumerate(holding):
        seen = gallery.select(gallery.camids == camera)
        # Only queries with a match under this camera: the others are in no mean.
        able = np.isin(query.pids, seen.pids[seen.pids != -1]) & ~np.isin(query.camids, (camera, UNKNOWN))
        if not able.any():
            continue
        here = query.select(able)
        result = evaluate_ranking(
            here.features, here.pids, here.camids, seen.features, seen.pids, seen.camids, metric
        )
        row = np.searchsorted(asking, here.camids)
        number = np.bincount(row, minlength=len(asking))
        queries[:, column] = number
        some = number > 0
        rank1[some, column] = np.bincount(row, result.first_ranks == 1, len(asking))[some] / number[some]
        precision[some, column] = (
            np.bincount(row, result.average_precisions, len(asking))[some] / number[some]
        )
    if not queries.any():
        raise UserError("No query has a true match in the gallery under another camera; check the camids.")
    return CameraPairs(asking, holding, rank1, precision, queries)


# Called with the name of the next step.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Assessment:
    """The results of one evaluation; None for each that was not asked for.

    Attributes:
        result: scores by the protocol.
        intervals: confidence intervals of these scores.
        reranked: scores after re-ranking.
        reranked_intervals: confidence intervals of the re-ranked scores.
        roc: ROC curve over all pairs.
        cameras: scores by pair of cameras.
    """

    result: ProtocolResult
    intervals: dict[str, Interval] | None = None
    reranked: ProtocolResult | None = None
    reranked_intervals: dict[str, Interval] | None = None
    roc: RocCurve | None = None
    cameras: CameraPairs | None = None

    def as_dict(self, far: list[float]) -> dict[str, Any]:
        """Return what `--json` prints; names of re-ranked scores begin with `reranked_`.

        Args:
            far: false accept rates to report.
        """
        values = self.result.as_dict()
        if self.intervals:
            values["intervals"] = as_dict(self.intervals)
        if self.reranked:
            scores = self.reranked.as_dict()
            values.update({f"reranked_{name}": scores[name] for name in ("cmc", "mAP", "mINP")})
            if "spread" in scores:
                values["reranked_spread"] = scores["spread"]
        if self.reranked_intervals:
            values["reranked_intervals"] = as_dict(self.reranked_intervals)
        if self.roc:
            values["roc"] = roc_as_dict(self.roc, far)
        if self.cameras:
            values["cameras"] = self.cameras.as_dict()
        if self.result.notes:
            values["notes"] = list(self.result.notes)
        return values


def assess(query: FeatureSet, gallery: FeatureSet, measures: Measures, say: Say) -> Assessment:
    """Measure prepared features.

    Args:
        query: Q images.
        gallery: G images.
        measures: what to measure.
        say: called with the name of the next step.

    Raises:
        UserError: an impossible value, or features that do not fit the measures.
    """
    measures.check()

    def by_protocol(distances: Distances | None) -> ProtocolResult:
        return evaluate_protocol(
            query, gallery, measures.protocol, measures.metric, measures.repeats, measures.seed, distances
        )

    def intervals(result: ProtocolResult) -> dict[str, Interval] | None:
        if not measures.bootstrap:
            return None
        say("Resampling the queries")
        return confidence_intervals(
            result.per_query,
            result.pids,
            measures.bootstrap,
            measures.level,
            measures.bootstrap_unit,
            measures.seed,
        )

    say("Ranking")
    result = by_protocol(None)
    reranked = None
    if measures.rerank:
        say("Re-ranking")
        reranked = by_protocol(reranked_distances(query, gallery, measures))
    curve = None
    if measures.roc:
        say("Comparing all pairs")
        distances = features_distances(query, gallery, measures.metric, "Comparing all pairs")
        curve = roc_curve(distances, query, gallery, measures.protocol)
    cameras = None
    if measures.cameras:
        say("Ranking by cameras")
        cameras = camera_pairs(query, gallery, measures.metric)
    return Assessment(
        result, intervals(result), reranked, intervals(reranked) if reranked else None, curve, cameras
    )


def differences(first: Assessment, second: Assessment, measures: Measures) -> dict[str, Difference]:
    """Test whether two runs on the same queries differ.

    Args:
        first: the first run.
        second: the second run.
        measures: resamples (2,000 where `bootstrap` is 0), level, unit and seed.

    Raises:
        UserError: the queries are not the same.
    """
    if not np.array_equal(first.result.pids, second.result.pids):
        raise UserError(
            "The two runs have different query identities; give both the same queries in the same order."
        )
    return compare(
        first.result.per_query,
        second.result.per_query,
        first.result.pids,
        measures.bootstrap or 2000,
        measures.level,
        measures.bootstrap_unit,
        measures.seed,
    )


def reranked_distances(query: FeatureSet, gallery: FeatureSet, measures: Measures) -> Distances:
    """Return the distances after k-reciprocal re-ranking.

    Args:
        query: Q images.
        gallery: G images.
        measures: metric, k1, k2 and lambda.

    Raises:
        UserError: a parameter is out of range.
    """
    reranking = Reranking.of(
        query.features, gallery.features, measures.k1, measures.k2, measures.lambda_value, measures.metric
    )
    return lambda: reranking.blocks(rows_per_block(len(gallery)))


def roc_as_dict(curve: RocCurve, far: list[float]) -> dict[str, Any]:
    """The usual numbers of a ROC curve, at the false accept rates `far`."""
    rates = {f"{rate:g}": curve.tar_at(rate) for rate in far}
    return {
        "auc": curve.auc,
        "eer": curve.eer,
        "tar_at_far": {rate: tar for rate, (tar, _) in rates.items()},
        "threshold_at_far": {rate: threshold for rate, (_, threshold) in rates.items()},
        "pairs_same": curve.num_same,
        "pairs_different": curve.num_different,
    }
