"""Perceived difference of two colours."""

from __future__ import annotations

import cv2
import numpy as np


def lab_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Euclidean distance of colours in CIELAB (CIE 1976).

    A distance of about 2 is just visible; black and white are 100 apart.

    Args:
        first: `(..., 3)` sRGB, 0-255.
        second: `(..., 3)` likewise.

    Returns:
        `(...)` float32.

    Example:
        >>> float(lab_distance(np.zeros(3), np.full(3, 255)))
        100.0
    """
    first, second = (_lab(np.asarray(colors, np.float32)) for colors in (first, second))
    return np.linalg.norm(first - second, axis=-1)


def _lab(colors: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(colors.reshape(1, -1, 3)) / np.float32(255)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(colors.shape)
