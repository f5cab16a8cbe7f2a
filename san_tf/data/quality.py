"""Quality of a crop, from its pixels alone: blank, blurred and noisy pictures have no person to compare."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

# Height and width that crops are judged at, so that the limits below do not depend on their size.
_SIZE = (128, 64)
# Grey levels. Of 600 street crops the flattest had 37; rendered ones have 20 and more.
_BLANK, _FULL_CONTRAST = 8.0, 25.0
# The Laplacian of rounded grey levels varies even where nothing does: 20 / 12.
_ROUNDING = 5 / 3
# Deviation of the Laplacian as a share of the grey levels' deviation. Of 600 street crops the softest had
# 0.56, of 400 rendered ones 0.10; a Gaussian blur of 2 pixels leaves 0.06 to 0.13, one of 3 leaves 0.03 to
# 0.06, and noise has 4.
_BLURRED, _SHARP, _NOISE = 0.06, 0.2, 3.0


class CropQuality(NamedTuple):
    """Quality of a crop.

    Attributes:
        score: 0 for a crop that shows nothing, 1 for a good one.
        problem: half a sentence, such as "is nearly blank"; "" for a crop that can be used.
    """

    score: float
    problem: str


def crop_quality(image: np.ndarray) -> CropQuality:
    """Tell crops that show nothing from others, by contrast and sharpness.

    It finds blank, heavily blurred and noisy pictures. It does not find out whether a sharp picture shows a
    person; a detector does that.

    Args:
        image: `(H, W, 3)` uint8 RGB.

    Example:
        >>> crop_quality(np.zeros((128, 64, 3), np.uint8))
        CropQuality(score=0.0, problem='is nearly blank')
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, _SIZE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    contrast = float(grey.std())
    if contrast < _BLANK:
        return CropQuality(0.0, "is nearly blank")
    detail = float(cv2.Laplacian(grey, cv2.CV_32F).var()) - _ROUNDING
    sharpness = max(detail, 0.0) ** 0.5 / contrast
    if sharpness > _NOISE:
        return CropQuality(0.0, "is noise")
    score = min(contrast / _FULL_CONTRAST, 1.0) * min(sharpness / _SHARP, 1.0)
    return CropQuality(score, "is blurred" if sharpness < _BLURRED else "")
