"""Scores of generated textures: structure, edges, amount of detail and colours, on the body only.

All scores are over the texels of a mask, so that the empty space between the islands of a UV layout does not
count. SSIM is from Wang et al., "Image quality assessment: from error visibility to structural similarity",
IEEE TIP 2004 (Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03). GMSD is from Xue et al., "Gradient
magnitude similarity deviation: a highly efficient perceptual image quality index", IEEE TIP 2014 (Prewitt
gradients of the luminance at half size, c 170): a perceptual score without a trained network.
"""

from __future__ import annotations

import cv2
import numpy as np

from san_tf.errors import UserError

_WINDOW, _SIGMA = (11, 11), 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_GMSD_C = 170.0
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_PREWITT = np.array([[1, 0, -1]] * 3) / 3.0


def ssim(painted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Structural similarity: 1 for equal textures, about 0 for unrelated ones.

    A window's means and variances use only its texels on the mask. Where the whole window lies on the mask,
    they are the paper's. Channels are measured separately and averaged.

    Args:
        painted: `(N, T, T, 3)` generated textures, 0-255.
        true: `(N, T, T, 3)` true textures, 0-255.
        mask: `(T, T)` bool, the texels that count.

    Returns:
        `(N,)` float64 in [-1, 1].

    Raises:
        UserError: shapes do not fit, or the mask is empty.
    """
    _check(painted, true, mask)
    weight = mask.astype(np.float64)
    total = _blurred(weight)[..., None]

    def mean(values: np.ndarray) -> np.ndarray:
        # Values off the mask are not used, so the division by almost 0 there does no harm.
        return _blurred(values * weight[..., None]) / np.maximum(total, 1e-12)

    scores = []
    for pair in zip(painted, true, strict=True):
        first, second = (texture.astype(np.float64) for texture in pair)
        a, b = mean(first), mean(second)
        variance = mean(first**2) + mean(second**2) - a**2 - b**2
        covariance = mean(first * second) - a * b
        similarity = (2 * a * b + _C1) * (2 * covariance + _C2)
        similarity /= (a**2 + b**2 + _C1) * (variance + _C2)
        scores.append(similarity[mask].mean())
    return np.array(scores)


def gmsd(painted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Gradient magnitude similarity deviation: 0 for equal edges; above about 0.2 few edges agree.

    It does not see colours of equal lightness, nor a constant offset of lightness.

    Args:
        painted: `(N, T, T, 3)` generated textures, 0-255.
        true: `(N, T, T, 3)` true textures, 0-255.
        mask: `(T, T)` bool; texels whose gradient reaches off the mask do not count.

    Returns:
        `(N,)` float64, at least 0.

    Raises:
        UserError: shapes do not fit, or no gradient lies wholly on the mask.
    """
    inside = _whole(painted, true, mask)
    return np.array(
        [
            ((2 * a * b + _GMSD_C) / (a**2 + b**2 + _GMSD_C))[inside].std()
            for a, b in zip(map(_gradient, painted), map(_gradient, true), strict=True)
        ]
    )


def detail(painted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean gradient as a share of the true texture's: 1 for as much detail, 0 for none.

    It measures the amount of detail, not whether it is right. Args and errors as in `gmsd`.

    Returns:
        `(N,)` float64; NaN where the true texture has no detail at all.
    """
    inside = _whole(painted, true, mask)
    drawn, wanted = (np.array([_gradient(one)[inside].mean() for one in side]) for side in (painted, true))
    return np.divide(drawn, wanted, out=np.full(len(drawn), np.nan), where=wanted > 0)


def _blurred(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, _WINDOW, _SIGMA, borderType=cv2.BORDER_CONSTANT)


def _halved(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2."""
    rows, columns = len(values) // 2, values.shape[1] // 2
    return values[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))


def _gradient(texture: np.ndarray) -> np.ndarray:
    light = _halved(texture.astype(np.float64) @ _LUMINANCE)
    across, down = (cv2.filter2D(light, cv2.CV_64F, kernel) for kernel in (_PREWITT, _PREWITT.T))
    return np.hypot(across, down)


def _whole(painted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Places at half size whose 3 x 3 neighbours lie wholly on the mask."""
    _check(painted, true, mask)
    whole = (_halved(mask.astype(np.float64)) == 1).astype(np.uint8)
    inside = cv2.erode(whole, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if not inside.any():
        raise UserError("No gradient lies wholly on the mask; use larger textures.")
    return inside


def _check(painted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> None:
    if painted.ndim != 4 or painted.shape != true.shape or painted.shape[1:] != (*mask.shape, 3):
        raise UserError(
            f"Painted and true textures must both be (N, {', '.join(map(str, mask.shape))}, 3), but they are"
            f" {painted.shape} and {true.shape}."
        )
    if not mask.any():
        raise UserError("The mask is empty; give one with at least one texel.")


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
    first, second = (lab_colors(np.asarray(colors, np.float32)) for colors in (first, second))
    return np.linalg.norm(first - second, axis=-1)


def lab_colors(colors: np.ndarray) -> np.ndarray:
    """Convert `(..., 3)` float32 sRGB, 0-255, to CIELAB: lightness 0-100, a and b."""
    flat = np.ascontiguousarray(colors.reshape(1, -1, 3)) / np.float32(255)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(colors.shape)
