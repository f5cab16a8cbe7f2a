"""The tensor side of augmentation: does to pixels what `augmentation.plan_augmentation` planned."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from san_tf.data.augmentation import NOISE_MARGIN, AugmentationPlan
from san_tf.data.images import resize_image
from san_tf.normalization import IMAGENET_STD


def move_image(image: tf.Tensor, plan: AugmentationPlan, image_size: tuple[int, int]) -> tf.Tensor:
    """Flip, resize and crop one image.

    Args:
        image: `(height, width, 3)` uint8 or float32 of any size.
        plan: of this image: `flip` scalar, `size` and `crop` (2,).
        image_size: height and width of the result.

    Returns:
        `(*image_size, 3)` float32, in the value range of `image`.
    """
    # Flipped before it is resized, when it is usually smaller; the raw operation takes a tensor for "or not".
    image = tf.raw_ops.Reverse(tensor=image, dims=tf.stack([False, plan.flip, False]))
    image = resize_image(image, plan.size)
    return tf.slice(image, [plan.crop[0], plan.crop[1], 0], [*image_size, 3])


def reduce_resolution(image: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Shrink one image to `scale` of its height and width, antialiased; it will be enlarged again.

    Args:
        image: `(height, width, 3)` uint8.
        scale: scalar float32 in (0, 1].

    Returns:
        `(round(height * scale), round(width * scale), 3)` uint8, at least 8 pixels a side.
    """
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    smaller = tf.cast(tf.round(tf.maximum(size * scale, tf.minimum(size, 8.0))), tf.int32)
    small = tf.image.resize(image, smaller, method="bilinear", antialias=True)
    return tf.cast(tf.round(small), tf.uint8)


def make_noise_tile(seed: int, image_size: tuple[int, int]) -> tf.Tensor:
    """Return noise, a margin larger than the images, from which every image gets its own cut.

    Its standard deviation is one grey level; it is for normalised images, 1 / (255 std) a grey level. Drawing
    fresh noise would cost more than all the rest of the pipeline.
    """
    shape = (image_size[0] + NOISE_MARGIN, image_size[1] + NOISE_MARGIN, 3)
    noise = np.random.default_rng((seed, 4)).standard_normal(shape, np.float32)
    return tf.constant(noise / (255.0 * IMAGENET_STD), tf.float32)


def recolor_image(image: tf.Tensor, color: tf.Tensor) -> tf.Tensor:
    """Apply a colour matrix and clip to 0-255; before an image is enlarged, that is a quarter of the work.

    Args:
        image: `(height, width, 3)` uint8 or float32, 0-255.
        color: `(3, 4)` float32: matrix and shift.

    Returns:
        `(height, width, 3)` float32, 0-255.
    """
    pixels = tf.reshape(tf.cast(image, tf.float32), (-1, 3))
    colored = tf.matmul(pixels, color[:, :3], transpose_b=True) + color[:, 3]
    return tf.reshape(tf.clip_by_value(colored, 0.0, 255.0), tf.shape(image))


def recolor_texture(texture: tf.Tensor, color: tf.Tensor) -> tf.Tensor:
    """Apply a colour matrix `(3, 4)` to a texture `(T, T, 3)` uint8 as `recolor_image` does; stays uint8."""
    return tf.cast(tf.round(recolor_image(texture, color)), tf.uint8)


def erase_box(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Fill a box of one normalised image with 0, the mean.

    One image at a time, because it then is still in the processor's cache: ten times as fast as in a batch.

    Args:
        image: `(H, W, 3)` float32, with static H and W.
        box: `(4,)` int32: top, left, height and width in pixels; 0 x 0 for none.

    Returns:
        `(H, W, 3)` float32.
    """
    height, width = image.shape[0], image.shape[1]
    top, left, box_height, box_width = tf.unstack(box)
    row = tf.range(height)[:, tf.newaxis]
    column = tf.repeat(tf.range(width), 3)[tf.newaxis]
    rows = (row >= top) & (row < top + box_height)
    columns = (column >= left) & (column < left + box_width)
    # A row of pixels is one vector, and the zeros a map, not a scalar: both spare a slow broadcast.
    pixels = tf.reshape(image, (height, width * 3))
    return tf.reshape(tf.where(rows & columns, tf.zeros_like(pixels), pixels), (height, width, 3))


def mirror_texture(texture: tf.Tensor, flat_mirror: tf.Tensor) -> tf.Tensor:
    """Swap left and right of the person: `(T, T, 3)` gathered at `(T * T,)` int32 flat texel indices."""
    return tf.reshape(tf.gather(tf.reshape(texture, (-1, 3)), flat_mirror), tf.shape(texture))


def resize_texture(texture: tf.Tensor, size: int) -> tf.Tensor:
    """Bring a uint8 texture to `(size, size, 3)` uint8: averaged over areas if larger, else bilinear."""
    texture = tf.cond(
        tf.shape(texture)[0] > size,
        lambda: tf.image.resize(texture, (size, size), method="area"),
        lambda: tf.image.resize(texture, (size, size), method="bilinear"),
    )
    return tf.cast(tf.round(texture), tf.uint8)


def scale_texture(texture: tf.Tensor) -> tf.Tensor:
    """Scale a uint8 texture to [-1, 1] float32: texture / 127.5 - 1, in one pass over it."""
    return tf.quantization.dequantize(tf.bitcast(texture, tf.quint8), -1.0, 1.0, mode="MIN_COMBINED")
