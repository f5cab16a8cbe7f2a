"""Each optimiser against a loop in NumPy written from its definition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3, apply_gradients, scale_loss
from san_tf.training.optimizers import AdamL2, build_optimizer
from san_tf.training.schedules import WarmupCosine

STEPS = 12


def gradients(shape):
    rng = np.random.default_rng(1)
    # falling in size, so that AMSGrad's maximum differs from the present moment
    return [rng.normal(0, 2.0 / (1 + step), shape) for step in range(STEPS)]


def naive_adam(w, grads, lr, l2=0.0, decoupled=0.0, amsgrad=True, clip=None, eps=1e-8, b1=0.9, b2=0.999):
    """PyTorch's Adam and AdamW, in float64. Keras scales eps by sqrt(1 - b2^t): too small to see."""
    w, m, v, largest = w.astype(np.float64), 0.0, 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        if clip is not None:
            g = g * min(1.0, clip / np.linalg.norm(g))
        w = w - lr * decoupled * w
        g = g + l2 * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v)
        second = largest if amsgrad else v
        w = w - lr * (m / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + eps)
    return w


def run(optimizer, start, grads, name="kernel"):
    variable = (keras if KERAS_3 else tf).Variable(start.astype(np.float32), name=name)
    for g in grads:
        apply_gradients(optimizer, [tf.constant(g, tf.float32)], [variable])
    return np.array(variable)


@pytest.fixture
def start():
    return np.random.default_rng(0).normal(size=(4, 3))


@pytest.mark.parametrize("amsgrad", [True, False])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_l2_equals_the_definition(start, amsgrad, clip):
    grads = gradients(start.shape)
    optimizer = build_optimizer(amsgrad=amsgrad, weight_decay=0.3, schedule=0.01, clipnorm=clip, beta_2=0.9)
    expected = naive_adam(start, grads, 0.01, l2=0.3, amsgrad=amsgrad, clip=clip, b2=0.9)
    np.testing.assert_allclose(run(optimizer, start, grads), expected, atol=2e-6)
    other = naive_adam(start, grads, 0.01, l2=0.3, amsgrad=not amsgrad, clip=clip, b2=0.9)
    assert np.abs(other - expected).max() > 1e-4  # the switch matters here


def test_decoupled_equals_the_definition_and_differs_from_l2(start):
    grads = gradients(start.shape)
    optimizer = build_optimizer(weight_decay=0.3, decay="decoupled", schedule=0.01)
    expected = naive_adam(start, grads, 0.01, decoupled=0.3)
    np.testing.assert_allclose(run(optimizer, start, grads), expected, atol=2e-6)
    assert np.abs(expected - naive_adam(start, grads, 0.01, l2=0.3)).max() > 1e-3


@pytest.mark.parametrize("decay", ["l2", "decoupled"])
def test_norms_and_biases_can_be_spared(start, decay):
    grads = [np.zeros_like(start)] * 3
    for name in ("gamma", "beta", "bias", "kernel"):
        for everything in (True, False):
            optimizer = build_optimizer(
                weight_decay=0.5, decay=decay, schedule=0.1, decay_norm_and_bias=everything
            )
            moved = not np.allclose(run(optimizer, start, grads, name), start)
            assert moved == (everything or name == "kernel"), (name, everything)


def test_decay_reaches_the_layers_of_a_model_by_their_real_names():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    model.layers[0].bias.assign([1.0, 1.0, 1.0])
    optimizer = build_optimizer(weight_decay=0.5, schedule=0.1, decay_norm_and_bias=False)
    before = [np.array(v) for v in model.trainable_variables]
    gradients = [tf.zeros(v.shape) for v in model.trainable_variables]
    apply_gradients(optimizer, gradients, model.trainable_variables)
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.trainable_variables, strict=True)]
    assert moved == [True, False, False, False]  # kernel, bias, gamma, beta


def test_schedule_is_followed(start):
    optimizer = build_optimizer(weight_decay=0.0, schedule=WarmupCosine(0.1, steps=2), amsgrad=False)
    ones = np.ones_like(start)
    after = run(optimizer, start, [ones, ones])
    # Adam's first step is the rate itself; the second has rate 0
    np.testing.assert_allclose(after, start - 0.1, atol=1e-5)


def test_config_goes_round():
    optimizer = build_optimizer(
        weight_decay=0.3, decay_norm_and_bias=False, schedule=WarmupCosine(0.1, 20, 3)
    )
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert isinstance(again, AdamL2) and again.l2 == 0.3 and again.skip == ("gamma", "beta", "bias")
    assert again.amsgrad and float(again.learning_rate) == pytest.approx(float(optimizer.learning_rate))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"name": "rmsprop"}, "adam or sgd"),
        ({"decay": "l1"}, "l1"),
        ({"weight_decay": -1}, "-1"),
        ({"clipnorm": 0}, "clipnorm"),
    ],
)
def test_impossible_values_are_named(arguments, word):
    with pytest.raises(UserError, match=word):
        build_optimizer(**arguments)


def naive_sgd(w, grads, rates, l2=0.0, decoupled=0.0, momentum=0.9):
    """SGD with momentum, the velocity as Keras keeps it, in float64."""
    w, v = w.astype(np.float64), 0.0
    for g, rate in zip(grads, rates, strict=True):
        w = w - rate * decoupled * w
        v = momentum * v - rate * (g + l2 * w)
        w = w + v
    return w


