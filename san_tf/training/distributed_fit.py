"""A training loop like Keras's `fit` for several replicas: the same callbacks around `strategy.run`.

Keras 3's own `fit` fails with several workers: its metrics have no dimension to gather, and it builds models
by a symbolic step outside the strategy. A custom loop needs no private API.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.keras_distribution import average_moving_statistics
from san_tf.training.callbacks.interruption import Interruption
from san_tf.training.distribution import Distribution


def distributed_fit(
    model: keras.Model,
    distribution: Distribution,
    dataset: tf.data.Dataset,
    first_epoch: int,
    last_epoch: int,
    steps: int,
    callbacks: Sequence[keras.callbacks.Callback],
    interruption: Interruption,
) -> None:
    """Train from one epoch to another on several replicas.

    Logs hold the values of the whole batch and are equal on all workers. All workers stop together, after a
    signal or `model.stop_training`.

    Args:
        model: built and compiled under the distribution's scope, with its optimizer's slots created; its
            `train_step` sums gradients and losses itself, see `san_tf.models.replicas`.
        distribution: a distribution with a strategy.
        dataset: infinite data set of this worker, with one element for each of its replicas in turn.
        first_epoch: first epoch, from 0.
        last_epoch: end of the epochs, exclusive.
        steps: steps per epoch.
        callbacks: this worker's callbacks, as for `fit`.
        interruption: one of the callbacks; its signal stops all workers.

    Raises:
        UserError: XLA, accumulated gradients or averaged weights are requested, or a callback raises it.
        tf.errors.OpError: for example, another worker was lost.
    """
    strategy = distribution.strategy
    if strategy is None:
        raise ValueError("A distribution without strategy trains with `fit`.")
    _check(model)
    # With a data set known to be infinite, workers need not ask each other before every batch if it exists.
    endless = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    batches = iter(strategy.distribute_datasets_from_function(lambda _: endless))

    def replica_step(batch: dict, asked: tf.Tensor) -> tuple[dict, tf.Tensor]:
        logs = model.train_step(batch)
        average_moving_statistics(model)
        replica = tf.distribute.get_replica_context()
        return logs, replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(asked))

    # No autograph, as in Keras: it is slow, and there are no Python branches or loops to convert.
    @tf.function(autograph=False)
    def step(asked: tf.Tensor) -> tuple[dict, tf.Tensor]:
        return strategy.run(replica_step, args=(next(batches), asked))

    around = keras.callbacks.CallbackList(
        list(callbacks), add_history=False, model=model, epochs=last_epoch, steps=steps, verbose=0
    )
    model.stop_training = False
    around.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in range(first_epoch, last_epoch):
        model.reset_metrics()
        around.on_epoch_begin(epoch)
        for number in range(steps):
            around.on_train_batch_begin(number)
            results, asked = step(tf.constant(float(interruption.asked)))
            interruption.agreed = bool(_local(strategy, asked) > 0)
            logs = {name: float(_local(strategy, value)) for name, value in results.items()}
            around.on_train_batch_end(number, logs)
        around.on_epoch_end(epoch, logs)
        if distribution.sums([float(model.stop_training)])[0] > 0:
            break
    around.on_train_end(logs)


def _check(model: keras.Model) -> None:
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    # Keras does both in branches of the graph, where replicas cannot communicate.
    for name in ("gradient_accumulation_steps", "use_ema"):
        if getattr(optimizer, name, None):
            raise UserError(
                f"The optimizer's {name} does not work together with --strategy; leave one of the two out."
            )
    if getattr(model, "jit_compile", False) is True:
        raise UserError("XLA (jit_compile) does not work together with --strategy; leave one of the two out.")


def _local(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """The result of this worker's first replica; all replicas return the same."""
    return strategy.experimental_local_results(value)[0]
