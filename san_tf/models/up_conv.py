"""Nearest-neighbour doubling and a 3x3 convolution in one step, at less than half of the cost."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Row t, column a: does tap a of the 3x3 kernel reach the output pixel t - 1 rows below the doubled pixel's
# first?
SPREAD = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


@keras.saving.register_keras_serializable("san_tf")
class UpConv2D(keras.layers.Layer):
    """What `UpSampling2D(2)` and then `Conv2D(filters, 3, padding="same")` compute, with the same weights.

    Each input pixel is seen by the 3x3 kernel as a 2x2 square of equal values, so the two steps together are
    a transposed convolution of stride 2 whose 4x4 kernel holds sums of the 3x3 kernel's taps: 4 instead of 9
    products an output value, and the doubled map is never written. Equal up to rounding, borders included.

    Args:
        filters: output channels.
        kernel_initializer: of the `(3, 3, channels, filters)` kernel.
        kwargs: of `keras.layers.Layer`.

    Example:
        >>> UpConv2D(16)(keras.Input((8, 4, 32))).shape
        (None, 16, 8, 16)
    """

    def __init__(self, filters: int, kernel_initializer: Any = "he_normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make kernel and bias."""
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`(batch, h, w, channels)` to `(batch, 2h, 2w, filters)`."""
        kernel = tf.einsum(
            "ta,ub,abio->tuoi", SPREAD, SPREAD, tf.cast(tf.convert_to_tensor(self.kernel), tf.float32)
        )
        # Height and width as numbers where they are known, so that the layers behind know theirs.
        shape = tf.shape(x)
        height, width = (x.shape[axis] or shape[axis] for axis in (1, 2))
        size = (shape[0], 2 * height, 2 * width, self.filters)
        x = tf.nn.conv2d_transpose(x, tf.cast(kernel, x.dtype), size, strides=2, padding="SAME")
        return tf.nn.bias_add(x, tf.cast(tf.convert_to_tensor(self.bias), x.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Twice the size, `filters` channels."""
        batch, height, width, _ = input_shape
        return batch, height and 2 * height, width and 2 * width, self.filters

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return super().get_config() | {"filters": self.filters, "kernel_initializer": initializer}
