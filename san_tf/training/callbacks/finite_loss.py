"""Stops training as soon as the loss is NaN or infinite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras

from san_tf.checkpoints import CheckpointFolder
from san_tf.errors import UserError
from san_tf.training.callbacks.clock import Clock
from san_tf.training.offending_batch import OffendingBatch


def diverged(
    stage: str, what: str, clock: Clock, checkpoints: CheckpointFolder, batch: Path | None = None
) -> UserError:
    """Return the error for a diverged training.

    Args:
        stage: name of the stage.
        what: what went wrong, such as "loss became nan".
        clock: knows the step.
        checkpoints: checkpoints of the stage; the message names the last good one.
        batch: file that lists the images of the batch, or None.
    """
    good = checkpoints.newest()
    kept = f"the last good checkpoint is {good.path}" if good else "no checkpoint had been written yet"
    named = f", {batch} names the images of the batch" if batch else ""
    return UserError(
        f"Stage {stage}: {what} at step {clock.step} (epoch {clock.epoch + 1} of {clock.epochs}); "
        f"{kept}{named}. "
        "Lower the learning rate, warm up longer or clip the gradients, and start in a new run directory."
    )


class FiniteLoss(keras.callbacks.Callback):
    """Ends training in the step in which a logged value becomes NaN or infinite.

    The logs are running means of the epoch, so such a value stays visible.

    Args:
        clock: knows the step.
        checkpoints: checkpoints of the stage, for the error message.
        stage: name of the stage, for the error message.
        offending: writes the contents of the batch to a file; None writes nothing.
    """

    def __init__(
        self,
        clock: Clock,
        checkpoints: CheckpointFolder,
        stage: str,
        offending: OffendingBatch | None = None,
    ) -> None:
        super().__init__()
        self.offending = offending
        self.clock = clock
        self.checkpoints = checkpoints
        self.stage = stage

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the logs.

        Raises:
            UserError: one of them is not finite.
        """
        for name, value in (logs or {}).items():
            if not math.isfinite(value):
                what = f"{name} became {float(value)}"
                named = None
                if self.offending is not None:
                    named = self.offending.write(self.clock.step, what, self.model.steps_per_execution or 1)
                raise diverged(self.stage, what, self.clock, self.checkpoints, named)
