"""`--find_learning_rate`: sweeps learning rates on a network of the recipe and suggests one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from rich.progress import Progress

from san_tf.errors import UserError
from san_tf.experiments.experiment import Experiment
from san_tf.keras_compat import optimizer_variables
from san_tf.training.ordered_sums import ordered_sums
from san_tf.visualization import style
from san_tf.visualization.style import save_figure

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


def rate_sweep(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    suggestion: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the losses of a learning-rate range test over log rate.

    Args:
        rates: (N,) learning rates, rising, above 0.
        losses: (N,) losses of single batches, drawn as dots.
        smoothed: (N,) smoothed losses, drawn as a line.
        suggestion: A rate to mark, or None.
        title: Above the figure.

    Returns:
        The figure: one axes.

    Raises:
        UserError: If the lengths differ or there is nothing to draw.

    Example:
        >>> rates = np.geomspace(1e-5, 1, 50)
        >>> figure = rate_sweep(rates, 3 - rates, 3 - rates, 1e-3)
    """
    if not len(rates) == len(losses) == len(smoothed) or len(rates) < 2:
        raise UserError(
            f"A sweep needs as many losses as rates, at least 2. Received: {len(rates)}, {len(losses)} and"
            f" {len(smoothed)}."
        )
    head = style.title_height(title)
    figure = style.new_figure(6.2, head + 3.4, title)
    axes = style.plain_axes(style.place(figure, 0.7, head + 0.3, 5.2, 2.5))
    axes.set_xscale("log")
    axes.plot(rates, losses, ".", color=style.MUTED, markersize=3, label="loss of a batch")
    axes.plot(rates, smoothed, color=style.SERIES[0], label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=style.SERIES[1], linewidth=1)
        axes.annotate(
            f"{suggestion:.2g}", (suggestion, 1), (3, -9), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=style.SMALL, color=style.SERIES[1],
        )  # fmt: skip
    # The limits ignore the last, exploded losses, which would hide the rest of the curve.
    low, high = float(smoothed.min()), float(smoothed[: max(2, len(smoothed) // 2)].max())
    axes.set_ylim(low - 0.15 * (high - low) - 1e-6, high + 0.5 * (high - low) + 1e-6)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=style.SMALL, loc="lower left")
    return figure


_LOWEST, _HIGHEST, _STEPS = 1e-6, 1.0, 100


def find_learning_rate(
    experiment: Experiment,
    model: keras.Model,
    batches: tf.data.Dataset,
    optimizer: Callable[[Any], keras.optimizers.Optimizer],
    name: str,
) -> None:
    """Sweep learning rates, write `figures/learning_rate_<name>.png` and print a suggestion.

    Args:
        experiment: experiment whose run gets the figure.
        model: model with its initial weights; it cannot be used afterwards.
        batches: batches of its training.
        optimizer: function from a schedule to the recipe's optimiser.
        name: name of the training, for example `san`.
    """
    model.compile(optimizer=optimizer(rising_rates(_LOWEST, _HIGHEST, _STEPS)))
    with Progress(console=experiment.console, transient=True) as progress:
        task = progress.add_task("  learning rates", total=_STEPS)
        sweep = sweep_rates(
            model,
            batches,
            _LOWEST,
            _HIGHEST,
            _STEPS,
            lambda losses: progress.update(task, completed=len(losses)),
        )
    path = experiment.run.figures / f"learning_rate_{name}.png"
    title = f"Learning rates tried on {name}"
    save_figure(rate_sweep(sweep.rates, sweep.losses, sweep.smoothed, sweep.suggestion, title), path)
    if sweep.suggestion is None:
        experiment.say(f"{path}: the loss never fell; nothing to suggest")
    else:
        experiment.say(f"{path}: the loss falls fastest at a rate of {sweep.suggestion:.1g}")
