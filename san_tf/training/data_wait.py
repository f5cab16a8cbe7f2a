"""Measures how long training waits for its data, inside tf.data."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class DataWait:
    """Adds up the seconds between requesting a batch from a data set and receiving it.

    Keras fetches a batch inside its compiled training function, so a clock around that function cannot
    separate waiting from computing. So the time of each request is zipped before the batch, and subtracted
    from the time the batch arrives.

    Example:
        >>> wait = DataWait()
        >>> model.fit(wait.measured(dataset), epochs=1)
        >>> wait.seconds()
        0.35
    """

    def __init__(self) -> None:
        with tf.device("cpu:0"):
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="data_wait")

    def measured(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return a data set of the same batches that measures the wait.

        Args:
            dataset: the whole pipeline, including prefetch.
        """

        def note(asked: tf.Tensor, batch: Any) -> Any:
            # The dependency makes the clock run after the batch arrived; otherwise the order is undefined.
            with tf.control_dependencies([self._seconds.assign_add(tf.timestamp() - asked)]):
                return tf.nest.map_structure(tf.identity, batch)

        asked = tf.data.Dataset.counter().map(lambda _: tf.timestamp())
        measured = tf.data.Dataset.zip((asked, dataset)).map(note)
        options = tf.data.Options()
        # A prefetch after the clock would request batches early and count idle time as waiting.
        options.experimental_optimization.inject_prefetch = False
        return measured.with_options(options)

    def seconds(self) -> float:
        """Seconds waited since this object was created."""
        return float(self._seconds.numpy())
