"""Sums of three and more: in one order whatever the threads do, and left as TensorFlow has them outside."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from san_tf.training.ordered_sums import ordered_sums

VALUES = [np.random.default_rng(seed).normal(size=(64, 4096)).astype("f4") for seed in range(3)]


def summed() -> tf.types.experimental.PolymorphicFunction:
    """A sum of three that are used elsewhere too: TensorFlow writes the total over whichever is free."""

    @tf.function
    def function(a: tf.Tensor, b: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parts = a * 1.5, tf.sin(b), tf.exp(c)
        elsewhere = tf.reduce_sum(tf.sin(parts[0]) + tf.cos(parts[1]) + tf.sqrt(parts[2]))
        return tf.add_n(parts), elsewhere

    return function


def test_three_are_added_from_left_to_right_each_time() -> None:
    with ordered_sums():
        function = summed()
        totals = {function(*map(tf.constant, VALUES))[0].numpy().tobytes() for _ in range(30)}
    parts = VALUES[0] * np.float32(1.5), tf.sin(VALUES[1]).numpy(), tf.exp(VALUES[2]).numpy()
    (total,) = totals
    np.testing.assert_allclose(
        np.frombuffer(total, "f4").reshape(64, 4096), (parts[0] + parts[1]) + parts[2], 1e-6
    )


def operations(function: tf.types.experimental.PolymorphicFunction) -> list[str]:
    """The operations that are run, after TensorFlow has rewritten the graph."""
    from tensorflow.python.eager import context

    context.enable_graph_collection()
    try:
        function(*map(tf.constant, VALUES))
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.disable_graph_collection()
    optimized = [graph.post_optimization_graph for graph in graphs]
    nodes = [node for graph in optimized for node in graph.node]
    nodes += [
        node for graph in optimized for function in graph.library.function for node in function.node_def
    ]
    return [f"{node.op}/{len(node.input)}" for node in nodes]


def test_no_sum_of_three_is_left_in_the_graph_that_runs() -> None:
    def fanned() -> tf.types.experimental.PolymorphicFunction:
        @tf.function
        def function(a: tf.Tensor, b: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(a)
                used = a * 1.5
                loss = (
                    tf.reduce_sum(tf.sin(used) * b) + tf.reduce_sum(tf.cos(used) * c) + tf.reduce_sum(used**2)
                )
            return tape.gradient(loss, a)

        return function

    assert "AddN/3" in operations(fanned())
    with ordered_sums():
        inside = operations(fanned())
    assert not {"AddN/3", "AddN/4"} & set(inside)
    assert "AddV2/2" in inside


def test_everything_is_put_back() -> None:
    before = gen_math_ops.add_n, tf.config.optimizer.get_experimental_options()
    with pytest.raises(RuntimeError, match="stop"), ordered_sums():
        assert gen_math_ops.add_n is not before[0]
        raise RuntimeError("stop")
    assert gen_math_ops.add_n is before[0]
    after = tf.config.optimizer.get_experimental_options()
    assert after.get("arithmetic_optimization", True) == before[1].get("arithmetic_optimization", True)
