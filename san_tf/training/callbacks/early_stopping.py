"""Stops training when a score has not improved for some time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from san_tf.training.run_directory import RunDirectory


def measured_since_best(values: Sequence[float]) -> int:
    """Number of measurements after the highest one (the last of equal ones); 0 if there are none.

    Example:
        >>> measured_since_best([0.5, 0.7, 0.6, 0.65])
        2
    """
    return min((number for number, value in enumerate(reversed(values)) if value == max(values)), default=0)


class EarlyStopping(keras.callbacks.Callback):
    """Ends training when a log has not reached its highest value for `patience` measurements.

    It reads the measurements from `metrics.csv`, which a resumed training continues from its checkpoint. So a
    resumed training stops in the same epoch as an uninterrupted one. It must come after `MetricsLog`.

    Args:
        run: run directory with the metrics.
        stage: stage whose rows are read.
        log: name of the value, for example `mAP`; higher is better.
        patience: number of measurements; 0 never stops.
    """

    def __init__(self, run: RunDirectory, stage: str, log: str, patience: int) -> None:
        super().__init__()
        self.run = run
        self.stage = stage
        self.log = log
        self.patience = patience

    @property
    def is_due(self) -> bool:
        """Whether training must stop, by the measurements so far."""
        values = [value for _, value in self.run.metrics.series(self.stage, self.log)]
        return 0 < self.patience <= measured_since_best(values)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the score if this epoch measured it."""
        if self.log in (logs or {}) and self.is_due:
            self.model.stop_training = True
