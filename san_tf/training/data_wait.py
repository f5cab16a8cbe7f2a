"""How long training waits for its data, measured inside tf.data, where Keras fetches each batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class DataWait:
    """Adds up the seconds between asking a data set for a batch and having it.

    Keras fetches a batch inside its compiled training function, so a clock around it cannot tell waiting from
    computing. Here a first element, the time of asking, is zipped before each batch, and subtracted from the
    time the batch is there.

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
        """The same batches, timed. Give it the whole pipeline, prefetch included."""

        def note(asked: tf.Tensor, batch: Any) -> Any:
            # The dependency makes the clock tick after the batch is there; both are otherwise unordered.
            with tf.control_dependencies([self._seconds.assign_add(tf.timestamp() - asked)]):
                return tf.nest.map_structure(tf.identity, batch)

        asked = tf.data.Dataset.counter().map(lambda _: tf.timestamp())
        measured = tf.data.Dataset.zip((asked, dataset)).map(note)
        options = tf.data.Options()
        # A prefetch injected behind the clock would ask early and turn every idle second into waiting.
        options.experimental_optimization.inject_prefetch = False
        return measured.with_options(options)

    def seconds(self) -> float:
        """Seconds waited since this object was made."""
        return float(self._seconds.numpy())
