"""Scores by pair of query camera and gallery camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.feature_set import UNKNOWN, FeatureSet
from san_tf.evaluation.ranking import evaluate_ranking
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
