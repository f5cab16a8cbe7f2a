"""Saves checkpoints during training."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from san_tf.checkpoints import CheckpointFolder, DamagedError, NonFiniteError, verify
from san_tf.keras_distribution import assign_local, local_value
from san_tf.training.callbacks.clock import Clock
from san_tf.training.callbacks.guards import diverged

_logger = logging.getLogger(__name__)

# Extra of a checkpoint within an epoch: the metrics' variables and the epoch's seconds so far.
RUNNING = "running"


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint at the end of each epoch, and regularly within long epochs.

    Weights that are not finite are never saved. Training ends instead, and the last good checkpoint stays.

    Args:
        clock: knows the step.
        checkpoints: folder of the checkpoints.
        stage: name of the stage, for error messages.
        every_seconds: also save within an epoch after this many seconds; None never.
        every_steps: also save within an epoch after this many steps; None never.
        best: name of a log; the weights with its highest value are also kept as `best.safetensors`.
        extra: stored in each checkpoint.
        writes: False on all workers but the chief.
        running: metrics stored by a checkpoint within an epoch, see `RUNNING`; that epoch continues.
        spread: copies the chief's values of variables to all workers.
    """

    def __init__(
        self,
        clock: Clock,
        checkpoints: CheckpointFolder,
        stage: str,
        every_seconds: float | None = None,
        every_steps: int | None = None,
        best: str | None = None,
        extra: Mapping[str, Any] | None = None,
        writes: bool = True,
        running: Mapping[str, Any] | None = None,
        spread: Callable[[Sequence[Any]], None] = lambda variables: None,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.checkpoints = checkpoints
        self.stage = stage
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self.best = best
        self.extra = dict(extra or {})
        self.writes = writes
        self.running = running
        self.spread = spread
        self._saved_at = time.monotonic()
        self._saved_step = -1

    def save(self) -> None:
        """Save the present state, at most once per step.

        Raises:
            UserError: the weights are not finite.
        """
        if not self.writes or self._saved_step == self.clock.step:
            return
        extra = {**self.extra, "stage": self.stage, "epoch": self.clock.step // self.clock.steps_per_epoch}
        if self.clock.step % self.clock.steps_per_epoch:
            values = [local_value(variable).tolist() for variable in self._metrics()]
            extra[RUNNING] = {"metrics": values, "seconds": self.clock.epoch_seconds()}
        with self._finite_weights():
            self.checkpoints.save(self.model, self.model.optimizer, self.clock.step, extra)
        self._saved_at = time.monotonic()
        self._saved_step = self.clock.step

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restore the metrics of an interrupted epoch."""
        if self.clock.step != self.clock.start_step or not self.clock.step % self.clock.steps_per_epoch:
            return
        variables, values = self._metrics(), (self.running or {}).get("metrics", [])
        shapes = [np.shape(value) for value in values]
        # Checkpoints of earlier versions do not have them.
        if shapes == [tuple(variable.shape) for variable in variables]:
            for variable, value in zip(variables, values, strict=True):
                assign_local(variable, np.asarray(value))
        self.spread(variables)

    def _metrics(self) -> list[Any]:
        return [variable for metric in self.model.metrics for variable in metric.variables]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save within an epoch; `on_epoch_end` saves after the epoch's measurements."""
        if self.clock.epoch_is_complete:
            return
        if (self.every_steps and self.clock.step % self.every_steps == 0) or (
            self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        ):
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the best, and save."""
        # In this order: a training killed in between repeats the measurement and keeps the best again.
        self._keep_best(logs or {})
        self.save()

    def _keep_best(self, logs: Mapping[str, Any]) -> None:
        if not self.writes or self.best is None or self.best not in logs:
            return
        value = float(logs[self.best])
        if self._highest(self.best) > value:
            return
        with self._finite_weights():
            self.checkpoints.save_best(self.model, self.clock.step, {**self.extra, self.best: value})

    def _highest(self, name: str) -> float:
        """The log value of the best checkpoint; -infinity if there is none, or it is damaged."""
        if not self.checkpoints.best.exists():
            return -math.inf
        try:
            return float(verify(self.checkpoints.best).extra.get(name, -math.inf))
        except (DamagedError, TypeError, ValueError) as error:
            _logger.warning("%s The best weights are chosen again from this epoch on.", error)
            return -math.inf

    @contextlib.contextmanager
    def _finite_weights(self) -> Iterator[None]:
        try:
            yield
        except NonFiniteError as error:
            raise diverged(
                self.stage, f"{error} became NaN or infinite", self.clock, self.checkpoints
            ) from error
