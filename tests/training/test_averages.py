"""Accumulated gradients and averaged weights: against hand arithmetic, and over an interruption."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training_model import TinyModel, build, dataset_at, state

from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3
from san_tf.training.loop import train
from san_tf.training.optimizers import build_optimizer, take_averages
from san_tf.training.run_directory import RunDirectory

needs_keras_3 = pytest.mark.skipif(not KERAS_3, reason="Keras 2 does not accumulate")
GRADIENTS = [[3.0, -1.0], [-1.0, -3.0], [2.0, 0.5], [6.0, 0.5], [0.0, 1.0], [-4.0, 3.0]]


def followed(optimizer: keras.optimizers.Optimizer, gradients: list[list[float]]) -> list[np.ndarray]:
    """The weights `(2,)` after each gradient, from 1 and -2."""
    weights = keras.Variable([1.0, -2.0]) if KERAS_3 else tf.Variable([1.0, -2.0])
    optimizer.build([weights])
    path = []
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), weights)])
        path.append(np.array(weights))
    return path


@needs_keras_3
@pytest.mark.parametrize("decay", ["l2", "decoupled"])
def test_accumulated_gradients_are_their_mean(decay: str) -> None:
    """Means of pairs: (3-1)/2, (-1-3)/2 = 1, -2; then 4, 0.5; then -2, 2. Between them nothing moves."""
    settings = {"schedule": 0.1, "weight_decay": 0.01, "decay": decay, "clipnorm": 2.0}
    path = followed(build_optimizer(accumulation=2, **settings), GRADIENTS)
    means = followed(build_optimizer(**settings), [[1.0, -2.0], [4.0, 0.5], [-2.0, 2.0]])
    np.testing.assert_array_equal(path[0], [1.0, -2.0])
    for index, expected in enumerate(means):
        np.testing.assert_allclose(path[2 * index + 1], expected, rtol=1e-6)
        if index:
            np.testing.assert_array_equal(path[2 * index], path[2 * index - 1])


@needs_keras_3
def test_average_by_hand() -> None:
    """A constant gradient moves Adam by the learning rate each step: 0.9, 0.8, 0.7.

    The first average is the first weight, then half and half: 0.9, 0.85, 0.775.
    """
    optimizer = build_optimizer(schedule=0.1, weight_decay=0.0, ema=0.5)
    path = followed(optimizer, [[1.0, 1.0]] * 3)
    np.testing.assert_allclose([step[0] for step in path], [0.9, 0.8, 0.7], rtol=1e-5)
    average = next(variable for variable in optimizer.variables if "average" in variable.path)
    np.testing.assert_allclose(np.array(average)[0], 0.775, rtol=1e-5)


class StopAt(keras.callbacks.Callback):
    """Pulls the plug after so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.batches -= 1
        if not self.batches:
            raise RuntimeError("the plug was pulled")


def averaging() -> TinyModel:
    model = build()
    settings = {"accumulation": 2} if KERAS_3 else {}
    model.compile(optimizer=build_optimizer(schedule=0.01, ema=0.9, **settings), jit_compile=False)
    return model


def test_interrupted_between_two_of_a_sum_it_ends_with_the_same_weights_and_averages(tmp_path: Path) -> None:
    """Resumed after 3 of 5 steps an epoch: in an epoch's middle, with one gradient waiting for its second."""
    whole = averaging()
    train(whole, dataset_at, 2, 5, RunDirectory(tmp_path / "whole"))
    run = RunDirectory(tmp_path / "halves")
    with pytest.raises(RuntimeError, match="plug"):
        train(averaging(), dataset_at, 2, 5, run, save_every_steps=3, callbacks=[StopAt(4)])
    model = averaging()
    assert train(model, dataset_at, 2, 5, run).resumed_from == 3
    for own, other in zip(state(model), state(whole), strict=True):
        np.testing.assert_array_equal(own, other)
    weights = [np.array(variable) for variable in model.trainable_variables]
    assert take_averages(model)
    moved = [np.abs(np.array(v) - w).max() for v, w in zip(model.trainable_variables, weights, strict=True)]
    assert min(moved) > 0  # they are averages, not the last weights
    # A finished training that is started again has nothing left to do, and the same averages.
    again = averaging()
    assert train(again, dataset_at, 2, 5, run).resumed_from == 10
    take_averages(again)
    for own, other in zip(again.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(np.array(own), np.array(other))


def test_without_averages_nothing_is_taken() -> None:
    model = build()
    before = [np.array(variable) for variable in model.trainable_variables]
    assert not take_averages(model)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


@pytest.mark.parametrize("wrong", [{"accumulation": 0}, {"ema": 1.0}, {"ema": -0.1}])
def test_impossible_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="accumulation is at least 1 and ema in"):
        build_optimizer(**wrong)


def test_a_model_that_was_never_compiled_has_no_averages() -> None:
    assert not take_averages(keras.Sequential([keras.layers.Dense(1)]))
