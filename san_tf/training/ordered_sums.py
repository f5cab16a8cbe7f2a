"""Sums in a fixed order, so that training on a CPU is repeatable bit for bit."""

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
    """Make functions traced inside the block add three or more tensors from left to right.

    TensorFlow's op for such sums, `AddN`, starts with an input that it may overwrite. Which one that is
    depends on the progress of other threads, and so does the last bit of the sum. `AddN` adds the gradients
    of tensors used in three places (a map with batch norm, a stage that a decoder uses). TensorFlow's graph
    optimiser also merges consecutive additions into it. Sums of two tensors do not depend on the order.
    `tf.config.experimental.enable_op_determinism` does not change `AddN` (TensorFlow 2.15 and 2.21).

    Results are then equal to the last bit in the same environment, but not more accurate. The networks and
    losses of this package avoid other sums in varying order on a CPU, see `san_tf.losses.triplet`.

    Example:
        >>> with ordered_sums():
        ...     model.fit(dataset)
    """
    former = tf.config.optimizer.get_experimental_options().get("arithmetic_optimization", True)
    # This is private API, but the only place: the gradient tape and `tf.add_n` both look the op up here.
    gen_math_ops.add_n = _add_in_turn
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": former})
        gen_math_ops.add_n = _ADD_N
