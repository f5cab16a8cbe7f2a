"""The fused batch norm against Keras's own, whose arithmetic is plain operations, and by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.models.layer_factory import BatchNormalization

SHAPE = (4, 6, 5, 8)


def trained(layer: keras.layers.Layer, x: np.ndarray, upstream: np.ndarray) -> list[np.ndarray]:
    """Output, gradients of input, gamma and beta, and moving statistics, after a step in training."""
    layer.build(x.shape)
    channels = x.shape[-1]
    layer.gamma.assign(np.linspace(0.5, 2.0, channels))
    layer.beta.assign(np.linspace(-1.0, 1.0, channels))
    layer.moving_mean.assign(np.linspace(0.0, 1.0, channels))
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        total = tf.reduce_sum(outputs * tf.cast(upstream, outputs.dtype))
    gradients = tape.gradient(total, [inputs, *layer.trainable_variables])
    moving = [layer.moving_mean, layer.moving_variance]
    return [tf.cast(tf.convert_to_tensor(v), tf.float32).numpy() for v in (outputs, *gradients, *moving)]


def drawn(shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = 3.0 * rng.standard_normal(shape, np.float32) + rng.standard_normal(shape[-1]).astype(np.float32)
    return x, rng.standard_normal(shape, np.float32)


@pytest.mark.parametrize("shape", [SHAPE, (2, 1, 1, 3), (16, 8)])
def test_equals_the_layer_of_keras(shape: tuple[int, ...]) -> None:
    x, upstream = drawn(shape)
    ours = trained(BatchNormalization(momentum=0.9, epsilon=1e-5), x, upstream)
    keras_own = trained(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5), x, upstream)
    for own, other in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=2e-5)


def test_moving_statistics_by_hand() -> None:
    """Values 1, 3, 5, 7: mean 4, variance (9 + 1 + 1 + 9) / 4 = 5; of the old 0 and 1, nine tenths stay."""
    if keras.__version__.startswith("2."):
        pytest.skip("Keras 2 keeps the unbiased variance, 20 / 3.")
    layer = BatchNormalization(momentum=0.9)
    layer(tf.reshape(tf.constant([1.0, 3.0, 5.0, 7.0]), (1, 2, 2, 1)), training=True)
    np.testing.assert_allclose(layer.get_weights()[2:], [[0.4], [1.4]], rtol=1e-6)


def test_one_pixel_has_no_variance() -> None:
    layer = BatchNormalization(momentum=0.5)
    outputs = layer(tf.fill((1, 1, 1, 2), 7.0), training=True)
    np.testing.assert_array_equal(outputs, np.zeros((1, 1, 1, 2)))
    np.testing.assert_allclose(layer.get_weights()[2:], [[3.5, 3.5], [0.5, 0.5]])


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_16_bit_inputs_have_float32_statistics(dtype: str) -> None:
    """Values about 300, whose squares float16 cannot hold."""
    x, upstream = drawn()
    x += 300.0
    half = tf.cast(x, dtype.removeprefix("mixed_")).numpy()
    ours = trained(BatchNormalization(dtype=dtype, epsilon=1e-5), half, upstream)
    exact = trained(keras.layers.BatchNormalization(epsilon=1e-5), half.astype(np.float32), upstream)
    np.testing.assert_allclose(ours[0], exact[0], rtol=0.01, atol=0.02)
    np.testing.assert_allclose(ours[-2], exact[-2], rtol=1e-5)
    np.testing.assert_allclose(ours[-1], exact[-1], rtol=1e-3)


def test_frozen_uses_and_keeps_its_moving_statistics() -> None:
    layer = BatchNormalization()
    layer.build(SHAPE)
    layer.trainable = False
    before = layer.get_weights()
    x, _ = drawn()
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1.001), rtol=1e-5)
    np.testing.assert_array_equal(layer.get_weights(), before)


def test_comes_back_from_its_config() -> None:
    layer = BatchNormalization(momentum=0.7, name="norm")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, BatchNormalization)
    assert again.get_config() == layer.get_config()


def test_a_step_is_one_kernel_each_way() -> None:
    if keras.__version__.startswith("2."):
        pytest.skip("Keras 2 chooses its own kernels.")
    layer = BatchNormalization()
    layer.build(SHAPE)

    @tf.function
    def step(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = tf.reduce_sum(layer(x, training=True) ** 3)
        return tape.gradient(outputs, [x])

    kinds = {node.type for node in step.get_concrete_function(tf.TensorSpec(SHAPE)).graph.get_operations()}
    assert {"FusedBatchNormV3", "FusedBatchNormGradV3"} <= kinds
    assert "SquaredDifference" not in kinds
