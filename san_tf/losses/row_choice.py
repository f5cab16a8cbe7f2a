"""Choosing rows and elements by number, with gradients that are summed in a fixed order.

On a CPU the gradient of `tf.gather` adds up what several rows of the batch send to the same source in the
order in which threads get there, so that two identical trainings part in the last bit of some step, and then
in more; `tf.config.experimental.enable_op_determinism` does not change that. Matrix products and reductions
keep their order, and for the rows of one batch they are as fast.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def chosen_rows(values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`values[rows]`, a row as often as it is chosen: `tf.gather` with a reproducible gradient.

    Args:
        values: `(batch, dimensions)` float32.
        rows: `(chosen,)` integers in [0, batch).

    Returns:
        `(chosen, dimensions)` float32.

    Example:
        >>> chosen_rows(tf.constant([[1.0], [2.0]]), tf.constant([1, 1, 0])).numpy().ravel().tolist()
        [2.0, 2.0, 1.0]
    """

    @tf.custom_gradient
    def gathered(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            choice = tf.one_hot(rows, tf.shape(values)[0], dtype=upstream.dtype)
            return tf.matmul(choice, upstream, transpose_a=True)

        return tf.gather(values, rows), backward

    return gathered(values)


def chosen_elements(values: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """`values[i, columns[i]]` of each row i, with a reproducible gradient.

    Args:
        values: `(batch, width)` float32, or `(1, width)` for the same row each time.
        columns: `(batch,)` integers in [0, width).

    Returns:
        `(batch,)` float32.

    Example:
        >>> chosen_elements(tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([1, 0])).numpy().tolist()
        [2.0, 3.0]
    """
    choice = tf.one_hot(columns, tf.shape(values)[1], on_value=True, off_value=False, dtype=tf.bool)
    # One element and zeros: the sum is exact. No product, for infinity times 0 is not a number.
    return tf.reduce_sum(tf.where(choice, values, tf.zeros_like(values)), axis=1)
