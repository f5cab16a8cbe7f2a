"""The same sums in the same order each time: what makes a training repeatable bit for bit on a CPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

_ADD_N = gen_math_ops.add_n


@functools.wraps(_ADD_N)
def _add_in_turn(inputs: Sequence[tf.Tensor], name: str | None = None) -> tf.Tensor:
    if len(inputs) < 3 or any(tensor.dtype == tf.variant for tensor in inputs):
        return _ADD_N(inputs, name)
    total = inputs[0]
    for tensor in inputs[1:]:
        total = tf.raw_ops.AddV2(x=total, y=tensor)
    return total


@contextlib.contextmanager
def ordered_sums() -> Iterator[None]:
    """Let what is traced inside the block add three and more tensors from left to right.

    TensorFlow's op for such sums, `AddN`, writes the total over one of its inputs and begins with that one;
    which one may be written over depends on what other threads have finished, and with it the last bit. It
    adds up the gradients of whatever is used in three places (a map with batch norm, a stage that a decoder
    joins), and its optimiser of graphs makes one of several additions in a row. Additions of two have no
    order to lose. `tf.config.experimental.enable_op_determinism` leaves `AddN` as it is (TensorFlow 2.15 and
    2.21).

    The results are those of any other run: equal to the last bit in the same environment, and not closer to
    the truth than before. What else on a CPU sums by the clock is kept out of the networks and losses here,
    see `san_tf.losses.row_choice`.

    Example:
        >>> with ordered_sums():
        ...     model.fit(dataset)
    """
    former = tf.config.optimizer.get_experimental_options().get("arithmetic_optimization", True)
    # Private, for there is no other place: both the gradient tape and `tf.add_n` look the op up here.
    gen_math_ops.add_n = _add_in_turn
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": former})
        gen_math_ops.add_n = _ADD_N
