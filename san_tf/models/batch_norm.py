"""Batch normalisation that trains with TensorFlow's fused kernels, as Keras 2 did and Keras 3 does not."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from san_tf.keras_compat import KERAS_3


# The name is Keras's on purpose: `.weights.h5` files and configs name a layer's place after its class.
@keras.saving.register_keras_serializable("san_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """What `keras.layers.BatchNormalization` computes; in training in one kernel each way.

    Keras 3 writes the training step's normalisation as some ten operations on whole maps. The fused kernel
    reads a map twice and writes it once, and TensorFlow joins a ReLU behind it with it. Equal up to rounding,
    moving statistics included: these keep Keras 3's variance of the batch, not the fused kernel's unbiased
    one. Whatever the kernel does not know (masks, synchronised replicas, inputs that are no maps) goes
    Keras's way, as does inference.

    Args:
        kwargs: of `keras.layers.BatchNormalization`.

    Example:
        >>> BatchNormalization(momentum=0.9)(keras.Input((8, 4, 32))).shape
        (None, 8, 4, 32)
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """Normalise over all axes but the last; update the moving statistics in training."""
        # Keras 2 is fused by itself, in its own way: nothing to mend.
        if not (KERAS_3 and training and self.trainable and mask is None and self._fusible(inputs)):
            return super().call(inputs, training=training, mask=mask)
        size = tf.size(inputs, out_type=tf.int64) // inputs.shape[-1]
        count = tf.cast(size, tf.float32)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel's is n / (n - 1) of the batch's; of a single pixel, the batch's.
        variance *= tf.maximum(count - 1.0, 1.0) / count
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs

    def _fusible(self, inputs: tf.Tensor) -> bool:
        maps = len(inputs.shape) == 4 and self.axis in (-1, 3)
        plain = self.scale and self.center and not self.synchronized and not getattr(self, "renorm", False)
        return maps and plain and inputs.dtype in (tf.float32, tf.float16, tf.bfloat16)
