"""Takes out of an embedding what is the camera's: its light, its height, its background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from san_tf.evaluation.feature_set import UNKNOWN, FeatureSet

_CHUNK = 4096


def without_camera_bias(sets: Sequence[FeatureSet]) -> list[FeatureSet]:
    """Subtract from each embedding the mean embedding of its camera.

    Images of one camera look alike, and an encoder puts part of that into every embedding: the mean of a
    camera. Subtracted, images of different cameras compare more fairly. It needs no labels but the cameras;
    the means are over all images of all sets, so each camera should have seen many people. Images whose
    camera is unknown (-1) lose the mean of all images.

    Args:
        sets: query and gallery of one encoder, for example.

    Returns:
        The same sets with features float32 (float64 stays); scale them to length 1 again where wanted.

    Example:
        >>> query, gallery = without_camera_bias([query, gallery])
    """
    cameras = np.unique(np.concatenate([item.camids for item in sets]))
    cameras = cameras[cameras != UNKNOWN]
    # The last row collects everything, for unknown cameras.
    sums = np.zeros((len(cameras) + 1, sets[0].features.shape[1]))
    counts = np.zeros(len(cameras) + 1)
    rows = [_rows(item.camids, cameras) for item in sets]
    for item, row in zip(sets, rows, strict=True):
        for start in range(0, len(item), _CHUNK):
            chunk = np.asarray(item.features[start : start + _CHUNK], np.float64)
            member = (row[start : start + _CHUNK] == np.arange(len(cameras))[:, None]).astype(np.float64)
            sums[:-1] += member @ chunk
            sums[-1] += chunk.sum(axis=0)
        counts[:-1] += np.bincount(row[row < len(cameras)], minlength=len(cameras))
        counts[-1] += len(item)
    means = sums / np.maximum(counts, 1)[:, None]
    return [
        item.with_features(_subtracted(item.features, means, row))
        for item, row in zip(sets, rows, strict=True)
    ]


def _rows(camids: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Row of each image's camera in the table of means."""
    return np.where(camids == UNKNOWN, len(cameras), np.searchsorted(cameras, camids))


def _subtracted(features: np.ndarray, means: np.ndarray, row: np.ndarray) -> np.ndarray:
    result = np.empty(features.shape, np.float64 if features.dtype == np.float64 else np.float32)
    for start in range(0, len(result), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        result[chunk] = features[chunk] - means[row[chunk]]
    return result
