"""GeM pooling, IBN-a and MixStyle: against loops in NumPy of the papers' formulas, and through files."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.forms import facts_of
from san_tf.models import SAN, build_encoder
from san_tf.models.layer_factory import (
    Channels,
    GeneralizedMeanPooling2D,
    LayerFactory,
    MixStyle,
    symmetric_beta,
)
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


# --- MixStyle ---


def naive_mixstyle(x, lamda, other, epsilon=1e-6):
    """Image by image and channel by channel, in float64, as the paper's algorithm 1 has it."""
    x = x.astype(np.float64)
    mixed = np.empty_like(x)
    for n, c in np.ndindex(x.shape[0], x.shape[3]):
        mine, theirs = x[n, :, :, c], x[other[n], :, :, c]
        mean, deviation = mine.mean(), np.sqrt(mine.var(ddof=1) + epsilon)
        mean2, deviation2 = theirs.mean(), np.sqrt(theirs.var(ddof=1) + epsilon)
        gamma = lamda[n] * deviation + (1 - lamda[n]) * deviation2
        beta = lamda[n] * mean + (1 - lamda[n]) * mean2
        mixed[n, :, :, c] = gamma * (mine - mean) / deviation + beta
    return mixed


def test_mixstyle_is_its_formula_and_its_slope_that_of_fixed_statistics():
    x = np.random.default_rng(1).normal(0.5, 1.0, (6, 5, 4, 3)).astype(np.float32)
    layer, variable = MixStyle(1.0, salt=1), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        mixed = layer(variable, training=True)
    lamda, other, chosen = layer.draw(tf.reduce_mean(variable, axis=(1, 2), keepdims=True))
    assert bool(chosen) and sorted(other.numpy().tolist()) == list(range(6))
    lamda, other = lamda.numpy().ravel(), other.numpy()
    np.testing.assert_allclose(mixed, naive_mixstyle(x, lamda, other), atol=2e-5)
    # No gradient passes through means and deviations, so that of a sum is gamma / sigma at each place.
    slope = tape.gradient(mixed, variable).numpy()
    deviation = np.sqrt(x.var((1, 2), ddof=1) + 1e-6)
    gamma = lamda[:, None] * deviation + (1 - lamda[:, None]) * deviation[other]
    np.testing.assert_allclose(slope, np.broadcast_to((gamma / deviation)[:, None, None], x.shape), rtol=1e-4)


def test_mixstyle_does_nothing_outside_of_training_and_mixes_half_of_the_batches():
    layer, rng = MixStyle(0.5), np.random.default_rng(0)
    batches = rng.normal(0, 1, (200, 4, 2, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(layer(batches[0], training=False), batches[0])
    np.testing.assert_array_equal(layer(batches[0]), batches[0])
    results = [layer(batch, training=True).numpy() for batch in batches]
    changed = [np.abs(result - batch).max() > 0 for result, batch in zip(results, batches, strict=True)]
    assert 0.4 < np.mean(changed) < 0.6
    # A batch has its own numbers: the same ones when it comes again, as after a resumed training.
    np.testing.assert_array_equal(layer(batches[7], training=True), results[7])
    assert MixStyle.from_config(layer.get_config()).get_config() == layer.get_config()


def test_the_beta_distribution_has_its_moments_for_small_and_large_parameters():
    for a in (0.1, 0.5, 1.0):
        draws = symmetric_beta(20_000, a, tf.constant([1, 2])).numpy()
        assert draws.min() >= 0 and draws.max() <= 1
        assert draws.mean() == pytest.approx(0.5, abs=0.01)
        # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
        assert draws.var() == pytest.approx(1 / (4 * (2 * a + 1)), abs=0.004)
    # Beta(0.1, 0.1) has its mass at the ends: 2 betainc(0.1, 0.1, 0.02) = 0.687 lies beyond 0.02 and 0.98.
    draws = symmetric_beta(20_000, 0.1, tf.constant([1, 2])).numpy()
    assert np.mean((draws < 0.02) | (draws > 0.98)) == pytest.approx(0.687, abs=0.012)


def mixing_layers(encoder):
    return [layer.name for layer in encoder.layers if isinstance(layer, MixStyle)]


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "osnet_x0_25"])
def test_other_backbones_mix_behind_their_first_two_stages(backbone):
    encoder = build_encoder(backbone, (32, 32, 3), 5, weights=None, seed=1, mixstyle=1.0)
    assert mixing_layers(encoder) == ["mix_style1", "mix_style2"]
    stages = [encoder.get_layer(f"mix_style{number}").output for number in (1, 2)]
    assert stages[0] is encoder.output["stages"][0] and stages[1] is encoder.output["stages"][1]


def test_an_encoder_with_mixstyle_has_the_weights_and_embeddings_of_one_without(tmp_path):
    backbone = "thin_resnet"
    plain = build_encoder(backbone, (32, 32, 3), 5, "bnneck", weights=None, seed=1)
    mixing = build_encoder(backbone, (32, 32, 3), 5, "bnneck", weights=None, seed=1, mixstyle=1.0)
    images = np.random.default_rng(0).normal(0, 1, (4, 32, 32, 3)).astype(np.float32)
    here, there = (encoder(images, training=False)["embedding"].numpy() for encoder in (plain, mixing))
    np.testing.assert_array_equal(here, there)
    mixed = mixing(images, training=True)["feature"].numpy()
    assert np.abs(mixed - plain(images, training=True)["feature"].numpy()).max() > 1e-3
    assert mixing_layers(mixing) == ["mix_style1", "mix_style2"] and not mixing_layers(plain)
    assert len(plain.weights) == len(mixing.weights)
    # Files fit both ways.
    other = build_encoder(backbone, (32, 32, 3), 5, "bnneck", weights=None, seed=2, mixstyle=0.5)
    for source, target in ((plain, other), (mixing, plain)):
        source.save_weights(tmp_path / "x.weights.h5")
        target.load_weights(tmp_path / "x.weights.h5")
        for saved, loaded in zip(source.get_weights(), target.get_weights(), strict=True):
            np.testing.assert_array_equal(saved, loaded)


def test_mixstyle_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="mixstyle is a probability from 0 to 1; received"):
        build_encoder("thin_resnet", (32, 32, 3), 5, weights=None, mixstyle=1.5)
    with pytest.raises(UserError, match="needs a backbone of this package"):
        build_encoder("keras:MobileNetV3Small", (32, 32, 3), 5, weights=None, mixstyle=0.5)
