"""L_Rec: how far the painted texture is from its target."""

from __future__ import annotations

import tensorflow as tf


def reconstruction_loss(texture: tf.Tensor, painted: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Mean absolute difference of painted and target texture, averaged over the rows that have a target.

    Args:
        texture: `(batch, size, size, 3)` targets in [-1, 1]; rows of weight 0 may hold any finite values.
        painted: the decoder's, same shape, any float dtype; computed in float32.
        weight: `(batch,)`, 1 where a target exists, else 0; values between weigh a doubtful target down.

    Returns:
        float32 scalar in the textures' unit (2 = black against white); 0 if all weights are 0.

    Source: Jin et al., AAAI 2020, reconstruction loss L_Rec.

    Example:
        >>> target = tf.ones((2, 4, 4, 3))
        >>> float(reconstruction_loss(target, tf.zeros((2, 4, 4, 3)), tf.constant([1.0, 0.0])))
        1.0
    """
    difference = tf.abs(tf.cast(painted, tf.float32) - tf.cast(texture, tf.float32))
    weight = tf.cast(weight, tf.float32)
    each = tf.reduce_mean(difference, axis=(1, 2, 3))
    return tf.math.divide_no_nan(tf.reduce_sum(each * weight), tf.reduce_sum(weight))
