"""Writes each epoch's numbers to `metrics.csv` and TensorBoard."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from san_tf.keras_compat import learning_rate
from san_tf.training.callbacks.clock import Clock
from san_tf.training.run_directory import RunDirectory


class MetricsLog(keras.callbacks.Callback):
    """Writes one row and one set of TensorBoard scalars per epoch: logs, learning rate, speed.

    Earlier callbacks may add to the epoch's logs, for example an mAP.

    Args:
        clock: knows the step and the speed.
        run: run directory to write to.
        stage: stage of the row, and name of the TensorBoard run.
    """

    def __init__(self, clock: Clock, run: RunDirectory, stage: str) -> None:
        super().__init__()
        self.clock = clock
        self.run = run
        self.stage = stage
        self._writer: tf.summary.SummaryWriter | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's values."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        values["learning_rate"] = learning_rate(self.model.optimizer)
        measured = {
            "seconds": self.clock.epoch_seconds(),
            "images_per_second": self.clock.images_per_second(),
            "data_wait": self.clock.wait_fraction(),
        }
        values.update({name: value for name, value in measured.items() if value is not None})
        self.run.metrics.append(self.stage, epoch + 1, self.clock.step, values)
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.run.tensorboard(self.stage)))
        with self._writer.as_default(step=self.clock.step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
