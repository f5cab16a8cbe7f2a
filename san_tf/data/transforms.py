"""Applies the plans of `augmentation.plan_augmentation` to the pixels of a batch."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageFilter

from san_tf.data.augmentation import NOISE_MARGIN, AugmentationPlan
from san_tf.data.auto_augment import operated
from san_tf.data.image_kernels import ImageChanges, fill_images, fill_textures
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

# TensorFlow uses an array without a copy if its address is a multiple of this.
_ALIGNMENT = 64
# Free arrays of one size kept for reuse; more are in use only while several trainings run.
_KEPT = 8


class ArrayLender:
    """Lends float32 arrays and reuses their memory once they are released.

    A new array of 25 MB costs as much time as filling it, because the system clears it page by page.

    Example:
        >>> array = ArrayLender().lend((64, 256, 128, 3))
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}

    def lend(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a float32 array of `shape` with arbitrary content."""
        size = math.prod(shape) * np.dtype(np.float32).itemsize
        free = self._free.setdefault(size, [])
        # One atomic operation, because two threads may call this at the same time.
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        loan = _Loan(memory[first : first + size], memory, free)
        return np.asarray(loan).view(np.float32).reshape(shape)


class _Loan:
    """Owner of an array's memory; returns it when the array and all its views are gone."""

    def __init__(self, part: np.ndarray, memory: np.ndarray, free: list[np.ndarray]) -> None:
        self.__array_interface__: dict[str, Any] = part.__array_interface__
        self._memory = memory
        self._free = free

    def __del__(self) -> None:
        if len(self._free) < _KEPT:
            self._free.append(self._memory)


_MEMORY = ArrayLender()


def vary_images(
    pixels: np.ndarray,
    sizes: np.ndarray,
    plan: AugmentationPlan,
    image_size: tuple[int, int],
    noise_tile: np.ndarray | None = None,
) -> np.ndarray:
    """Recolour, flip, resize, crop, normalise, add noise to and erase boxes of images.

    Operations on stored pixels come first: AutoAugment's, mixed amplitudes, blur and JPEG compression.
    Without them the result equals that of `tf.image.resize` (bilinear)
    and `images.normalize_images`, up to rounding.

    Args:
        pixels: `(N, L)` uint8, 0-255; the first 3 h w values of a row are an image of h x w x 3, row by row.
        sizes: `(N, 2)` int32: h and w of each.
        plan: augmentation of N images; `scale` (resolution) and `dye` (texture) are not used here.
        image_size: H and W of the result.
        noise_tile: result of `make_noise_tile`; may be None if no image gets noise.

    Returns:
        `(N, H, W, 3)` float32 normalised.

    Example:
        >>> vary_images(image.reshape(1, -1), np.array([[128, 64]], np.int32), plan, (256, 128)).shape
        (1, 256, 128, 3)
    """
    height, width = image_size
    pixels = _operated_rows(pixels, sizes, plan)
    images = _MEMORY.lend((len(pixels), height, 3 * width))
    scale = np.tile(1.0 / (255.0 * IMAGENET_STD), width).astype(np.float32)
    shift = np.tile(IMAGENET_MEAN / IMAGENET_STD, width).astype(np.float32)
    tile = np.zeros((1, 1, 3), np.float32) if noise_tile is None else noise_tile
    changes = ImageChanges(
        plan.color, plan.flip, plan.size, plan.crop, plan.noise, plan.noise_offset, plan.erased
    )
    fill_images(pixels, sizes, changes, tile, scale, shift, images)
    return images.reshape(len(pixels), height, width, 3)


def _operated_rows(pixels: np.ndarray, sizes: np.ndarray, plan: AugmentationPlan) -> np.ndarray:
    """The pixels of a batch after the operations on stored pixels; the same array where there are none."""
    rows = np.flatnonzero(
        (plan.operations >= 0).any(axis=1) | (plan.amplitude > 0) | (plan.blur > 0) | (plan.quality > 0)
    )
    if not len(rows):
        return pixels

    def stored(row: int, source: np.ndarray) -> np.ndarray:
        height, width = sizes[row]
        return source[row, : 3 * height * width].reshape(height, width, 3)

    result = pixels.copy()
    for row in rows.tolist():
        image = operated(stored(row, pixels), plan.operations[row], plan.strengths[row])
        if plan.amplitude[row] > 0:
            # The other image is as it is stored, whatever happens to it in this batch.
            other = stored(min(int(plan.other[row] * len(pixels)), len(pixels) - 1), pixels)
            image = mixed_amplitudes(image, other, float(plan.amplitude[row]))
        image = degraded(image, float(plan.blur[row]) * len(image) / 128.0, int(plan.quality[row]))
        stored(row, result)[:] = image
    return result


def mixed_amplitudes(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Give an image a share of another's Fourier amplitudes; its phases stay.

    Amplitudes hold much of a picture's style (light, contrast, sharpness), phases its shapes:
    F(x)' = ((1 - share) |F(x)| + share |F(x')|) e^(i arg F(x)), by channel.

    Args:
        image: `(height, width, 3)` uint8.
        other: `(height', width', 3)` uint8; resized if its size differs.
        share: lambda in [0, 1].

    Returns:
        `(height, width, 3)` uint8.

    Source: Xu et al., "A Fourier-based Framework for Domain Generalization" (FACT), CVPR 2021, equations 3
    and 4.

    Example:
        >>> mixed_amplitudes(crop, other_crop, 0.4).shape
        (128, 64, 3)
    """
    if other.shape != image.shape:
        size = (image.shape[1], image.shape[0])
        other = np.asarray(Image.fromarray(other).resize(size, Image.Resampling.BILINEAR))
    spectrum = np.fft.rfft2(image.astype(np.float64), axes=(0, 1))
    amplitude = np.abs(spectrum)
    aimed = (1.0 - share) * amplitude + share * np.abs(np.fft.rfft2(other.astype(np.float64), axes=(0, 1)))
    # An amplitude of 0 has no phase; 0 is that of a positive number.
    phase = np.where(amplitude > 1e-9, spectrum / np.maximum(amplitude, 1e-9), 1.0)
    mixed = np.fft.irfft2(aimed * phase, s=image.shape[:2], axes=(0, 1))
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def degraded(image: np.ndarray, deviation: float, quality: int) -> np.ndarray:
    """Blur an image and compress it as JPEG, with half of the resolution for colours.

    Args:
        image: `(height, width, 3)` uint8.
        deviation: standard deviation of the blur in pixels; 0 for none.
        quality: 1 to 95; 0 for no compression.

    Returns:
        `(height, width, 3)` uint8.
    """
    if deviation <= 0 and quality <= 0:
        return image
    picture = Image.fromarray(image)
    if deviation > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(deviation))
    if quality <= 0:
        return np.asarray(picture)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def vary_textures(
    decoded: np.ndarray, places: np.ndarray, plan: AugmentationPlan, mirror_map: np.ndarray
) -> np.ndarray:
    """Look up the textures of images, mirror them with their images, dye and scale them.

    Args:
        decoded: `(U, T, T, 3)` uint8.
        places: `(N,)` int64: index of each image's texture in `decoded`; -1 for none.
        plan: augmentation of N images; only `flip` and `dye` are used.
        mirror_map: `(T, T, 2)` int: (row, column) of the texel that the mirrored texture shows at each place.

    Returns:
        `(N, T, T, 3)` float32: texture / 127.5 - 1; mid-grey for a missing texture.
    """
    size = decoded.shape[1]
    textures = _MEMORY.lend((len(places), 3 * size * size))
    mirror = (mirror_map[..., 0] * size + mirror_map[..., 1]).ravel().astype(np.int32)
    fill_textures(decoded.reshape(len(decoded), -1), places, plan.flip, plan.dye, mirror, textures)
    return textures.reshape(len(places), size, size, 3)


def make_noise_tile(seed: int, image_size: tuple[int, int]) -> np.ndarray:
    """Return a tile of noise, larger than the images; every image gets its own cut from it.

    The standard deviation is one grey level, in the units of normalised images: 1 / (255 std). Drawing new
    noise for each image would cost more than the rest of the pipeline.
    """
    shape = (image_size[0] + NOISE_MARGIN, image_size[1] + NOISE_MARGIN, 3)
    noise = np.random.default_rng((seed, 4)).standard_normal(shape, np.float32)
    return (noise / (255.0 * IMAGENET_STD)).astype(np.float32)


def reduce_resolution(image: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Shrink one image to `scale` of its height and width, with antialiasing.

    Args:
        image: `(height, width, 3)` uint8.
        scale: scalar float32 in (0, 1]; 1 leaves the image unchanged.

    Returns:
        `(round(height * scale), round(width * scale), 3)` uint8, at least 8 pixels a side.
    """

    def smaller() -> tf.Tensor:
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        new_size = tf.cast(tf.round(tf.maximum(size * scale, tf.minimum(size, 8.0))), tf.int32)
        return tf.cast(
            tf.round(tf.image.resize(image, new_size, method="bilinear", antialias=True)), tf.uint8
        )

    return tf.cond(scale < 1.0, smaller, lambda: tf.identity(image))


def resize_texture(texture: tf.Tensor, size: int) -> tf.Tensor:
    """Resize a uint8 texture to `(size, size, 3)` uint8, by area averages if larger, else bilinearly."""
    texture = tf.cond(
        tf.shape(texture)[0] > size,
        lambda: tf.image.resize(texture, (size, size), method="area"),
        lambda: tf.image.resize(texture, (size, size), method="bilinear"),
    )
    return tf.cast(tf.round(texture), tf.uint8)
