import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.models import build_decoder, build_encoder
from san_tf.models.osnet import AIN_BLOCKS, OSNETS, norm_at


def names(model):
    return {layer.name for layer in model.layers}


@pytest.fixture(scope="module")
def light():
    return build_encoder("osnet_x0_25", (64, 32, 3), 10, "fc512", weights=None, seed=3)


def test_stages_are_those_the_decoder_needs(light):
    shapes = [stage.shape[1:] for stage in light.output["stages"]]
    assert shapes == [(16, 8, 64), (8, 4, 96), (4, 2, 128), (4, 2, 128)]
    assert light.output["embedding"].shape == (None, 512)
    decoder = build_decoder(shapes, (16, 8, 8, 4, 4), skips=True)
    assert decoder.output["texture"].shape == (None, 64, 64, 3)


def test_one_gate_weighs_the_four_streams_of_a_block(light):
    """Recomputed from the streams: each times sigmoid(W2 relu(W1 mean + b1) + b2), and summed."""
    block = "conv3_block2"
    streams = [light.get_layer(f"{block}_stream{depth}_{depth}_relu").output for depth in range(1, 5)]
    inner = keras.Model(light.input, [*streams, light.get_layer(f"{block}_streams").output])
    image = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    *values, summed = (np.asarray(value) for value in inner(image, training=False))
    squeeze, b1 = light.get_layer(f"{block}_gate_squeeze").get_weights()
    excite, b2 = light.get_layer(f"{block}_gate_excite").get_weights()
    expected = 0
    for value in values:
        hidden = np.maximum(value.mean((1, 2)) @ squeeze[0, 0] + b1, 0)
        gate = 1 / (1 + np.exp(-(hidden @ excite[0, 0] + b2)))
        expected = expected + value * gate[:, None, None]
    np.testing.assert_allclose(summed, expected, atol=1e-5)


def test_instance_norms_stand_where_the_variants_have_them():
    # By the authors' code: IBN behind the sums of the first stage; AIN [in, in], [-, in], [in, -].
    assert [norm_at("ibn", stage, block) for stage in (2, 3, 4) for block in (1, 2)] == ["sum"] * 2 + [
        "none"
    ] * 4
    assert [(stage, block) in AIN_BLOCKS for stage in (2, 3, 4) for block in (1, 2)] == [
        True, True, False, True, True, False,
    ]  # fmt: skip
    ain = build_encoder("osnet_ain_x0_25", (32, 16, 3), 4, "fc512", weights=None)
    assert {"conv1_in", "conv2_block1_in", "conv3_block2_in", "conv4_block1_in"} < names(ain)
    assert "conv2_block1_expand_bn" not in names(ain) and "conv3_block1_expand_bn" in names(ain)
    image = np.random.default_rng(0).normal(size=(2, 32, 16, 3)).astype(np.float32)
    first = keras.Model(ain.input, ain.get_layer("conv1_in").output)(image, training=True)
    # Each channel of each image by itself: mean 0, variance 1, in training too.
    np.testing.assert_allclose(np.mean(first, axis=(1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(np.var(first, axis=(1, 2)), 1, atol=1e-3)


def test_light_convolutions_start_as_the_authors(light):
    kernel = light.get_layer("conv4_block1_stream1_1_depth").get_weights()[0]
    assert kernel.shape == (3, 3, 32, 1)
    # torchreid: N(0, 2 / (9 * channels)), its fan counting all channels.
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.1)


def test_gradients_reach_every_weight(light):
    image = tf.constant(np.random.default_rng(1).normal(size=(4, 64, 32, 3)), tf.float32)
    with tf.GradientTape() as tape:
        output = light(image, training=True)
        loss = tf.reduce_sum(tf.sin(output["logits"])) + tf.reduce_sum(output["embedding"] ** 2)
    for variable, gradient in zip(
        light.trainable_variables, tape.gradient(loss, light.trainable_variables), strict=True
    ):
        assert gradient is not None and np.isfinite(gradient).all(), variable.path


def test_what_osnet_has_not_is_said():
    assert len(OSNETS) == 9
    with pytest.raises(UserError, match="osnet_x1_0 has no stride"):
        build_encoder("osnet_x1_0", (64, 32, 3), 4, weights=None, last_stride=2)
    with pytest.raises(UserError, match="no ImageNet weights for osnet_ain_x0_5"):
        build_encoder("osnet_ain_x0_5", (64, 32, 3), 4, weights="imagenet")
