"""Clock: counts and times training steps for the other callbacks."""

from __future__ import annotations

import time
from typing import Any

import keras
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


class Clock(keras.callbacks.Callback):
    """Counts and times steps across epochs and resumed runs; must be the first callback.

    The first step of a run compiles the model. It counts as a step, but not for the speed.

    Args:
        start_step: training steps done before this run.
        epochs: total number of epochs, including those of earlier runs.
        steps_per_epoch: steps of a whole epoch.
        batch_size: images per step, or None if unknown.
        data_wait: measures how long training waits for its data set, or None.
        seconds_before: seconds that earlier processes spent on the epoch of the start step.

    Attributes:
        step: training steps done, including those of earlier runs.
        epoch: the current epoch, counted from 0.
    """

    def __init__(
        self,
        start_step: int,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int | None = None,
        data_wait: DataWait | None = None,
        seconds_before: float = 0.0,
    ) -> None:
        super().__init__()
        self.start_step = start_step
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.data_wait = data_wait
        self.step = start_step
        self.epoch = start_step // steps_per_epoch
        self._first_of_fit = start_step
        self._seconds_before = seconds_before
        self._epoch_started = time.perf_counter()
        self._run_began: tuple[float, int] | None = None
        self._epoch_began: tuple[float, float, int] | None = None

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def epoch_is_complete(self) -> bool:
        """Whether the last step done was the last one of its epoch."""
        return self.step == (self.epoch + 1) * self.steps_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start timing the epoch, unless the first step, which compiles, is still to come."""
        self.epoch = epoch
        # A resumed epoch begins in its middle.
        self._first_of_fit = self.step
        self._epoch_started = time.perf_counter() - self._seconds_before
        self._seconds_before = 0.0
        self._epoch_began = None if self._run_began is None else self._now()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the step."""
        self.step = self._first_of_fit + batch + 1
        if self._run_began is None:
            self._run_began = (time.perf_counter(), self.step)
            self._epoch_began = self._now()

    def _now(self) -> tuple[float, float, int]:
        return time.perf_counter(), self.data_wait.seconds() if self.data_wait else 0.0, self.step

    def epoch_seconds(self) -> float:
        """Seconds of this epoch so far, in all processes that worked on it."""
        return time.perf_counter() - self._epoch_started

    def images_per_second(self) -> float | None:
        """Images per second (steps, if the batch size is unknown) in this epoch; None before step two."""
        if self._epoch_began is None or self.step == self._epoch_began[2]:
            return None
        rate = (self.step - self._epoch_began[2]) / (time.perf_counter() - self._epoch_began[0])
        return rate * (self.batch_size or 1)

    def wait_fraction(self) -> float | None:
        """Share of this epoch's time spent waiting for data, 0 to 1; None if unknown."""
        if self.data_wait is None or self._epoch_began is None or self.step == self._epoch_began[2]:
            return None
        seconds, waited, _ = self._now()
        return min(1.0, (waited - self._epoch_began[1]) / max(seconds - self._epoch_began[0], 1e-9))

    def seconds_left(self) -> float | None:
        """Seconds to the last step at this run's speed, with epoch ends; None before the second step."""
        if self._run_began is None or self.step == self._run_began[1]:
            return None
        seconds, first = self._run_began
        return (time.perf_counter() - seconds) / (self.step - first) * (self.total_steps - self.step)
