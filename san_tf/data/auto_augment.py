"""AutoAugment's policy of ImageNet: 25 pairs of operations on 8-bit images, one pair drawn for each image.

Which operations an image gets is planned in NumPy, see `augmentation`; Pillow, for which they were defined,
carries them out.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS = (
    "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert", "Color", "Contrast", "Sharpness", "Rotate",
    "ShearX",
)  # fmt: skip
# Operation, its probability and its magnitude, 0 to 9, twice a policy.
POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
# Largest magnitude, reached at 9: a share of the factor, an angle in degrees, a share of the height.
_LARGEST = {"Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9, "Rotate": 30.0, "ShearX": 0.3}
# Uniform numbers for each image: whether, which pair, and whether and the sign of both operations.
DRAWS = 6


def strength(operation: str, magnitude: int, positive: bool) -> float:
    """The argument of an operation: bits kept, a threshold, a change of the factor, degrees or a slope.

    Args:
        operation: one of `OPERATIONS`.
        magnitude: 0 to 9.
        positive: the sign, for operations that have one.
    """
    if operation == "Posterize":
        return 8.0 - round(magnitude / (9 / 4))
    if operation == "Solarize":
        return 256.0 - 256.0 * magnitude / 9
    if operation not in _LARGEST:
        return 0.0
    return (1.0 if positive else -1.0) * _LARGEST[operation] * magnitude / 9


def plan_operations(probability: float, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw two operations for each of n images.

    Args:
        probability: of an image to get a pair.
        draws: `(n, DRAWS)` uniform numbers.

    Returns:
        `(n, 2)` int32 indices into `OPERATIONS`, -1 for none, and `(n, 2)` float32 `strength`.
    """
    chosen = draws[:, 0] < probability
    number = np.minimum((draws[:, 1] * len(POLICY)).astype(np.int64), len(POLICY) - 1)
    done = chosen[:, None] & (draws[:, 2:4] < _PROBABILITIES[number])
    strengths = np.where(draws[:, 4:6] < 0.5, _STRENGTHS[0][number], _STRENGTHS[1][number])
    return np.where(done, _INDICES[number], -1).astype(np.int32), strengths.astype(np.float32)


_INDICES = np.array([[OPERATIONS.index(name) for name, _, _ in pair] for pair in POLICY])
_PROBABILITIES = np.array([[probability for _, probability, _ in pair] for pair in POLICY])
_STRENGTHS = np.array([
    [[strength(name, magnitude, positive) for name, _, magnitude in pair] for pair in POLICY]
    for positive in (True, False)
])  # fmt: skip


def operated(image: np.ndarray, operations: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Apply planned operations to an image, one after the other.

    Rotations are around the centre and slopes from the upper left corner; both keep the size and take the
    nearest pixel, and places from outside of the image are black.

    Args:
        image: `(height, width, 3)` uint8.
        operations: `(2,)` of `plan_operations`.
        strengths: `(2,)` of `plan_operations`.

    Returns:
        `(height, width, 3)` uint8.

    Source: Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019, table 9 and the
    supplement's ranges, as torchvision's `AutoAugment` has them.

    Example:
        >>> operated(image, np.array([OPERATIONS.index("Invert"), -1]), np.zeros(2))
    """
    picture = Image.fromarray(image)
    for index, value in zip(operations, strengths, strict=True):
        if index >= 0:
            picture = _operated(picture, OPERATIONS[index], float(value))
    return np.asarray(picture)


def _operated(picture: Image.Image, operation: str, value: float) -> Image.Image:
    if operation == "Posterize":
        return ImageOps.posterize(picture, int(value))
    if operation == "Solarize":
        return ImageOps.solarize(picture, math.ceil(value))
    if operation == "AutoContrast":
        return ImageOps.autocontrast(picture)
    if operation == "Equalize":
        return ImageOps.equalize(picture)
    if operation == "Invert":
        return ImageOps.invert(picture)
    if operation == "Rotate":
        return picture.rotate(value)
    if operation == "ShearX":
        return picture.transform(picture.size, Image.Transform.AFFINE, (1.0, value, 0.0, 0.0, 1.0, 0.0))
    return getattr(ImageEnhance, operation)(picture).enhance(1.0 + value)
