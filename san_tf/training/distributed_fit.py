"""Keras's `fit`, for several replicas: the same callbacks around steps of `strategy.run`.

Keras 3's own `fit` fails with several workers (its metrics have no dimension to gather, and it builds models
by a symbolic step that knows no strategy); a loop of one's own needs nothing private.
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
    """Train from one epoch to another.

    Logs hold the values of the whole batch, and are the same on every worker. Whether to stop, by a signal or
    by `model.stop_training`, is agreed on by all workers.

    Args:
        model: built and compiled under the distribution's scope, with its optimizer's slots made; its
            `train_step` sums gradients and losses itself, see `san_tf.models.replicas`.
        distribution: with a strategy.
        dataset: this worker's: one element for each of its replicas in turn, step after step, without end.
        first_epoch: from 0.
        last_epoch: where to stop, exclusive.
        steps: of an epoch.
        callbacks: as `fit` takes them, this worker's.
        interruption: one of them; whose wish to stop is told to all.

    Raises:
        UserError: XLA, accumulated gradients or averaged weights are asked for; or whatever a callback finds.
        tf.errors.OpError: among others, another worker is gone.
    """
    strategy = distribution.strategy
    if strategy is None:
        raise ValueError("A distribution without strategy trains with `fit`.")
    _check(model)
    # Data known to be without end spare the workers asking each other for every batch whether they have one.
    endless = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    batches = iter(strategy.distribute_datasets_from_function(lambda _: endless))

    def replica_step(batch: dict, asked: tf.Tensor) -> tuple[dict, tf.Tensor]:
        logs = model.train_step(batch)
        average_moving_statistics(model)
        replica = tf.distribute.get_replica_context()
        return logs, replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(asked))

    # As Keras does: rewriting Python's branches and loops, of which there are none here, takes longest.
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
    # Keras does both in branches of the graph, in which the replicas of a strategy cannot meet.
    for name in ("gradient_accumulation_steps", "use_ema"):
        if getattr(optimizer, name, None):
            raise UserError(
                f"The optimizer's {name} does not work together with --strategy; leave one of the two out."
            )
    if getattr(model, "jit_compile", False) is True:
        raise UserError("XLA (jit_compile) does not work together with --strategy; leave one of the two out.")


def _local(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """What this worker's first replica returned; all returned the same."""
    return strategy.experimental_local_results(value)[0]
