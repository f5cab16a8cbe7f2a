import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.models import build_decoder
from san_tf.models.layer_factory import UpConv2D
from san_tf.training.precision import precision_scope

RESNET = [(64, 32, 256), (32, 16, 512), (16, 8, 1024), (16, 8, 2048)]
SMALL = [(8, 4, 8), (4, 2, 8), (2, 1, 12), (2, 1, 16)]
WIDTHS = (8, 8, 6, 4, 4)


def maps(shapes, seed=0, batch=2):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=(batch, *shape)), tf.float32) for shape in shapes]


def test_u_shaped_decoder_has_the_shapes_and_parameters_of_the_public_code():
    decoder = build_decoder(RESNET, skips=True)
    assert sum(int(np.prod(v.shape)) for v in decoder.trainable_variables) == 9_071_075
    output = decoder(maps(RESNET, batch=1))
    assert output["texture"].shape == (1, 256, 256, 3)
    assert [b.shape[1:] for b in output["blocks"]] == [
        (32, 16, 256),
        (64, 32, 64),
        (128, 64, 32),
        (256, 128, 16),
    ]


def test_texture_lies_in_the_range_of_tanh_and_is_float32_in_any_precision():
    for precision in ("float32", "mixed_float16", "mixed_bfloat16"):
        with precision_scope(precision):
            decoder = build_decoder(SMALL, WIDTHS)
        texture = decoder([100 * x for x in maps(SMALL)])["texture"]
        assert texture.dtype == tf.float32 and texture.shape == (2, 32, 32, 3)
        assert np.isfinite(texture).all() and np.abs(texture).max() <= 1


def test_without_skips_only_stage_4_matters():
    decoder = build_decoder(SMALL, WIDTHS, seed=1)
    first, other = maps(SMALL, 0), maps(SMALL, 1)
    base = decoder(first)["texture"]
    np.testing.assert_array_equal(base, decoder([*other[:3], first[3]])["texture"])
    assert not np.array_equal(base, decoder([*first[:3], other[3]])["texture"])


def test_with_skips_every_stage_matters():
    decoder = build_decoder(SMALL, WIDTHS, skips=True, seed=1)
    first, other = maps(SMALL, 0), maps(SMALL, 1)
    base = decoder(first)["texture"]
    for index in range(4):
        changed = [*first[:index], other[index], *first[index + 1 :]]
        assert not np.array_equal(base, decoder(changed)["texture"])


def test_texture_size_can_be_asked_for():
    assert build_decoder(SMALL, WIDTHS, texture_size=48).output["texture"].shape == (None, 48, 48, 3)


def test_impossible_shapes_are_named():
    with pytest.raises(UserError, match="5 widths"):
        build_decoder(SMALL, (8, 8, 8))
    with pytest.raises(UserError, match="last_stride 1"):
        build_decoder([(8, 4, 8), (4, 2, 8), (2, 2, 12), (1, 1, 16)], WIDTHS, skips=True)


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 2, 5), (3, 5, 2)])
def test_up_conv_equals_upsampling_then_convolution(shape):
    rng = np.random.default_rng(2)
    x = tf.constant(rng.normal(size=(2, *shape)), tf.float32)
    plain = keras.Sequential([keras.layers.UpSampling2D(2), keras.layers.Conv2D(7, 3, padding="same")])
    fast = UpConv2D(7)
    fast(x), plain(x)
    weights = [rng.normal(size=(3, 3, shape[-1], 7)), rng.normal(size=7)]
    plain.layers[1].set_weights(weights)
    fast.set_weights(weights)
    results = []
    for layer, variables in ((fast, fast.trainable_variables), (plain, plain.trainable_variables)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.sin(y))
        results.append([y, *tape.gradient(loss, [x, *variables])])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert fast.compute_output_shape((None, *shape)) == (None, 2 * shape[0], 2 * shape[1], 7)


def test_decoder_goes_round_through_its_config():
    decoder = build_decoder(SMALL, WIDTHS, seed=1)
    again = type(decoder).from_config(decoder.get_config())
    again.set_weights(decoder.get_weights())
    np.testing.assert_array_equal(again(maps(SMALL))["texture"], decoder(maps(SMALL))["texture"])


def test_a_sketch_sees_the_whole_map_and_changes_nothing_at_first():
    shapes = [(32, 16, 8), (16, 8, 8), (8, 4, 8), (8, 4, 8)]
    plain, sketched = (build_decoder(shapes, (8, 8, 8, 8, 8), sketch=units, seed=3) for units in (0, 32))
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in shapes]
    np.testing.assert_allclose(sketched(maps)["texture"], plain(maps)["texture"], atol=1e-6)

    # Once it paints, a change in one corner of the map reaches the opposite corner of the texture.
    paint = sketched.get_layer("sketch_paint")
    paint.kernel.assign(rng.normal(size=paint.kernel.shape))
    changed = [array.copy() for array in maps]
    changed[3][:, 0, 0] += 10.0
    difference = np.abs(sketched(changed)["texture"] - sketched(maps)["texture"])[:, -8:, -8:]
    assert difference.max() > 0.01
