"""1x1 convolutions whose gradients are matrix products."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import san_tf
from san_tf.models.layer_factory import Conv2D


def pair(policy="float32", **options):
    """A pointwise convolution, and Keras's with the same weights."""
    layers = Conv2D(5, 1, dtype=policy, **options), keras.layers.Conv2D(5, 1, dtype=policy, **options)
    for layer in layers:
        layer.build((None, None, None, 7))
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=weight.shape) for weight in layers[0].get_weights()]
    for layer in layers:
        layer.set_weights(weights)
    return layers


@pytest.mark.parametrize("options", [{"use_bias": False}, {}, {"activation": "relu"}])
@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-5), ("mixed_float16", 2e-2)])
def test_outputs_and_gradients_are_those_of_keras(options, policy, tolerance):
    ours, theirs = pair(policy, **options)
    x = tf.random.stateless_normal((3, 4, 2, 7), (1, 2))
    upstream = tf.random.stateless_normal((3, 4, 2, 5), (3, 4))
    found = []
    for layer in (ours, theirs):
        arguments = {"training": True} if layer is ours else {}
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cast(layer(x, **arguments), tf.float32)
        found.append([y, *tape.gradient(y, [x, *layer.trainable_variables], upstream)])
    assert len(found[0]) == len(found[1]) > 2
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_gradients_inside_a_function_of_any_size_are_matrix_products_and_inference_is_plain():
    layer, theirs = pair()

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 7))])
    def gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(loss, layer.trainable_variables[0])

    inference = tf.function(lambda x: layer(x, training=False)).get_concrete_function(tf.zeros((1, 4, 2, 7)))
    used = {operation.type for operation in gradient.get_concrete_function().graph.get_operations()}
    assert "MatMul" in used and not {"Conv2DBackpropFilter", "Conv2DBackpropInput"} & used
    plain = {operation.type for operation in inference.graph.get_operations()}
    assert "Conv2D" in plain and not {"MatMul", "IdentityN"} & plain
    x = tf.random.stateless_normal((2, 6, 3, 7), (5, 6))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(theirs(x) ** 2)
    expected = tape.gradient(loss, theirs.trainable_variables[0])
    np.testing.assert_allclose(gradient(x), expected, rtol=1e-4, atol=1e-4)


def test_it_is_saved_and_loaded(tmp_path):
    image = keras.Input((4, 2, 7))
    model = keras.Model(image, Conv2D(5, 1, use_bias=False, name="point")(image))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(2, 4, 2, 7)).astype(np.float32)
    assert type(loaded.get_layer("point")) is Conv2D
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "thin_resnet"])
def test_all_convolutions_of_a_network_are_of_this_class(backbone):
    encoder = san_tf.build_encoder(backbone, (32, 16, 3), 3, weights=None)
    convolutions = [layer for layer in encoder.layers if type(layer).__name__ == "Conv2D"]
    assert len(convolutions) > 10 and all(type(layer) is Conv2D for layer in convolutions)
