"""All that was asked of one set of features, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.camera_pairs import CameraPairs, camera_pairs
from san_tf.evaluation.feature_set import Distances, FeatureSet, rows_per_block
from san_tf.evaluation.options import Measures
from san_tf.evaluation.protocols import ProtocolResult, evaluate_protocol, features_distances
from san_tf.evaluation.reranking import Reranking
from san_tf.evaluation.roc import RocCurve, roc_curve
from san_tf.evaluation.significance import Difference, Interval, as_dict, compare, confidence_intervals

# Called with what is done next.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Assessment:
    """What was measured; None where it was not asked for.

    Attributes:
        result: by the protocol.
        intervals: of its means.
        reranked: after re-ranking.
        reranked_intervals: of those means.
        roc: over all pairs.
        cameras: by pairs of cameras.
    """

    result: ProtocolResult
    intervals: dict[str, Interval] | None = None
    reranked: ProtocolResult | None = None
    reranked_intervals: dict[str, Interval] | None = None
    roc: RocCurve | None = None
    cameras: CameraPairs | None = None

    def as_dict(self, far: list[float]) -> dict[str, Any]:
        """As `--json` prints it: the re-ranked scores under names that begin with `reranked_`."""
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
    """Measure features.

    Args:
        query: Q images, prepared.
        gallery: G images, prepared.
        measures: what is asked for.
        say: told what is done next.

    Raises:
        UserError: a value that makes no sense, or data that do not fit what is asked.
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
    """Test whether two runs on the same queries differ; with 2,000 resamples where no number was asked for.

    Raises:
        UserError: the queries are not the same.
    """
    if not np.array_equal(first.result.pids, second.result.pids):
        raise UserError(
            "Two runs can be compared on the same queries in the same order only; these identities differ."
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
    """Distances after k-reciprocal re-ranking, by the measures' metric and parameters.

    Raises:
        UserError: a parameter that cannot be.
    """
    reranking = Reranking.of(
        query.features, gallery.features, measures.k1, measures.k2, measures.lambda_value, measures.metric
    )
    return lambda: reranking.blocks(rows_per_block(len(gallery)))


def roc_as_dict(curve: RocCurve, far: list[float]) -> dict[str, Any]:
    """The numbers of a ROC curve that people quote."""
    rates = {f"{rate:g}": curve.tar_at(rate) for rate in far}
    return {
        "auc": curve.auc,
        "eer": curve.eer,
        "tar_at_far": {rate: tar for rate, (tar, _) in rates.items()},
        "threshold_at_far": {rate: threshold for rate, (_, threshold) in rates.items()},
        "pairs_same": curve.num_same,
        "pairs_different": curve.num_different,
    }
