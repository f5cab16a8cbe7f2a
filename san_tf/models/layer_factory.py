"""The few layers all networks here are made of: named, each with its own seed, one batch-norm setting."""

from __future__ import annotations

import dataclasses
import zlib
from typing import TypeAlias

import keras

from san_tf.models.batch_norm import BatchNormalization
from san_tf.models.corner_aligned import ReflectionPadding2D
from san_tf.models.up_conv import UpConv2D

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
