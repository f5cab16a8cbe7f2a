"""Checkpoints while training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from san_tf.training.callbacks.clock import Clock
from san_tf.training.callbacks.finite_loss import diverged
from san_tf.training.checkpoints import CheckpointFolder, NonFiniteError, read


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves at the end of each epoch, and within long epochs every so often.

    Weights that are not finite are never saved: training ends instead, with the good checkpoint kept.

    Args:
        clock: tells the step.
        checkpoints: where to save.
        stage: named in errors.
        every_seconds: also save within an epoch when this long has passed; None never.
        every_steps: also save within an epoch each so many steps; None never.
        best: the name of a log whose highest value is also kept as `best.safetensors`.
        extra: noted in each checkpoint.
        writes: False on the workers that leave it to the chief.
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
        self._saved_at = time.monotonic()
        self._saved_step = -1

    def save(self) -> None:
        """Save the present state, once a step.

        Raises:
            UserError: the weights are not finite.
        """
        if not self.writes or self._saved_step == self.clock.step:
            return
        extra = {**self.extra, "stage": self.stage, "epoch": self.clock.step // self.clock.steps_per_epoch}
        with self._finite_weights():
            self.checkpoints.save(self.model, self.model.optimizer, self.clock.step, extra)
        self._saved_at = time.monotonic()
        self._saved_step = self.clock.step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save within an epoch; its end has its own turn, after the epoch's measurements."""
        if self.clock.epoch_is_complete:
            return
        if (self.every_steps and self.clock.step % self.every_steps == 0) or (
            self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        ):
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the best, and save."""
        # In this order: a training that is killed in between measures the epoch again, and keeps it again.
        self._keep_best(logs or {})
        self.save()

    def _keep_best(self, logs: Mapping[str, Any]) -> None:
        if not self.writes or self.best is None or self.best not in logs:
            return
        value = float(logs[self.best])
        if self.checkpoints.best.exists() and read(self.checkpoints.best).extra.get(self.best, value) > value:
            return
        with self._finite_weights():
            self.checkpoints.save_best(self.model, self.clock.step, {**self.extra, self.best: value})

    @contextlib.contextmanager
    def _finite_weights(self) -> Iterator[None]:
        try:
            yield
        except NonFiniteError as error:
            raise diverged(
                self.stage, f"{error} became NaN or infinite", self.clock, self.checkpoints
            ) from error
