"""Warns when a training learns nothing: collapsed embeddings, or identities at chance."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import keras
from rich.console import Console

from san_tf.models.san import cosine_classifier
from san_tf.training.callbacks.clock import Clock

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
