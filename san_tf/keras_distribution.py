"""What Keras leaves open under a strategy of `tf.distribute`, on both of its versions, in one place.

Tested with Keras 3.15 and 2.15; `tests/training/test_distribution.py` fails where a later one differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from san_tf.keras_compat import KERAS_3


def batch_norms(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """All batch norms of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from batch_norms(layer)


def synchronize_batch_norms(model: keras.Model) -> None:
    """Have batch norms normalise by the whole batch on all replicas, from the next training step on.

    Set on finished layers, because networks of `keras.applications` make theirs themselves. It changes the
    arithmetic on one device too, in the last digits.
    """
    for layer in batch_norms(model):
        layer.synchronized = True
        if not KERAS_3:
            # Chosen when the layer was built, and of no use here: the fused kernel knows one device only.
            layer.fused = False


def average_moving_statistics(model: keras.Model) -> None:
    """Give all replicas the mean of their moving statistics; in a replica's step, after the update.

    Keras 3 makes these variables without an aggregation, so that each worker keeps its own, and networks
    saved by one differ from those of another. Keras 2 aggregates them when they are read, which waits for
    all workers, and the chief reads alone. The statistics of synchronised batch norms are equal already.
    """
    replica = tf.distribute.get_replica_context()
    statistics = [
        variable
        for layer in batch_norms(model)
        if not layer.synchronized
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
    if not statistics:
        return
    # A value is read where its variable is; an operation of this replica has a device, which sums need.
    values = [tf.identity(tf.convert_to_tensor(variable)) for variable in statistics]
    means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, values)
    for variable, mean in zip(statistics, means, strict=True):
        variable.assign(mean)


def local_value(variable: Any) -> np.ndarray:
    """A variable's value on this worker, read without asking the others.

    After a step all replicas hold the same; reading one that Keras 2 aggregates would wait for all workers.
    """
    value = _tensorflow_variable(variable)
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.distribute_strategy.experimental_local_results(value)[0]
    return np.asarray(value.numpy())


def assign_local(variable: Any, value: np.ndarray) -> None:
    """Set a variable on all replicas of this worker, without telling the others."""
    own = _tensorflow_variable(variable)
    if isinstance(own, tf.distribute.DistributedValues):
        for part in own.distribute_strategy.experimental_local_results(own):
            part.assign(tf.cast(value, part.dtype))
    else:
        own.assign(tf.cast(value, own.dtype))


def _tensorflow_variable(variable: Any) -> Any:
    """The `tf.Variable` that a variable of Keras 3 wraps."""
    return variable.value if KERAS_3 and isinstance(variable, keras.Variable) else variable
