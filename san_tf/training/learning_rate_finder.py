"""Learning-rate range test: measures the loss while the learning rate rises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.keras_compat import optimizer_variables
from san_tf.training.ordered_sums import ordered_sums

_SMOOTHING = 0.8
# Stop when the loss exceeds the smallest one by this factor.
_DIVERGED = 4.0


@dataclass(frozen=True)
class RateSweep:
    """Losses by learning rate.

    Attributes:
        rates: `(steps,)` float64, rising.
        losses: `(steps,)` float64: loss of the batch at each rate, before its step.
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """Weighted means of the losses, with weight 0.8^k for k steps away: `(steps,)` float64."""
        # Both sides count: a mean of earlier losses alone would lag behind the rate.
        steps = np.arange(len(self.losses))
        weights = _SMOOTHING ** np.abs(steps[:, None] - steps)
        return weights @ self.losses / weights.sum(axis=1)

    @property
    def suggestion(self) -> float | None:
        """Rate where the smoothed loss falls fastest over the log of the rate; None if it never falls.

        Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
        """
        smoothed = self.smoothed
        # The first losses depend more on their batches than on their rates.
        first, last = len(smoothed) // 10, int(np.argmin(smoothed)) + 1
        if last - first < 3:
            return None
        slopes = np.gradient(smoothed[first:last], np.log(self.rates[first:last]))
        steepest = int(np.argmin(slopes))
        return float(self.rates[first + steepest]) if slopes[steepest] < 0 else None


def rising_rates(
    lowest: float, highest: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a schedule that rises from the lowest to the highest rate by the same factor each step.

    Args:
        lowest: first rate.
        highest: last rate.
        steps: number of steps.
    """
    return keras.optimizers.schedules.ExponentialDecay(lowest, steps - 1, highest / lowest)


def sweep_rates(
    model: keras.Model,
    dataset: tf.data.Dataset,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    watch: Callable[[Sequence[float]], None] = lambda losses: None,
) -> RateSweep:
    """Train a model with rising learning rates, until its loss explodes or all steps are done.

    Args:
        model: compiled with an optimizer that has `rising_rates(lowest, highest, steps)`; its weights are
            useless afterwards.
        dataset: training batches, at least `steps` of them.
        lowest: first rate.
        highest: last rate.
        steps: number of steps, at least 10.
        watch: called with the losses so far after each step.

    Raises:
        UserError: the rates or steps are out of range, or the loss was not a number from the start.

    Example:
        >>> model.compile(build_optimizer(schedule=rising_rates(1e-6, 1.0, 100)))
        >>> sweep_rates(model, dataset).suggestion
        0.00123
    """
    if not 0 < lowest < highest or steps < 10:
        raise UserError(
            f"A sweep needs 0 < lowest < highest and 10 steps; received {lowest}, {highest} and {steps}."
        )
    losses: list[float] = []
    # A training step that makes the optimizer's variables is traced twice.
    optimizer_variables(model.optimizer, model.trainable_variables)
    with ordered_sums():
        step = tf.function(model.train_step, reduce_retracing=True)
        for batch in dataset.take(steps):
            for metric in model.metrics:
                metric.reset_state()
            loss = float(step(batch)["loss"])
            if not math.isfinite(loss):
                break
            losses.append(loss)
            watch(losses)
            if len(losses) > steps // 10 and loss > _DIVERGED * min(losses):
                break
    if len(losses) < 2:
        raise UserError("The loss was not a number at the lowest learning rate; look at data and losses.")
    rates = lowest * (highest / lowest) ** (np.arange(len(losses)) / (steps - 1))
    return RateSweep(rates, np.array(losses))
