"""Rows and elements by number, against `tf.gather`; and gradients that are the same each time."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from san_tf.losses.triplet import chosen_elements, chosen_rows


def test_rows_and_their_gradient_are_those_of_gather() -> None:
    values = tf.constant(np.random.default_rng(0).normal(size=(5, 3)), tf.float32)
    rows = tf.constant([4, 1, 1, 0, 1])
    weights = tf.constant(np.arange(15.0).reshape(5, 3), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        chosen = chosen_rows(values, rows)
        loss = tf.reduce_sum(chosen * weights)
    np.testing.assert_array_equal(chosen, values.numpy()[[4, 1, 1, 0, 1]])
    # Row 1 was chosen second, third and fifth: 3 + 6 + 12 and so on; rows 2 and 3 never.
    expected = [[9, 10, 11], [21, 24, 27], [0, 0, 0], [0, 0, 0], [0, 1, 2]]
    np.testing.assert_array_equal(tape.gradient(loss, values), expected)


def test_elements_and_their_gradient() -> None:
    values = tf.constant([[1.0, 2.0, np.inf], [4.0, 5.0, 6.0]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        chosen = chosen_elements(values, tf.constant([1, 0]))
        loss = tf.reduce_sum(chosen * [10.0, 20.0])
    np.testing.assert_array_equal(chosen, [2.0, 4.0])  # infinity beside it is left alone
    np.testing.assert_array_equal(tape.gradient(loss, values), [[0, 10, 0], [20, 0, 0]])
    same_row = chosen_elements(tf.constant([[7.0, 8.0]]), tf.constant([1, 0, 1]))
    np.testing.assert_array_equal(same_row, [8.0, 7.0, 8.0])


def test_the_gradient_is_the_same_each_time() -> None:
    """Many rows are sent to few; `tf.gather` gives another last bit at almost every call of this size."""
    generator = np.random.default_rng(0)
    values = tf.constant(generator.normal(size=(16, 20_000)), tf.float32)
    rows = tf.constant(generator.integers(0, 16, 64))

    @tf.function
    def gradient(values: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(tf.sin(chosen_rows(values, rows)))
        return tape.gradient(loss, values)

    assert len({gradient(values).numpy().tobytes() for _ in range(20)}) == 1
