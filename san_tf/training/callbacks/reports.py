"""Callbacks that report a training: `metrics.csv`, TensorBoard, and the line on the screen."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from san_tf.command_line import Terminal
from san_tf.keras_compat import learning_rate
from san_tf.training.callbacks.clock import Clock
from san_tf.training.callbacks.guards import CollapseWatch
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


_SECONDS_BETWEEN_UPDATES = 0.5  # drawing the line takes about 3 ms
_BAR_WIDTH = 16


class ProgressLine(keras.callbacks.Callback):
    """Shows training progress: a live bar on a terminal, else one plain line per epoch.

    Use it as a context manager, so that the terminal is restored however training ends.

    Args:
        clock: knows the step, the speed and the time left.
        stage: name of the stage, at the start of the line.
        console: console to write to; standard output if None.
        watch: its label is shown before the losses while training learns nothing.
    """

    def __init__(
        self, clock: Clock, stage: str, console: Console | None = None, watch: CollapseWatch | None = None
    ) -> None:
        super().__init__()
        self.clock = clock
        self.stage = stage
        self.watch = watch
        self.console = console or Terminal()
        self._bar: Progress | None = None
        self._updated = 0.0

    def __enter__(self) -> ProgressLine:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=_BAR_WIDTH),
                TextColumn("{task.fields[text]}"),
                console=self.console,
                # Refreshed here between steps; a separate thread would compete with training.
                auto_refresh=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self.stage, total=self.clock.total_steps, completed=self.clock.step, text="first step ..."
            )
            self._bar.refresh()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Update the bar, at most twice a second."""
        now = time.monotonic()
        if self._bar is not None and now - self._updated >= _SECONDS_BETWEEN_UPDATES:
            self._updated = now
            self._show(logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the epoch's values."""
        if self._bar is not None:
            self._show(logs or {})
        else:
            # Not `console.print`: it would wrap the line at 80 columns, also in a log file.
            print(f"{self.stage} {self.line(logs or {})}", file=self.console.file, flush=True)

    def _show(self, logs: Mapping[str, float]) -> None:
        if self._bar is not None:
            # Without a limit, a long text would shorten the stage's name and the bar.
            room = self.console.width - len(self.stage) - _BAR_WIDTH - 2
            text = Text(self.line(logs))
            text.truncate(max(room, 1), overflow="ellipsis")
            self._bar.update(self._task, completed=self.clock.step, text=text.plain)
            self._bar.refresh()

    def line(self, logs: Mapping[str, float]) -> str:
        """Text: `epoch 3/20 step 45/100 · 312 images/s · wait 3 % · 0:03:12 left · loss 1.23 id 0.9`."""
        clock = self.clock
        done = clock.step - clock.epoch * clock.steps_per_epoch
        parts = [f"epoch {clock.epoch + 1}/{clock.epochs} step {done}/{clock.steps_per_epoch}"]
        rate, wait, left = clock.images_per_second(), clock.wait_fraction(), clock.seconds_left()
        if rate is not None:
            parts.append(f"{rate:.3g} {'images' if clock.batch_size else 'steps'}/s")
        if wait is not None:
            parts.append(f"wait {100 * wait:.0f} %")
        if left is not None:
            parts.append(f"{datetime.timedelta(seconds=round(left))} left")
        if self.watch is not None and self.watch.label:
            parts.append(self.watch.label.upper())
        # `loss` comes first: people look for it, and the terminal may cut off the rest.
        names = sorted((name for name in logs if name != "learning_rate"), key=lambda name: name != "loss")
        parts.append(" ".join(f"{name.removesuffix('_loss')} {logs[name]:.3g}" for name in names))
        return " · ".join(parts)
