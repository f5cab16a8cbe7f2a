"""Learning-rate schedules: the paper's warm-up and steps, and a cosine for short runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from san_tf.errors import UserError


@keras.saving.register_keras_serializable("san_tf")
class WarmupSteps(keras.optimizers.schedules.LearningRateSchedule):
    """The paper's schedule: exponential warm-up by epoch, then a peak rate that decays in steps.

    In epoch e (from 0) the rate is `start * growth ** e` while e < warmup_epochs, and
    `peak * decay ** ((e - warmup_epochs) // decay_epochs)` after. The defaults: 8e-6 growing by 1.259 for 20
    epochs (10^(1/10): a factor of 100 in 20 epochs), then 8e-4 halved every 40.

    Args:
        steps_per_epoch: optimiser steps per epoch.
        peak: rate after the warm-up.
        start: rate of the first epoch.
        growth: factor per epoch of the warm-up.
        warmup_epochs: length of the warm-up; may be 0.
        decay_epochs: epochs between two decays.
        decay: factor of each decay.

    Example:
        >>> schedule = WarmupSteps(steps_per_epoch=100)
        >>> [round(float(schedule(step)), 7) for step in (0, 100, 2000, 6000)]
        [8e-06, 1.01e-05, 0.0008, 0.0004]
    """

    def __init__(
        self,
        steps_per_epoch: int,
        peak: float = 8e-4,
        start: float = 8e-6,
        growth: float = 1.259,
        warmup_epochs: int = 20,
        decay_epochs: int = 40,
        decay: float = 0.5,
    ) -> None:
        if steps_per_epoch < 1 or decay_epochs < 1 or warmup_epochs < 0:
            raise UserError("steps_per_epoch and decay_epochs must be at least 1, warmup_epochs at least 0.")
        self.steps_per_epoch = steps_per_epoch
        self.peak = peak
        self.start = start
        self.growth = growth
        self.warmup_epochs = warmup_epochs
        self.decay_epochs = decay_epochs
        self.decay = decay

    def __call__(self, step: Any) -> tf.Tensor:
        """Learning rate of a step (from 0), float32."""
        # Integer division: in float32, dividing a large step by the epoch length can round down too far.
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch
        warm = self.start * self.growth ** tf.cast(epoch, tf.float32)
        halvings = tf.maximum(epoch - self.warmup_epochs, 0) // self.decay_epochs
        late = self.peak * self.decay ** tf.cast(halvings, tf.float32)
        return tf.where(epoch < self.warmup_epochs, warm, late)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return dict(vars(self))


@keras.saving.register_keras_serializable("san_tf")
class WarmupMilestones(keras.optimizers.schedules.LearningRateSchedule):
    """The usual re-ID schedule: linear warm-up, then a peak rate multiplied by `factor` at milestones.

    Step s (from 0) gets `peak (s + 1) / warmup_steps` while s < warmup_steps. After that it gets
    `peak * factor ** n`, where n is the number of milestones up to its epoch (from 0).

    Args:
        steps_per_epoch: optimiser steps per epoch.
        peak: rate after the warm-up.
        milestones: rising epochs, counted from the start of the training.
        factor: factor at each milestone.
        warmup_epochs: length of the warm-up; may be 0 or a fraction.

    Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019,
    equation 1.

    Example:
        >>> schedule = WarmupMilestones(steps_per_epoch=10, peak=1.0, milestones=(4, 7), warmup_epochs=1)
        >>> [round(float(schedule(step)), 3) for step in (0, 9, 10, 39, 40, 70)]
        [0.1, 1.0, 1.0, 1.0, 0.1, 0.01]
    """

    def __init__(
        self,
        steps_per_epoch: int,
        peak: float,
        milestones: Sequence[int] = (40, 70),
        factor: float = 0.1,
        warmup_epochs: float = 10.0,
    ) -> None:
        milestones = list(milestones)
        if steps_per_epoch < 1 or warmup_epochs < 0:
            raise UserError("steps_per_epoch must be at least 1, warmup_epochs at least 0.")
        if milestones != sorted(set(milestones)) or any(epoch < 1 for epoch in milestones):
            raise UserError(f"milestones must be rising epochs from 1, such as 40 70; received {milestones}.")
        self.steps_per_epoch = steps_per_epoch
        self.peak = peak
        self.milestones = milestones
        self.factor = factor
        self.warmup_epochs = warmup_epochs

    def __call__(self, step: Any) -> tf.Tensor:
        """Learning rate of a step (from 0), float32."""
        # In integers: float32 is not exact for large steps.
        step = tf.cast(step, tf.int64)
        starts = tf.constant([epoch * self.steps_per_epoch for epoch in self.milestones], tf.int64)
        passed = tf.reduce_sum(tf.cast(starts <= step, tf.float32))
        late = self.peak * self.factor**passed
        warmup = round(self.warmup_epochs * self.steps_per_epoch)
        warm = self.peak * tf.cast(step + 1, tf.float32) / max(warmup, 1)
        return tf.where(step < warmup, warm, late)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return dict(vars(self))


@keras.saving.register_keras_serializable("san_tf")
class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule multiplied by a factor, for weight decay that follows the learning rate.

    Args:
        schedule: learning-rate schedule.
        factor: factor of its values.

    Example:
        >>> float(Scaled(WarmupCosine(1.0, steps=11), 0.1)(0))
        0.10000000149011612
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, factor: float) -> None:
        self.schedule = schedule
        self.factor = factor

    def __call__(self, step: Any) -> tf.Tensor:
        """The value of a step (from 0), float32."""
        return self.factor * self.schedule(step)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, with the schedule serialised."""
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaled:
        """Rebuild from `get_config`."""
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["factor"])


@keras.saving.register_keras_serializable("san_tf")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for short runs: linear warm-up to the peak, then half a cosine down to `floor`.

    Step s (from 0) gets `peak (s + 1) / warmup_steps` while s < warmup_steps, so that no step has rate 0.
    After that it gets `floor + (peak - floor) (1 + cos(pi t)) / 2`, where t rises from 0 to 1 at the last
    step; beyond, it gets `floor`.

    Args:
        peak: largest rate.
        steps: steps of the whole run, including the warm-up.
        warmup_steps: steps of the warm-up; may be 0.
        floor: rate at the end.

    Example:
        >>> schedule = WarmupCosine(1.0, steps=11, warmup_steps=2)
        >>> [round(float(schedule(step)), 2) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(self, peak: float, steps: int, warmup_steps: int = 0, floor: float = 0.0) -> None:
        if steps < 1 or not 0 <= warmup_steps < steps:
            raise UserError(
                f"A schedule needs 0 <= warmup_steps < steps; received {warmup_steps}, {steps}; train longer."
            )
        self.peak = peak
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.floor = floor

    def __call__(self, step: Any) -> tf.Tensor:
        """Learning rate of a step (from 0), float32."""
        step = tf.cast(step, tf.float32)
        warm = self.peak * (step + 1.0) / max(self.warmup_steps, 1)
        span = max(self.steps - 1 - self.warmup_steps, 1)
        time = tf.clip_by_value((step - self.warmup_steps) / span, 0.0, 1.0)
        late = self.floor + (self.peak - self.floor) * 0.5 * (1.0 + tf.cos(math.pi * time))
        return tf.where(step < self.warmup_steps, warm, late)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return dict(vars(self))
