"""What Keras 2 and 3 do not handle under a strategy of `tf.distribute`, in one place.

Tested with Keras 3.15 and 2.15; `tests/training/test_distribution.py` fails if a later version differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from san_tf.keras_compat import KERAS_3


def batch_norms(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """Yield all batch norms of a model and its nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from batch_norms(layer)


def synchronize_batch_norms(model: keras.Model) -> None:
    """Make batch norms normalise by the whole batch on all replicas, from the next training step on.

    This changes existing layers, because networks of `keras.applications` create their own. On one device
    too, the last digits of results change.
    """
    for layer in batch_norms(model):
        layer.synchronized = True
        if not KERAS_3:
            # Chosen when the layer was built, but the fused kernel supports only one device.
            layer.fused = False


def average_moving_statistics(model: keras.Model) -> None:
    """Give all replicas the mean of their moving statistics; call it in a replica's step, after the update.

    Keras 3 creates these variables without aggregation, so each worker keeps its own values and would save a
    different network. Keras 2 aggregates them when they are read, which waits for all workers, while only the
    chief reads. The statistics of synchronised batch norms are equal already.
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
    # Sums need a value on this replica's device; `tf.identity` copies the value from the variable's device.
    values = [tf.identity(tf.convert_to_tensor(variable)) for variable in statistics]
    means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, values)
    for variable, mean in zip(statistics, means, strict=True):
        variable.assign(mean)


def local_value(variable: Any) -> np.ndarray:
    """Return a variable's value on this worker, without communication.

    After a step all replicas have the same value. Reading a variable that Keras 2 aggregates would wait for
    all workers.
    """
    value = _tensorflow_variable(variable)
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.distribute_strategy.experimental_local_results(value)[0]
    return np.asarray(value.numpy())


def assign_local(variable: Any, value: np.ndarray) -> None:
    """Set a variable on all replicas of this worker, without communication."""
    own = _tensorflow_variable(variable)
    if isinstance(own, tf.distribute.DistributedValues):
        for part in own.distribute_strategy.experimental_local_results(own):
            part.assign(tf.cast(value, part.dtype))
    else:
        own.assign(tf.cast(value, own.dtype))


def _tensorflow_variable(variable: Any) -> Any:
    """Return the `tf.Variable` inside a variable of Keras 3."""
    return variable.value if KERAS_3 and isinstance(variable, keras.Variable) else variable
