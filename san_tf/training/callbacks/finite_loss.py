"""Stop at once when the loss is no number any more."""

from __future__ import annotations

import math
from typing import Any

import keras

from san_tf.errors import UserError
from san_tf.training.callbacks.clock import Clock
from san_tf.training.checkpoints import CheckpointFolder


def diverged(stage: str, what: str, clock: Clock, checkpoints: CheckpointFolder) -> UserError:
    """The sentence for a training that went wrong: what, where, the last good checkpoint, what to try."""
    good = checkpoints.newest()
    kept = f"the last good checkpoint is {good.path}" if good else "no checkpoint had been written yet"
    return UserError(
        f"Stage {stage}: {what} at step {clock.step} (epoch {clock.epoch + 1} of {clock.epochs}); {kept}. "
        "Lower the learning rate, warm up longer or clip the gradients, and start in a new run directory."
    )


class FiniteLoss(keras.callbacks.Callback):
    """Ends training within the step in which any logged value becomes NaN or infinite.

    The logs are running means of the epoch, in which one such value stays visible.

    Args:
        clock: tells the step.
        checkpoints: named in the error.
        stage: named in the error.
    """

    def __init__(self, clock: Clock, checkpoints: CheckpointFolder, stage: str) -> None:
        super().__init__()
        self.clock = clock
        self.checkpoints = checkpoints
        self.stage = stage

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the logs.

        Raises:
            UserError: one of them is not finite.
        """
        for name, value in (logs or {}).items():
            if not math.isfinite(value):
                raise diverged(self.stage, f"{name} became {float(value)}", self.clock, self.checkpoints)
