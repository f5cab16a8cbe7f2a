"""Stop when what is measured has not become better for some time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from san_tf.training.run_directory import RunDirectory


def measured_since_best(values: Sequence[float]) -> int:
    """How many measurements came after the highest, the last of equal ones; 0 where there is none.

    Example:
        >>> measured_since_best([0.5, 0.7, 0.6, 0.65])
        2
    """
    return min((number for number, value in enumerate(reversed(values)) if value == max(values)), default=0)


class EarlyStopping(keras.callbacks.Callback):
    """Ends training when a log has not reached its highest value again for `patience` of its measurements.

    What was measured is read from `metrics.csv`, which a resumed training continues where its checkpoint was
    written: so it stops in the same epoch as an undisturbed one. Comes after the log of metrics.

    Args:
        run: whose metrics.
        stage: whose rows.
        log: the name of the value, for instance `mAP`; higher is better.
        patience: measurements; 0 never stops.
    """

    def __init__(self, run: RunDirectory, stage: str, log: str, patience: int) -> None:
        super().__init__()
        self.run = run
        self.stage = stage
        self.log = log
        self.patience = patience

    @property
    def is_due(self) -> bool:
        """Whether training has to stop, by the measurements so far."""
        values = [value for _, value in self.run.metrics.series(self.stage, self.log)]
        return 0 < self.patience <= measured_since_best(values)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look, where the epoch brought a measurement."""
        if self.log in (logs or {}) and self.is_due:
            self.model.stop_training = True