@pytest.mark.parametrize(("decay", "l2", "decoupled"), [("l2", 0.3, 0.0), ("decoupled", 0.0, 0.3)])
def test_sgd_equals_the_definition_and_torchs_while_the_rate_stays(start, decay, l2, decoupled):
    grads = gradients(start.shape)
    optimizer = build_optimizer("sgd", weight_decay=0.3, decay=decay, schedule=0.01)
    expected = naive_sgd(start, grads, [0.01] * STEPS, l2, decoupled)
    moved = run(optimizer, start, grads)
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    if decay == "l2":  # PyTorch's: b = 0.9 b + (g + l2 w); w = w - rate b
        w, b = start.astype(np.float64), 0.0
        for g in grads:
            b = 0.9 * b + (g + l2 * w)
            w = w - 0.01 * b
        np.testing.assert_allclose(moved, w, atol=2e-6)
    nesterov = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    assert (
        np.abs(
            run(nesterov, start, grads)
            - run(build_optimizer("sgd", weight_decay=0, schedule=0.01), start, grads)
        ).max()
        > 1e-4
    )


def test_sgd_follows_a_schedule_and_comes_back_from_its_config(start):
    grads = gradients(start.shape)
    schedule = WarmupCosine(0.02, steps=STEPS, warmup_steps=3)
    optimizer = build_optimizer("sgd", weight_decay=0.1, schedule=schedule, decay_norm_and_bias=False)
    rates = [float(schedule(step)) for step in range(STEPS)]
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    for one in (optimizer, again):
        np.testing.assert_allclose(run(one, start, grads), naive_sgd(start, grads, rates, 0.1), atol=2e-6)
    spared = build_optimizer("sgd", weight_decay=0.1, schedule=schedule, decay_norm_and_bias=False)
    expected = naive_sgd(start, grads, rates)
    np.testing.assert_allclose(run(spared, start, grads, name="gamma"), expected, atol=2e-6)


def test_a_momentum_of_one_is_refused():
    with pytest.raises(UserError, match="momentum must be in"):
        build_optimizer("sgd", momentum=1.0)


@pytest.mark.parametrize("scaled", [False, True])
def test_clipping_is_by_the_norm_of_all_gradients_together(scaled):
    """|(3, 4), (12)| = 13: a limit of 6.5 halves all, one of 20 none; also after loss scaling."""
    kind = (keras if KERAS_3 else tf).Variable
    for limit, factor in ((6.5, 0.5), (20.0, 1.0)):
        variables = [kind([0.0, 0.0], name="a"), kind([0.0], name="b")]
        optimizer = build_optimizer("sgd", weight_decay=0.0, schedule=1.0, clipnorm=limit, momentum=0.0)
        if scaled:
            make = (keras.optimizers if KERAS_3 else keras.mixed_precision).LossScaleOptimizer
            optimizer = make(optimizer)
        with tf.GradientTape() as tape:
            a, b = (tf.convert_to_tensor(variable) for variable in variables)
            tape.watch([a, b])
            loss = scale_loss(optimizer, tf.reduce_sum(a * [3.0, 4.0]) + tf.reduce_sum(b * 12.0))
        apply_gradients(optimizer, tape.gradient(loss, [a, b]), variables)
        np.testing.assert_allclose(np.array(variables[0]), [-3.0 * factor, -4.0 * factor], rtol=1e-6)
        np.testing.assert_allclose(np.array(variables[1]), [-12.0 * factor], rtol=1e-6)


@pytest.mark.parametrize("decay", ["l2", "decoupled"])
def test_a_variable_that_joins_late_begins_as_pytorchs_do(start, decay):
    """Six steps without the second variable: its moments and their correction then begin at step 1."""
    settings = {"weight_decay": 0.3, "decay": decay, "schedule": 0.01, "beta_2": 0.9}
    grads = gradients(start.shape)
    ends = {}
    for own_steps in (True, False):
        kind = (keras if KERAS_3 else tf).Variable
        first, late = (kind(start.astype(np.float32), name=name) for name in ("first", "late"))
        optimizer = build_optimizer(own_steps=own_steps, **settings)
        optimizer.build([first, late])
        for step, g in enumerate(grads):
            variables = [first] if step < 6 else [first, late]
            apply_gradients(optimizer, [tf.constant(g, tf.float32)] * len(variables), variables)
        ends[own_steps] = np.array(first), np.array(late)
        assert int(optimizer.iterations) == STEPS
    l2, decoupled = (0.3, 0.0) if decay == "l2" else (0.0, 0.3)
    every, rest = (naive_adam(start, g, 0.01, l2, decoupled, b2=0.9) for g in (grads, grads[6:]))
    np.testing.assert_allclose(ends[True][0], every, atol=2e-6)
    np.testing.assert_allclose(ends[True][1], rest, atol=2e-6)
    np.testing.assert_array_equal(ends[True][0], ends[False][0])
    assert np.abs(ends[False][1] - rest).max() > 1e-3  # what Keras alone makes of it
    again = type(optimizer).from_config(build_optimizer(own_steps=True, **settings).get_config())
    assert again.own_steps
