"""Properties: masks, degenerate batches, low precision, invariances, uniform draws."""

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from san_tf.losses import (
    batch_hard_triplet_loss,
    draw_triplets,
    identity_loss,
    reconstruction_loss,
    texture_triplet_loss,
)
from san_tf.losses.texture_triplet import _uniform

few = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
labels = hnp.arrays(np.int32, 6, elements=st.integers(-1, 3))
matrices = hnp.arrays(np.float32, (6, 4), elements=st.floats(-8, 8, width=16))
LOSSES = {
    "identity": lambda y, x: identity_loss(y, x),
    "triplet": lambda y, x: batch_hard_triplet_loss(y, x),
    "texture_triplet": lambda y, x: texture_triplet_loss(
        y, [tf.reshape(x, (6, 2, 2, 1))], tf.constant([1, 2])
    ),
    "reconstruction": lambda y, x: reconstruction_loss(
        tf.zeros((6, 2, 2, 1)), tf.reshape(x, (6, 2, 2, 1)), tf.cast(y >= 0, tf.float32)
    ),
}


def gradient_of(loss, label, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(tf.convert_to_tensor(label), x)
    return value, tf.convert_to_tensor(tape.gradient(value, x)).numpy()


@pytest.mark.parametrize("name", LOSSES)
@few
@hypothesis.given(label=labels, x=matrices)
def test_finite_and_not_negative_whatever_comes(name, label, x):
    value, gradient = gradient_of(LOSSES[name], label, x)
    assert value.dtype == tf.float32
    assert np.isfinite(value) and value >= 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
@few
@hypothesis.given(label=labels, x=matrices, noise=matrices)
def test_masked_rows_change_nothing_and_get_no_gradient(name, label, x, noise):
    other = np.where((label < 0)[:, None], noise, x)
    value, gradient = gradient_of(LOSSES[name], label, x)
    changed, _ = gradient_of(LOSSES[name], label, other)
    # mining subtracts the batch mean, so masked rows may move the last bits of near ties
    assert float(value) == pytest.approx(float(changed), rel=1e-4, abs=1e-4)
    assert not gradient[label < 0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_valid_rows_gives_zero_and_zero_gradient(name):
    value, gradient = gradient_of(
        LOSSES[name], np.full(6, -1, np.int32), np.random.default_rng(0).random((6, 4), np.float32)
    )
    assert float(value) == 0.0
    assert not gradient.any()


def test_identical_embeddings_have_finite_gradients():
    value, gradient = gradient_of(
        LOSSES["triplet"], np.array([0, 0, 1, 1, 2, 2], np.int32), np.ones((6, 4), "f")
    )
    assert float(value) == pytest.approx(0.3)
    assert np.isfinite(gradient).all()


@few
@hypothesis.given(x=matrices, shift=st.floats(-50, 50), order=st.permutations(range(6)))
def test_triplet_loss_ignores_translation_and_order(x, shift, order):
    label = np.array([0, 0, 1, 1, 2, 2], np.int32)
    value = float(batch_hard_triplet_loss(label, x))
    assert float(batch_hard_triplet_loss(label, x + np.float32(shift))) == pytest.approx(value, abs=2e-3)
    assert float(batch_hard_triplet_loss(label[order], x[order])) == pytest.approx(value, abs=1e-4)


def test_small_distances_far_from_the_origin_keep_their_digits():
    label = np.array([0, 0, 1], np.int32)
    embedding = np.float32(1000.0) + np.array([[0.0], [0.25], [2.0]], np.float32)
    # anchors 0 and 1: 0.25 - 2 + m, 0.25 - 1.75 + m; anchor 2: 0 - 1.75 + m
    assert float(batch_hard_triplet_loss(label, embedding, 4.0)) == pytest.approx(
        (2.25 + 2.5 + 2.25) / 3, abs=1e-4
    )


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_input_is_computed_in_float32(name, dtype):
    label = np.array([0, 0, 1, 1, 2, -1], np.int32)
    x = tf.cast(tf.random.stateless_normal((6, 4), [1, 1], stddev=300.0), dtype)  # squares overflow float16
    value, gradient = gradient_of(LOSSES[name], label, x)
    expected, _ = gradient_of(LOSSES[name], label, tf.cast(x, tf.float32))
    assert value.dtype == tf.float32 and gradient.dtype == dtype.as_numpy_dtype
    assert float(value) == float(expected)
    assert np.isfinite(gradient.astype(np.float32)).all()


def test_a_confident_right_answer_costs_only_the_smoothing():
    logits = tf.constant([[1000.0, 0.0]])
    assert float(identity_loss(tf.constant([0]), logits, 0.0)) == 0.0
    assert float(identity_loss(tf.constant([0]), logits, 0.1)) == pytest.approx(0.05 * 1000.0)


def test_drawn_triplets_are_uniform_over_the_allowed_partners():
    label = tf.constant([0, 0, 0, 1, 1, 2, -1])
    positives, negatives = np.zeros((7, 7), int), np.zeros((7, 7), int)
    draw = tf.function(lambda seed: draw_triplets(label, seed))
    for seed in range(2000):
        positive, negative, valid = draw(tf.constant([seed, 5]))
        positives[np.arange(7), positive] += 1
        negatives[np.arange(7), negative] += 1
    assert valid.numpy().tolist() == [True] * 5 + [False] * 2
    np.testing.assert_allclose(positives[0] / 2000, [0, 0.5, 0.5, 0, 0, 0, 0], atol=0.06)
    np.testing.assert_allclose(positives[3] / 2000, [0, 0, 0, 0, 1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(negatives[0] / 2000, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0], atol=0.06)


def test_triplets_depend_on_the_seed_alone_and_differ_between_blocks():
    label = tf.constant(np.repeat(np.arange(8), 4))
    first, again, later = (draw_triplets(label, tf.constant([7, s]))[1].numpy() for s in (1, 1, 2))
    assert (first == again).all() and (first != later).any()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_all_losses_compile(jit_compile):
    label = tf.constant([0, 0, 1, 1, 2, -1])
    x = tf.random.stateless_normal((6, 4), [2, 2])
    for loss in LOSSES.values():
        compiled = tf.function(loss, jit_compile=jit_compile)
        assert float(compiled(label, x)) == pytest.approx(float(loss(label, x)), rel=1e-5)


def test_xla_draws_the_same_triplets() -> None:
    """XLA makes other numbers of random bits; the seed is an argument, or it would be folded away."""
    label = tf.constant(np.repeat(np.arange(4), 4))
    seed = tf.constant([7, 12])
    compiled = tf.function(draw_triplets, jit_compile=True)(label, seed)
    for plain, own in zip(draw_triplets(label, seed), compiled, strict=True):
        np.testing.assert_array_equal(plain, own)


def test_lots_are_those_of_tensorflow() -> None:
    seed = tf.constant([3, 5])
    expected = tf.random.stateless_uniform((8, 8), seed, alg="philox")
    np.testing.assert_array_equal(_uniform(tf.constant((8, 8)), seed), expected)
