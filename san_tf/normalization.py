"""The one image normalisation of the package: RGB, ImageNet mean and standard deviation.

Every backbone gets images with this normalisation. Weights trained with another one are converted when they
are loaded. So a deployment needs only this normalisation. Textures are scaled to [-1, 1].
"""

from __future__ import annotations

import numpy as np

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalize(image, dtype: str = "float32"):  # type: ignore[no-untyped-def]  # NumPy array or tensor, same back
    """Normalise RGB values of 0-255 to zero mean and unit variance over ImageNet.

    Args:
        image: `(..., 3)` NumPy array or tensor of any numeric dtype whose `astype`/cast gives float32; a
            tensor must be float32 already.
        dtype: dtype of the result for NumPy arrays.

    Returns:
        `(..., 3)` float32: `(image / 255 - mean) / std`.

    Example:
        >>> normalize(np.zeros((256, 128, 3), np.uint8)).mean().round(2)
        -2.04
    """
    if isinstance(image, np.ndarray):
        image = image.astype(dtype)
    # One multiplication and one subtraction per value, instead of two divisions and a subtraction.
    return image * (1.0 / (255.0 * IMAGENET_STD)) - IMAGENET_MEAN / IMAGENET_STD


def denormalize(image: np.ndarray) -> np.ndarray:
    """Undo `normalize`: `(..., 3)` float32 to uint8 RGB of 0-255, clipped and rounded."""
    pixels = (np.asarray(image, np.float32) * IMAGENET_STD + IMAGENET_MEAN) * 255.0
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def texture_to_uint8(texture: np.ndarray) -> np.ndarray:
    """Turn a texture in [-1, 1] into uint8 RGB of 0-255, clipped and rounded; any shape `(..., 3)`."""
    return np.clip(np.rint((np.asarray(texture, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)
