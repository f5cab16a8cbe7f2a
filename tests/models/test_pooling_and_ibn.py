"""GeM pooling and IBN-a: against loops in NumPy written from the papers' formulas, and through files."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.forms import facts_of
from san_tf.models import SAN, build_encoder
from san_tf.models.layer_factory import Channels, GeneralizedMeanPooling2D, LayerFactory
from san_tf.models.pretrained import load_body


def naive_gem(x, p, epsilon=1e-6):
    """(1/N sum max(x, eps)^p)^(1/p), place by place, in float64."""
    pooled = np.zeros((x.shape[0], x.shape[3]))
    for n, c in np.ndindex(pooled.shape):
        total = 0.0
        for value in x[n, :, :, c].ravel():
            total += max(float(value), epsilon) ** p
        pooled[n, c] = (total / (x.shape[1] * x.shape[2])) ** (1.0 / p)
    return pooled


def maps():
    x = np.random.default_rng(0).normal(0.5, 1.0, (2, 4, 3, 5)).astype(np.float32)
    x[0, :, :, 0] = -1.0  # a channel without any value above epsilon
    return x


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_is_its_formula_and_so_are_its_slopes(p):
    layer, x = GeneralizedMeanPooling2D(p=p), tf.constant(maps())
    with tf.GradientTape() as tape:
        tape.watch(x)
        pooled = layer(x)
        total = tf.reduce_sum(pooled)
    np.testing.assert_allclose(pooled, naive_gem(maps(), p), rtol=1e-5)
    slope_x, slope_p = tape.gradient(total, [x, layer.trainable_variables[0]])
    assert np.isfinite(slope_x).all() and np.abs(slope_x[1]).max() > 0

    def at(x, p):
        return naive_gem(x, p).sum()

    step = 1e-5
    slope = (at(maps(), p + step) - at(maps(), p - step)) / 2 / step
    assert float(slope_p[0]) == pytest.approx(slope, rel=1e-3)
    wide = maps().astype(np.float64)
    for place in [(1, 0, 0, 0), (1, 2, 1, 4), (0, 3, 2, 0)]:
        up, down = wide.copy(), wide.copy()
        up[place] += step
        down[place] -= step
        assert float(slope_x[place]) == pytest.approx((at(up, p) - at(down, p)) / 2 / step, abs=1e-5)


def test_gem_starts_at_3_is_average_pooling_for_1_and_near_the_maximum_for_large_p():
    x = np.abs(maps()) + 0.01
    assert [v.numpy().tolist() for v in build(GeneralizedMeanPooling2D()).weights] == [[3.0]]
    np.testing.assert_allclose(GeneralizedMeanPooling2D(p=1.0)(x), x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(GeneralizedMeanPooling2D(p=400.0)(x), x.max((1, 2)), rtol=0.01)


def build(layer):
    layer.build((None, 4, 3, 5))
    return layer


@pytest.mark.parametrize("value", [0.0, 1e-4, 6e4])
def test_gem_of_the_ends_of_float16_is_finite(value):
    layer = GeneralizedMeanPooling2D(p=8.0, dtype="float32")
    x = tf.fill((1, 4, 3, 2), tf.constant(value, tf.float16))
    with tf.GradientTape() as tape:
        tape.watch(x)
        pooled = layer(x)
        total = tf.reduce_sum(pooled)
    assert pooled.dtype == tf.float32
    np.testing.assert_allclose(pooled, max(float(np.float16(value)), 1e-6), rtol=1e-4)
    slopes = tape.gradient(total, [x, layer.trainable_variables[0]])
    assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.fixture(scope="module")
def encoder():
    encoder = build_encoder("thin_resnet_ibn", (32, 16, 3), 5, "bnneck", weights=None, seed=1, pooling="gem")
    encoder.get_layer("pool").set_weights([np.array([2.5], np.float32)])
    return encoder


IMAGES = np.random.default_rng(1).normal(size=(4, 32, 16, 3)).astype(np.float32)


def test_the_encoder_pools_by_gem(encoder):
    output = encoder(IMAGES, training=False)
    np.testing.assert_allclose(output["feature"], naive_gem(output["stages"][3].numpy(), 2.5), rtol=1e-4)
    assert facts_of(encoder)["pooling"] == "gem"
    assert facts_of(build_encoder("thin_resnet", (32, 16, 3), 5, weights=None))["pooling"] == "avg"
    with pytest.raises(UserError, match="Unknown pooling 'max'; choose one of avg, gem"):
        build_encoder("thin_resnet", (32, 16, 3), 5, weights=None, pooling="max")


def same(one, other):
    theirs = other(IMAGES, training=False)
    for name, value in one(IMAGES, training=False).items():
        if name != "stages":
            np.testing.assert_allclose(value, theirs[name], atol=1e-6)


def test_they_go_through_files_clones_and_pickles(encoder, tmp_path):
    encoder.save(tmp_path / "x.keras")
    same(encoder, keras.models.load_model(tmp_path / "x.keras"))
    encoder.save_weights(tmp_path / "x.weights.h5")
    arguments = {"head": "bnneck", "weights": tmp_path / "x.weights.h5", "pooling": "gem"}
    same(encoder, build_encoder("thin_resnet_ibn", (32, 16, 3), 5, **arguments))
    clone = keras.models.clone_model(encoder)
    clone.set_weights(encoder.get_weights())
    same(encoder, clone)
    same(encoder, pickle.loads(pickle.dumps(encoder)))
    # Other identities: the exponent comes along.
    body = build_encoder("thin_resnet_ibn", (32, 16, 3), 9, "bnneck", weights=None, pooling="gem")
    load_body(body, tmp_path / "x.weights.h5")
    assert body.get_layer("pool").get_weights()[0].tolist() == [2.5]
    with pytest.raises(UserError, match="pooling='gem'"):
        build_encoder("thin_resnet_ibn", (32, 16, 3), 5, **arguments | {"pooling": "avg"})
    with pytest.raises(UserError, match=r"thin_resnet_ibn|stage1_1|does not fit|weights of a network"):
        build_encoder("thin_resnet", (32, 16, 3), 5, **arguments)


def test_both_learn_and_the_exponent_moves(encoder):
    model = SAN(keras.models.clone_model(encoder))
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    before = model.encoder.get_layer("pool").get_weights()[0]
    batch = {"image": tf.constant(IMAGES), "label": tf.constant([0, 0, 1, 1])}
    model.train_step(batch)
    assert not np.array_equal(before, model.encoder.get_layer("pool").get_weights()[0])
    assert not np.array_equal(
        encoder.get_layer("stage1_1_in").get_weights()[1],
        model.encoder.get_layer("stage1_1_in").get_weights()[1],
    )


def test_ibn_is_instance_norm_of_one_half_and_batch_norm_of_the_other():
    rng = np.random.default_rng(2)
    image = keras.Input((5, 4, 6))
    model = keras.Model(image, LayerFactory(0).instance_batch_norm(image, name="x"))
    x = rng.normal(1, 2, (3, 5, 4, 6)).astype(np.float32)
    scales = [rng.uniform(0.5, 2, (3,)).astype(np.float32) for _ in range(6)]
    model.get_layer("x_in").set_weights(scales[:2])
    model.get_layer("x_bn").set_weights(scales[2:])
    for training in (False, True):
        expected = np.zeros_like(x)
        for n, c in np.ndindex(3, 3):
            values = x[n, :, :, c]
            expected[n, :, :, c] = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
            expected[n, :, :, c] = expected[n, :, :, c] * scales[0][c] + scales[1][c]
        for c in range(3):
            values = x[..., 3 + c]
            mean, variance = (values.mean(), values.var()) if training else (scales[4][c], scales[5][c])
            normed = (values - mean) / np.sqrt(variance + 1e-5)
            expected[..., 3 + c] = normed * scales[2][c] + scales[3][c]
        np.testing.assert_allclose(model(x, training=training), expected, atol=1e-4)


def test_ibn_stands_in_the_first_norm_of_every_block_of_the_first_three_stages():
    plain = build_encoder("resnet50", (32, 16, 3), 4, weights=None)
    ibn = build_encoder("resnet50_ibn", (32, 16, 3), 4, weights=None)
    names = {layer.name for layer in ibn.layers}
    blocks = [(stage, block) for stage, depth in ((2, 3), (3, 4), (4, 6)) for block in range(1, depth + 1)]
    assert {name for name in names if name.endswith("_in")} == {f"conv{s}_block{b}_1_in" for s, b in blocks}
    assert {layer.name for layer in plain.layers} < names
    # An instance norm has gain and shift, and no moving statistics.
    halves = sum(64 * 2 ** (stage - 2) // 2 for stage, _ in blocks)
    assert plain.count_params() - ibn.count_params() == 2 * halves
    assert ibn.get_layer("conv2_block1_1_bn").gamma.shape == (32,)
    with pytest.raises(UserError, match="no ImageNet weights for resnet50_ibn"):
        build_encoder("resnet50_ibn", (32, 16, 3), 4)


def test_channels_are_a_slice_and_keep_their_config():
    layer = Channels.from_config(Channels(1, 3).get_config())
    np.testing.assert_array_equal(layer(IMAGES), IMAGES[..., 1:3])
