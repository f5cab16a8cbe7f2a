"""The honest baseline: retrieval by the colours of horizontal stripes, with nothing learnt.

Before deep learning this was the backbone of person re-identification: people wear a dark coat over light
trousers. A trained encoder is worth its price only as far as it beats this.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

_CHUNK = 256


def color_histograms(
    images: np.ndarray | Iterable[np.ndarray], stripes: int = 6, bins: tuple[int, int, int] = (8, 4, 4)
) -> np.ndarray:
    """Describe images by joint HSV histograms of horizontal stripes.

    Pixels count less towards the left and right borders, where the background is. Each stripe's histogram is
    normalised to sum 1, and the square root is taken, so that the Euclidean distance between two descriptions
    is the Hellinger distance between the histograms.

    Args:
        images: `(N, H, W, 3)` uint8 RGB, or an iterable of such batches (all of one H and W), for example
            `inference_dataset(records, (128, 64), normalized=False)`.
        stripes: horizontal stripes of equal height.
        bins: of hue, saturation and value.

    Returns:
        `(N, stripes * prod(bins))` float32 of length 1 each.

    Raises:
        ValueError: there are no images, or they are not uint8 RGB.

    Example:
        >>> color_histograms(np.zeros((2, 128, 64, 3), np.uint8)).shape
        (2, 768)
    """
    batches = [images] if isinstance(images, np.ndarray) else images
    described = [
        _describe(batch[start : start + _CHUNK], stripes, bins)
        for batch in map(np.asarray, batches)
        for start in range(0, len(batch), _CHUNK)
    ]
    if not described:
        raise ValueError("There are no images to describe.")
    return np.concatenate(described)


def _describe(images: np.ndarray, stripes: int, bins: tuple[int, int, int]) -> np.ndarray:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"Images are (N, H, W, 3) uint8. Received: {images.shape} {images.dtype}.")
    number, height, width, _ = images.shape
    # One tall image instead of N: OpenCV converts it in one call. Hue comes as 0-179.
    hsv = cv2.cvtColor(images.reshape(number * height, width, 3), cv2.COLOR_RGB2HSV)
    hsv = hsv.reshape(number, height, width, 3).astype(np.int64)
    cell = (hsv[..., 0] * bins[0] // 180 * bins[1] + hsv[..., 1] * bins[1] // 256) * bins[2]
    cell += hsv[..., 2] * bins[2] // 256
    stripe = np.arange(height) * stripes // height
    cells = int(np.prod(bins))
    group = (np.arange(number)[:, None] * stripes + stripe)[..., None]
    # Gaussian over the width; a person fills about the middle half of a crop.
    position = (np.arange(width) + 0.5) / width - 0.5
    weight = np.broadcast_to(np.exp(-0.5 * (position / 0.22) ** 2), cell.shape)
    counts = np.bincount((group * cells + cell).ravel(), weight.ravel(), number * stripes * cells)
    histograms: np.ndarray = counts.reshape(number, stripes, cells)
    histograms = histograms / (np.maximum(histograms.sum(axis=2, keepdims=True), 1e-12) * stripes)
    return np.sqrt(histograms).reshape(number, -1).astype(np.float32)
