"""Encoded bytes to pixels, and pixels to a network's size: the one way that training and inference share."""

from __future__ import annotations

import tensorflow as tf

from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG or PNG file to RGB; greyscale is repeated to three channels, alpha is dropped.

    JPEGs are decoded with `INTEGER_ACCURATE`, whatever the build's default, so that a pixel does not depend
    on how TensorFlow was compiled.

    Args:
        encoded: scalar string.

    Returns:
        `(height, width, 3)` uint8.

    Raises:
        tf.errors.InvalidArgumentError: the bytes cannot be decoded. `Records` checks its images when it is
            made, so training never meets this.
    """
    # decode_jpeg also takes PNG bytes, and is the cheapest of the decoders that take both.
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(image, (None, None, 3))


def resize_image(image: tf.Tensor, size: tf.Tensor | tuple[int, int]) -> tf.Tensor:
    """Resize bilinearly with half-pixel centres and without antialiasing (`tf.image.resize`'s defaults).

    Re-ID crops are about as large as the network's input or smaller, so antialiasing would change little; the
    plain operation is the one that every server and converter has.

    Args:
        image: `(height, width, 3)` or `(N, height, width, 3)` of any numeric dtype.
        size: height and width wanted, in pixels; may be a tensor.

    Returns:
        float32 of the same rank, in the value range of `image`.
    """
    return tf.image.resize(image, size, method="bilinear")


def normalize_images(images: tf.Tensor) -> tf.Tensor:
    """Normalise `(N, H, W, 3)` float32 images of 0-255 as `san_tf.normalization.normalize` does, but faster.

    A row of pixels is treated as one vector of `3 W` values: multiplying along a last axis of length 3 is
    several times slower on a CPU than along one of a few hundred.

    Args:
        images: `(N, H, W, 3)` float32, 0-255, with static H and W.

    Returns:
        `(N, H, W, 3)` float32.
    """
    height, width = images.shape[1], images.shape[2]
    scale = tf.tile(tf.constant(1.0 / (255.0 * IMAGENET_STD), tf.float32), [width])
    shift = tf.tile(tf.constant(IMAGENET_MEAN / IMAGENET_STD, tf.float32), [width])
    rows = tf.reshape(images, (-1, height, width * 3))
    return tf.reshape(rows * scale - shift, (-1, height, width, 3))
