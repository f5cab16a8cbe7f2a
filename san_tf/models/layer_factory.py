"""The layers of all networks here, each with a name and its own seed."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from san_tf.keras_compat import KERAS_3
from san_tf.losses.identity import AngularMargin


@keras.saving.register_keras_serializable("san_tf")
class ReflectionPadding2D(keras.layers.Layer):
    """Pads all sides with the map's mirror image, without repeating the border row, like PyTorch's layer.

    Args:
        padding: rows and columns per side.
        kwargs: arguments of `keras.layers.Layer`.

    Example:
        >>> ReflectionPadding2D(1)(keras.Input((8, 4, 32))).shape
        (None, 10, 6, 32)
    """

    def __init__(self, padding: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map `(batch, h, w, c)` to `(batch, h + 2 padding, w + 2 padding, c)`."""
        sides = (self.padding, self.padding)
        return tf.pad(x, ((0, 0), sides, sides, (0, 0)), "REFLECT")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Input shape with height and width larger by twice the padding."""
        batch, height, width, channels = input_shape
        more = 2 * self.padding
        return batch, height and height + more, width and width + more, channels

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config() | {"padding": self.padding}


@keras.saving.register_keras_serializable("san_tf")
class CornerAlignedResizing(keras.layers.Layer):
    """Bilinear resize that keeps corner pixels at the corners: PyTorch's `align_corners=True`.

    Args:
        size: output height and width.
        kwargs: arguments of `keras.layers.Layer`.

    Example:
        >>> CornerAlignedResizing((256, 256))(keras.Input((256, 128, 3))).shape
        (None, 256, 256, 3)
    """

    def __init__(self, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = (int(size[0]), int(size[1]))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map `(batch, h, w, c)` to `(batch, *size, c)`."""
        # TensorFlow only has this as a raw operation; tf.image.resize dropped it.
        return tf.raw_ops.ResizeBilinear(
            images=x, size=self.size, align_corners=True, half_pixel_centers=False
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Input shape with height and width replaced by `size`."""
        return input_shape[0], *self.size, input_shape[3]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config() | {"size": self.size}


def _pointwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolve by a 1x1 kernel as a matrix product, whose gradients are matrix products, too."""
    channels, filters = kernel.shape[-2:]
    rows = tf.matmul(tf.reshape(x, (-1, channels)), tf.reshape(kernel, (channels, filters)))
    return tf.reshape(rows, tf.concat([tf.shape(x)[:-1], [filters]], 0))


@keras.saving.register_keras_serializable("san_tf")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, whose 1x1 kernels train faster on processors.

    TensorFlow computes the gradients of every convolution alike. Those of a 1x1 kernel at stride 1 are matrix
    products, which give the gradient of a small map of many channels two to three times faster. Arguments,
    weights and outputs are those of Keras's layer; gradients are equal up to rounding. The class has its
    name, too, because weights files name layers by their class.

    Example:
        >>> Conv2D(16, 1)(keras.Input((8, 4, 32))).shape
        (None, 8, 4, 16)
    """

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map `(batch, h, w, channels)` to `(batch, h', w', filters)`."""
        pointwise = (*self.kernel_size, *self.strides, self.groups) == (1, 1, 1, 1, 1)
        # Exports keep the plain operation, and graphics cards have fast gradients of their own.
        if not (pointwise and training) or tf.config.list_logical_devices("GPU"):
            return super().call(x)
        x = _pointwise(x, tf.cast(tf.convert_to_tensor(self.kernel), x.dtype))
        if self.use_bias:
            x = tf.nn.bias_add(x, tf.cast(tf.convert_to_tensor(self.bias), x.dtype))
        return x if self.activation is None else self.activation(x)


# Row t, column a: 1 if tap a of the 3x3 kernel carries a doubled input pixel to the output row that lies
# t - 1 rows below the first of the pixel's two rows.
SPREAD = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


@keras.saving.register_keras_serializable("san_tf")
class UpConv2D(keras.layers.Layer):
    """Computes `UpSampling2D(2)` and `Conv2D(filters, 3, padding="same")` in one step.

    The 3x3 kernel sees each input pixel as a 2x2 square of equal values. So the two steps are a transposed
    convolution of stride 2, whose 4x4 kernel holds sums of the 3x3 kernel's taps. This needs 4 instead of 9
    products per output value and never stores the doubled map. Weights are those of `Conv2D`; outputs are
    equal up to rounding, borders included.

    Args:
        filters: number of output channels.
        kernel_initializer: initialiser of the `(3, 3, channels, filters)` kernel.
        kwargs: arguments of `keras.layers.Layer`.

    Example:
        >>> UpConv2D(16)(keras.Input((8, 4, 32))).shape
        (None, 16, 8, 16)
    """

    def __init__(self, filters: int, kernel_initializer: Any = "he_normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create kernel and bias."""
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map `(batch, h, w, channels)` to `(batch, 2h, 2w, filters)`."""
        kernel = tf.einsum(
            "ta,ub,abio->tuoi", SPREAD, SPREAD, tf.cast(tf.convert_to_tensor(self.kernel), tf.float32)
        )
        # Static height and width where known, so that later layers know their static shapes, too.
        shape = tf.shape(x)
        height, width = (x.shape[axis] or shape[axis] for axis in (1, 2))
        size = (shape[0], 2 * height, 2 * width, self.filters)
        x = tf.nn.conv2d_transpose(x, tf.cast(kernel, x.dtype), size, strides=2, padding="SAME")
        return tf.nn.bias_add(x, tf.cast(tf.convert_to_tensor(self.bias), x.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape with twice the height and width and `filters` channels."""
        batch, height, width, _ = input_shape
        return batch, height and 2 * height, width and 2 * width, self.filters

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return super().get_config() | {"filters": self.filters, "kernel_initializer": initializer}


# Named like Keras's class on purpose: `.weights.h5` files and configs use the class name.
@keras.saving.register_keras_serializable("san_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with TensorFlow's fused kernel in training.

    Keras 3 normalises in training by some ten operations on whole maps. The fused kernel reads a map twice
    and writes it once, and TensorFlow can join it with a following ReLU. Results are equal up to rounding,
    moving statistics included: these use the variance of the batch, as Keras 3 does, not the kernel's
    unbiased one. Inference, and whatever the kernel does not support (masks, synchronised replicas, inputs
    that are not maps), uses Keras's code.

    Args:
        kwargs: arguments of `keras.layers.BatchNormalization`.

    Example:
        >>> BatchNormalization(momentum=0.9)(keras.Input((8, 4, 32))).shape
        (None, 8, 4, 32)
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """Normalise over all axes but the last; update the moving statistics in training."""
        # Keras 2 already uses its own fused kernel.
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
        # The kernel returns the batch's variance times n / (n - 1), or unscaled for a single pixel.
        variance *= tf.maximum(count - 1.0, 1.0) / count
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs

    def _fusible(self, inputs: tf.Tensor) -> bool:
        maps = len(inputs.shape) == 4 and self.axis in (-1, 3)
        plain = self.scale and self.center and not self.synchronized and not getattr(self, "renorm", False)
        return maps and plain and inputs.dtype in (tf.float32, tf.float16, tf.bfloat16)


@keras.saving.register_keras_serializable("san_tf")
class GeneralizedMeanPooling2D(keras.layers.Layer):
    """GeM pooling: the generalized mean of each channel over the map, with one exponent that is learnt.

    f = (1/N sum_n max(x_n, epsilon)^p)^(1/p) over the N = h w places of a channel. p = 1 is average pooling
    of the values above epsilon; for growing p it becomes max pooling. The exponent learns at the rate and
    with the weight decay of all other weights, as in fast-reid (`GeneralizedMeanPoolingP`).

    Powers are taken of x / max(x), which changes nothing in exact arithmetic, so that no power of a small
    value becomes 0 and no gradient infinite. Give `dtype="float32"` under a mixed precision policy.

    Args:
        p: exponent at the start.
        epsilon: smallest value; what is less counts as this.
        kwargs: of `keras.layers.Layer`.

    Source: Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018,
    section 3.2, equation 3.

    Example:
        >>> GeneralizedMeanPooling2D()(keras.Input((8, 4, 32))).shape
        (None, 32)
    """

    def __init__(self, p: float = 3.0, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_p = p
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the exponent, one for all channels."""
        start = keras.initializers.Constant(self.initial_p)
        self.p = self.add_weight(shape=(1,), initializer=start, name="p")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`(batch, h, w, channels)` to `(batch, channels)`."""
        p = tf.cast(tf.convert_to_tensor(self.p), x.dtype)
        x = tf.maximum(x, tf.cast(self.epsilon, x.dtype))
        # A constant for the gradient too: the pooled value does not depend on what it is divided by.
        largest = tf.stop_gradient(tf.reduce_max(x, axis=(1, 2), keepdims=True))
        mean = tf.reduce_mean(tf.pow(x / largest, p), axis=(1, 2))
        return largest[:, 0, 0] * tf.pow(mean, 1.0 / p)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """One value a channel."""
        return input_shape[0], input_shape[-1]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config() | {"p": self.initial_p, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("san_tf")
class CosineClassifier(keras.layers.Dense):
    """Classifier of directions: `scale` times the cosine of the embedding and each identity's direction.

    `SAN` lowers the own identity's cosine by `margin` in the identity loss, see
    `san_tf.losses.with_margin`; what the layer gives has no margin.

    Args:
        units: identities.
        kind: "arcface" or "cosface", which margin.
        scale: s.
        margin: m.
        kwargs: of `keras.layers.Dense`.

    Example:
        >>> CosineClassifier(100, "arcface", 64.0, 0.5, name="classifier")(keras.Input((512,))).shape
        (None, 100)
    """

    def __init__(self, units: int, kind: AngularMargin, scale: float, margin: float, **kwargs: Any) -> None:
        super().__init__(units, **{**kwargs, "use_bias": False})
        self.kind = kind
        self.scale = scale
        self.margin = margin

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """`(batch, dimensions)` to `(batch, units)`, in [-scale, scale]."""
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), x.dtype)
        directions = tf.math.l2_normalize(kernel, axis=0)
        return self.scale * tf.matmul(tf.math.l2_normalize(x, axis=1), directions)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        own = {"kind": self.kind, "scale": self.scale, "margin": self.margin}
        return super().get_config() | own


@keras.saving.register_keras_serializable("san_tf")
class Channels(keras.layers.Layer):
    """Some channels of a map: `x[..., first:end]`.

    Args:
        first: the first channel.
        end: the one behind the last.
        kwargs: of `keras.layers.Layer`.

    Example:
        >>> Channels(0, 16)(keras.Input((8, 4, 32))).shape
        (None, 8, 4, 16)
    """

    def __init__(self, first: int, end: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = first
        self.end = end

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`(batch, h, w, channels)` to `(batch, h, w, end - first)`."""
        return x[..., self.first : self.end]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The same map with fewer channels."""
        return *input_shape[:-1], self.end - self.first

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config() | {"first": self.first, "end": self.end}


# Pairs of numbers tried for one draw of Beta(a, a). With a = 0.1 98.5 percent of the first pairs do, with
# a = 1 half of them.
_BETA_TRIES = 16


def symmetric_beta(count: int | tf.Tensor, a: float, seed: tf.Tensor) -> tf.Tensor:
    """Draw from Beta(a, a), by Jöhnk's method in logarithms, so that a small `a` does not underflow.

    It consists of operations that XLA compiles, unlike TensorFlow's gamma distribution.

    Args:
        count: number of draws.
        a: both parameters, in (0, 1].
        seed: `(2,)` int32; the same seed gives the same draws.

    Returns:
        `(count,)` float32 in [0, 1].
    """
    uniform = tf.random.stateless_uniform((count, _BETA_TRIES, 2), seed, minval=1e-12, maxval=1.0)
    powers = tf.math.log(uniform) / a
    total = tf.reduce_logsumexp(powers, axis=2)
    # The first pair with u^(1/a) + v^(1/a) <= 1; if there were none, the pair nearest to it.
    fits = tf.cast(total <= 0.0, tf.float32)
    first = tf.argmax(fits - 1e-3 * tf.nn.relu(total), axis=1)
    chosen = tf.one_hot(first, _BETA_TRIES)
    return tf.reduce_sum(chosen * tf.exp(powers[:, :, 0] - total), axis=1)


@keras.saving.register_keras_serializable("san_tf")
class MixStyle(keras.layers.Layer):
    """MixStyle: in training, each image's channels get a mixture of its own and another's mean and deviation.

    The style of a picture, its light and colours, lies in the means and deviations of early feature maps.
    Mixing them shows the network people under cameras that do not exist. With mu and sigma over the places of
    each channel, lambda ~ Beta(alpha, alpha) for each image, and another image of the batch (marked '):

        gamma = lambda sigma + (1 - lambda) sigma',   beta = lambda mu + (1 - lambda) mu',
        x -> gamma (x - mu) / sigma + beta.

    It happens to a whole batch or not at all, and no gradient passes through mu and sigma. Outside of
    training the layer does nothing. It has no weights, so weight files fit networks with and without it.
    Its random numbers follow from the batch itself: a resumed run repeats them.

    Args:
        probability: of a batch to be mixed; the paper has 0.5.
        alpha: of the Beta distribution, in (0, 1]; the paper has 0.1.
        salt: number that gives layers of one network different draws.
        kwargs: of `keras.layers.Layer`.

    Source: Zhou et al., "Domain Generalization with MixStyle", ICLR 2021, equations 3 to 5, and the authors'
    code (unbiased variances, epsilon 1e-6 under the root).

    Example:
        >>> MixStyle(0.5)(keras.Input((8, 4, 32))).shape
        (None, 8, 4, 32)
    """

    def __init__(self, probability: float = 0.5, alpha: float = 0.1, salt: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.probability = probability
        self.alpha = alpha
        self.salt = salt

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """`(batch, h, w, channels)` to the same shape."""
        if not training or not self.probability:
            return x
        values = tf.stop_gradient(tf.cast(x, tf.float32))
        places = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        mean, variance = tf.nn.moments(values, axes=(1, 2), keepdims=True)
        deviation = tf.sqrt(variance * places / tf.maximum(places - 1.0, 1.0) + 1e-6)
        lamda, other, mixed = self.draw(mean)
        gamma = lamda * deviation + (1.0 - lamda) * tf.gather(deviation, other)
        beta = lamda * mean + (1.0 - lamda) * tf.gather(mean, other)
        # One factor and one shift a channel: the map is read and written once.
        factor = tf.where(mixed, gamma / deviation, 1.0)
        shift = tf.where(mixed, beta - gamma / deviation * mean, 0.0)
        return x * tf.cast(factor, x.dtype) + tf.cast(shift, x.dtype)

    def draw(self, mean: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draw the random numbers of a batch.

        Args:
            mean: `(batch, 1, 1, channels)` float32, from which the numbers follow.

        Returns:
            lambda `(batch, 1, 1, 1)` float32; the other image of each `(batch,)` int32, a permutation; and
            whether the batch is mixed, a scalar bool.
        """
        # One image is enough, and a short sum has the same order on any number of cores.
        digest = tf.bitcast(tf.reduce_sum(mean[0]), tf.int32)
        count = tf.shape(mean)[0]
        seeds = [tf.stack([digest, tf.constant(3 * self.salt + use)]) for use in range(3)]
        lamda = symmetric_beta(count, self.alpha, seeds[0])[:, None, None, None]
        other = tf.argsort(tf.random.stateless_uniform((count,), seeds[1]))
        mixed = tf.random.stateless_uniform((), seeds[2]) < self.probability
        return lamda, other, mixed

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        own = {"probability": self.probability, "alpha": self.alpha, "salt": self.salt}
        return super().get_config() | own


Tensor: TypeAlias = "keras.KerasTensor"


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Makes convolutions, batch norms and dense layers, initialised like the public code.

    Convolutions draw from N(0, 2 / fan_out) (He et al. 2015, as torchvision's ResNet), dense layers from
    N(0, 0.01^2), and biases are 0.

    Args:
        seed: seed of the weights. Every layer derives its own seed from it and from the layer's name, so it
            starts with the same weights in any network. None draws new weights each time.
        momentum: momentum of the batch norms' moving statistics as Keras defines it, in [0, 1); 0.9 is
            PyTorch's 0.1. With Keras's default of 0.99 the statistics are useless for several hundred steps.
        epsilon: small number that batch norms add to the variance.
        mixing: probability that a batch's styles are mixed behind the first two stages, see `MixStyle`.

    Example:
        >>> factory = LayerFactory(seed=1)
        >>> factory.conv_bn(keras.Input((8, 4, 3)), 16, 3, name="stem").shape
        (None, 8, 4, 16)
    """

    seed: int | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    mixing: float = 0.0

    def end_of_stage(self, x: Tensor, stage: int) -> Tensor:
        """Return the map of a stage; behind the first and the second, with `MixStyle` if there is mixing.

        Args:
            x: `(batch, h, w, c)`, the last map of the stage.
            stage: 1 to 4.
        """
        if not self.mixing or stage > 2:
            return x
        return MixStyle(self.mixing, salt=stage, name=f"mix_style{stage}")(x)

    def seed_of(self, name: str) -> int | None:
        """Seed of the layer named `name`, or None."""
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
        """Convolve a map that is padded on all sides.

        At stride 2, TensorFlow's "same" pads a map of even size on one side only. PyTorch pads both sides,
        and the field's published weights come from PyTorch.

        Args:
            x: `(batch, h, w, c)`.
            filters: number of output channels.
            size: side of the kernel.
            stride: stride in both directions.
            name: name of the layer.
            bias: whether to add a bias.
            reflect: pad with the map's mirror image instead of zeros.

        Returns:
            `(batch, h / stride, w / stride, filters)`.
        """
        padding = "same"
        if reflect:
            x = ReflectionPadding2D(size // 2, name=f"{name}_pad")(x)
            padding = "valid"
        elif stride > 1 and size > 1:
            x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
            padding = "valid"
        initializer = self.he_normal(name)
        return Conv2D(
            filters, size, stride, padding, use_bias=bias, kernel_initializer=initializer, name=name
        )(x)

    def up_conv(self, x: Tensor, filters: int, *, name: str) -> Tensor:
        """Double a map's size and convolve it, 3x3 with bias: `(batch, 2h, 2w, filters)`."""
        return UpConv2D(filters, self.he_normal(name), name=name)(x)

    def he_normal(self, name: str) -> keras.initializers.Initializer:
        """Initialiser of the convolution named `name`: N(0, 2 / fan_out)."""
        return keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", seed=self.seed_of(name)
        )

    def batch_norm(self, x: Tensor, *, name: str, dtype: str | None = None) -> Tensor:
        """Batch-normalise each channel (the last axis)."""
        return BatchNormalization(momentum=self.momentum, epsilon=self.epsilon, name=name, dtype=dtype)(x)

    def instance_norm(self, x: Tensor, *, name: str) -> Tensor:
        """Normalise each channel of each image over the map, in training and inference alike."""
        return keras.layers.GroupNormalization(groups=-1, epsilon=self.epsilon, name=name)(x)

    def instance_batch_norm(self, x: Tensor, *, name: str) -> Tensor:
        """IBN-a: instance norm `<name>_in` of half of the channels, batch norm `<name>_bn` of the others.

        Source: Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net", ECCV
        2018, section 3.2, figure 3.
        """
        channels = x.shape[-1]
        half = channels // 2
        first = Channels(0, half, name=f"{name}_first")(x)
        rest = Channels(half, channels, name=f"{name}_rest")(x)
        halves = [self.instance_norm(first, name=f"{name}_in"), self.batch_norm(rest, name=f"{name}_bn")]
        return keras.layers.Concatenate(name=f"{name}_ibn")(halves)

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
        ibn: bool = False,
    ) -> Tensor:
        """Apply a convolution, a batch norm and, if wanted, a ReLU.

        Args:
            x: `(batch, h, w, c)`.
            filters: number of output channels.
            size: side of the kernel.
            stride: stride in both directions.
            name: prefix of the layers' names `<name>_conv`, `<name>_bn` and `<name>_relu`.
            relu: whether to apply the ReLU.
            bias: whether the convolution adds a bias.
            ibn: whether half of the channels get an instance norm instead, see `instance_batch_norm`.
        """
        x = self.conv(x, filters, size, stride, name=f"{name}_conv", bias=bias)
        x = self.instance_batch_norm(x, name=name) if ibn else self.batch_norm(x, name=f"{name}_bn")
        return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def cosine_classifier(
        self, x: Tensor, units: int, kind: AngularMargin, scale: float, margin: float, *, name: str
    ) -> Tensor:
        """`CosineClassifier` that starts with the weights of `dense`, in float32."""
        initializer = keras.initializers.RandomNormal(stddev=0.01, seed=self.seed_of(name))
        return CosineClassifier(
            units, kind, scale, margin, kernel_initializer=initializer, name=name, dtype="float32"
        )(x)

    def dense(self, x: Tensor, units: int, *, name: str, bias: bool = True) -> Tensor:
        """Apply a dense layer in float32, because heads are cheap and losses need the precision."""
        initializer = keras.initializers.RandomNormal(stddev=0.01, seed=self.seed_of(name))
        return keras.layers.Dense(
            units, use_bias=bias, kernel_initializer=initializer, name=name, dtype="float32"
        )(x)
