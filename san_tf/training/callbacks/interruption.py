"""Handles Ctrl-C and SIGTERM: finishes the step, saves, and says how to resume."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import keras

from san_tf.training.callbacks.clock import Clock
from san_tf.training.callbacks.saving import SaveCheckpoints


class Interruption(keras.callbacks.Callback):
    """Ends training in order after the first SIGINT or SIGTERM, and immediately after the second.

    Use it as a context manager: it catches the signals inside the block, and only in the main thread, where
    Python delivers them. It must be the last callback, so that an epoch's results are written before it ends.

    Args:
        clock: knows the step.
        saving: saves the checkpoint.
        stage: name of the stage, for the message.

    Raises:
        KeyboardInterrupt: after the step; its message says how to resume.
    """

    def __init__(self, clock: Clock, saving: SaveCheckpoints, stage: str) -> None:
        super().__init__()
        self.clock = clock
        self.saving = saving
        self.stage = stage
        self.asked = False
        # What several workers agreed on: a signal to one of them stops all after the same step.
        self.agreed: bool | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt(f"Stage {self.stage} was stopped immediately, without saving.")
        self.asked = True

    @property
    def leaving(self) -> bool:
        """Whether to stop after this step."""
        return self.asked if self.agreed is None else self.agreed

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop within an epoch; `on_epoch_end` stops after the epoch's measurements."""
        if self.leaving and not self.clock.epoch_is_complete:
            self._leave()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop between epochs."""
        if self.leaving:
            self._leave()

    def _leave(self) -> None:
        self.saving.save()
        raise KeyboardInterrupt(
            f"Stage {self.stage} was stopped after step {self.clock.step} of {self.clock.total_steps}, saved "
            f"in {self.saving.checkpoints.folder}; the same command resumes from there."
        )
