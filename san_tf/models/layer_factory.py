"""The few layers all networks here are made of: named, each with its own seed, one batch-norm setting."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from san_tf.keras_compat import KERAS_3
from san_tf.models.corner_aligned import ReflectionPadding2D

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


# The name is Keras's on purpose: `.weights.h5` files and configs name a layer's place after its class.
@keras.saving.register_keras_serializable("san_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """What `keras.layers.BatchNormalization` computes; in training in one kernel each way.

    Keras 3 writes the training step's normalisation as some ten operations on whole maps. The fused kernel
    reads a map twice and writes it once, and TensorFlow joins a ReLU behind it with it. Equal up to rounding,
    moving statistics included: these keep Keras 3's variance of the batch, not the fused kernel's unbiased
    one. Whatever the kernel does not know (masks, synchronised replicas, inputs that are not maps) goes
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


Tensor: TypeAlias = "keras.KerasTensor"


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Makes convolutions, batch norms and dense layers that are initialised like the public code.

    Convolutions draw from N(0, 2 / fan_out) (He et al. 2015, as torchvision's ResNet), dense layers from
    N(0, 0.01^2), biases are 0.

    Args:
        seed: of the weights; every layer derives its own from it and its name, so that a layer starts with
            the same weights whatever else the network holds. None draws new ones each time.
        momentum: of the batch norms' moving statistics in Keras's sense: 0.9 is PyTorch's 0.1. Keras's
            default of 0.99 needs several hundred steps before the statistics are of any use.
        epsilon: added to the variance.

    Example:
        >>> factory = LayerFactory(seed=1)
        >>> factory.conv_bn(keras.Input((8, 4, 3)), 16, 3, name="stem").shape
        (None, 8, 4, 16)
    """

    seed: int | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    def seed_of(self, name: str) -> int | None:
        """The seed of the layer called `name`."""
        return None if self.seed is None else zlib.crc32(f"{self.seed}:{name}".encode())

    def conv(
        self,
        x: Tensor,
        filters: int,
        size: int,
        stride: int = 1,
        *,
        name: str,
        bias: bool = False,
        reflect: bool = False,
    ) -> Tensor:
        """Convolution, padded on all sides: `(batch, h, w, c)` to `(batch, h / stride, w / stride, filters)`.

        "same" padding of an even-sized map at stride 2 is lopsided in TensorFlow; PyTorch, where the
        published weights of the field come from, pads both sides. `reflect` pads with the map's mirror image
        instead of zeros.
        """
        padding = "same"
        if reflect:
            x = ReflectionPadding2D(size // 2, name=f"{name}_pad")(x)
            padding = "valid"
        elif stride > 1 and size > 1:
            x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
            padding = "valid"
        initializer = self.he_normal(name)
        return keras.layers.Conv2D(
            filters, size, stride, padding, use_bias=bias, kernel_initializer=initializer, name=name
        )(x)

    def up_conv(self, x: Tensor, filters: int, *, name: str) -> Tensor:
        """Doubles the map and convolves it, 3x3 with bias: `(batch, 2h, 2w, filters)`."""
        return UpConv2D(filters, self.he_normal(name), name=name)(x)

    def he_normal(self, name: str) -> keras.initializers.Initializer:
        """The initialiser of the convolution called `name`: N(0, 2 / fan_out)."""
        return keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", seed=self.seed_of(name)
        )

    def batch_norm(self, x: Tensor, *, name: str, dtype: str | None = None) -> Tensor:
        """Batch normalisation over the last axis."""
        return BatchNormalization(momentum=self.momentum, epsilon=self.epsilon, name=name, dtype=dtype)(x)

    def conv_bn(
        self,
        x: Tensor,
        filters: int,
        size: int,
        stride: int = 1,
        *,
        name: str,
        relu: bool = True,
        bias: bool = False,
    ) -> Tensor:
        """Convolution `<name>_conv`, batch norm `<name>_bn` and, if wanted, `<name>_relu`."""
        x = self.conv(x, filters, size, stride, name=f"{name}_conv", bias=bias)
        x = self.batch_norm(x, name=f"{name}_bn")
        return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def dense(self, x: Tensor, units: int, *, name: str, bias: bool = True) -> Tensor:
        """Dense layer, always in float32: heads are cheap, and losses want all digits."""
        initializer = keras.initializers.RandomNormal(stddev=0.01, seed=self.seed_of(name))
        return keras.layers.Dense(
            units, use_bias=bias, kernel_initializer=initializer, name=name, dtype="float32"
        )(x)
