"""Callbacks that watch a training: warn if it learns nothing, stop on NaN or without improvement."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from san_tf.atomic import atomic_file
from san_tf.checkpoints import CheckpointFolder
from san_tf.errors import UserError
from san_tf.models.san import cosine_classifier
from san_tf.training.callbacks.clock import Clock
from san_tf.training.run_directory import RunDirectory


class OffendingBatch:
    """Lists the rows of a failed batch for inspection.

    Batches depend only on the step, so the failed one is read again, and training need not keep it.

    Args:
        dataset_at: takes a training step and returns the batches from that step on, as dicts in which
            `record` (B,) is the number of each row's record.
        filenames: names of the records; None if they have no names.
        run: run directory for `diverged/<stage>/step_<number>.json`.
        stage: stage of the training.

    Example:
        >>> offending = OffendingBatch(dataset_at, records.filenames, run, "train/san")
        >>> offending.write(step=12, what="loss became nan")
        PosixPath('runs/synthetic/diverged/train/san/step_00000012.json')
    """

    def __init__(
        self,
        dataset_at: Callable[[int], tf.data.Dataset],
        filenames: Sequence[str] | None,
        run: RunDirectory,
        stage: str,
    ) -> None:
        self.dataset_at = dataset_at
        self.filenames = filenames
        self.stage = stage
        self.folder = run.path / "diverged" / stage

    def write(self, step: int, what: str, steps: int = 1) -> Path | None:
        """Write the rows of the last batches up to `step` to a file.

        Args:
            step: steps done, including the failed one.
            what: what went wrong, such as "loss became nan".
            steps: number of batches; more than one if the loss is checked only every few steps.

        Returns:
            The file; None if batches are not dicts.
        """
        batches = self.dataset_at(step - steps).take(steps)
        if not isinstance(batches.element_spec, dict):
            return None
        rows = [
            {"step": number, **row}
            for number, batch in enumerate(batches.as_numpy_iterator(), step - steps + 1)
            for row in self._rows(batch)
        ]
        path = self.folder / f"step_{step:08d}.json"
        with atomic_file(path) as temporary:
            temporary.write_text(
                json.dumps({"stage": self.stage, "step": step, "what": what, "rows": rows}, indent=1) + "\n"
            )
        return path

    def _rows(self, batch: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{} for _ in next(iter(batch.values()))]
        for name, values in batch.items():
            for row, value in zip(rows, values, strict=True):
                if name == "record" and self.filenames is not None:
                    row["filename"] = str(self.filenames[int(value)])
                elif np.ndim(value) == 0:
                    row[name] = value.item()
                elif np.isfinite(value).all():
                    # Enough to recognise a black or overexposed image.
                    row[name] = {"min": round(float(value.min()), 4), "max": round(float(value.max()), 4)}
                else:
                    row[name] = "not finite"
        # The name first, because people look for it.
        return [dict(sorted(row.items(), key=lambda item: item[0] != "filename")) for row in rows]


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


# Warn only after this many such epochs in a row: a healthy training may begin like that.
PATIENCE = 2
# A network that gives all identities the same probability has the loss ln C, also with smoothed labels.
CHANCE = 0.98
HELP = (
    "lower --learning_rate, raise --warmup_epochs, give the identity loss the first epochs with"
    " --triplet_warmup_epochs, or take --triplet soft-margin or --head bnneck, and start in a new run"
    " directory"
)

_logger = logging.getLogger(__name__)


class CollapseWatch(keras.callbacks.Callback):
    """Warns at the end of an epoch when a `SAN` does not learn.

    It warns after `PATIENCE` epochs in a row with one of two problems:

    - **collapsed**: the average distance of two embeddings of a batch (the log `spread`) is below the margin
      of L_Triplet, so no triplet can be satisfied. The soft margin and the losses of TensorFlow Addons have
      no such length; there the limit is a thousandth of the embedding's unit.
    - **at chance**: after the warm-up, the identity loss is still not below that of guessing, ln C for C
      identities.

    Training continues, because a falling learning rate can still help. Meanwhile the progress line shows
    `label`. Models other than `SAN` log neither value and get no warning.

    Args:
        clock: knows the epoch; None counts the epochs of `fit`.
        stage: name of the stage for the warning.
        warmup_epochs: warm-up of the learning rate and the triplet loss, without warnings about chance.
        console: console for the warning; None logs it instead.

    Example:
        >>> san.fit(dataset, epochs=20, callbacks=[CollapseWatch()])
    """

    def __init__(
        self,
        clock: Clock | None = None,
        stage: str = "train",
        warmup_epochs: float = 0.0,
        console: Console | None = None,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.stage = stage
        self.warmup_epochs = warmup_epochs
        self.console = console
        self.label = ""
        self._epochs: dict[str, int] = {"collapsed": 0, "at chance": 0}
        self._said: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Check the epoch's mean values."""
        logs = logs or {}
        if "spread" not in logs or "id_loss" not in logs:
            return
        number = (self.clock.epoch if self.clock else epoch) + 1
        found = {
            "collapsed": logs["spread"] < self._length(),
            "at chance": number > self.warmup_epochs and logs["id_loss"] > CHANCE * self._chance(),
        }
        for name, seen in found.items():
            self._epochs[name] = self._epochs[name] + 1 if seen else 0
        lasting = [name for name, epochs in self._epochs.items() if epochs >= PATIENCE]
        self.label = " and ".join(lasting)
        for name in lasting:
            if name not in self._said:
                self._said.add(name)
                self._say(self._sentence(name, number, logs))

    def _length(self) -> float:
        return float(self.model.margin) if self.model.triplet == "batch-hard" else 1e-3

    def _chance(self) -> float:
        # The margin of ArcFace and CosFace keeps the loss above that of guessing for long.
        if cosine_classifier(self.model.encoder) is not None:
            return math.inf
        classes = int(self.model.encoder.output["logits"].shape[-1])
        # One or two identities are learnt too quickly for ln C to mean anything.
        return math.log(classes) if classes > 2 else math.inf

    def _sentence(self, name: str, epoch: int, logs: Mapping[str, Any]) -> str:
        if name == "collapsed":
            what = (
                f"the embeddings have collapsed: two of a batch are {logs['spread']:.2g} apart on average,"
                f" less than {self._length():g}, and the triplet loss stays at {logs['triplet_loss']:.2g}"
            )
        else:
            what = (
                f"the network still guesses identities: the identity loss is {logs['id_loss']:.3g}, and"
                f" guessing gives {self._chance():.3g}"
            )
        return f"Stage {self.stage}, epoch {epoch}: {what}. It may recover; if not, {HELP}."

    def _say(self, sentence: str) -> None:
        if self.console is None:
            _logger.warning(sentence)
        else:
            self.console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
