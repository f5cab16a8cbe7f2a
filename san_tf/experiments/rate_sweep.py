"""`--find_learning_rate`: sweeps learning rates on a network of the recipe and suggests one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from rich.progress import Progress

from san_tf.experiments.experiment import Experiment
from san_tf.training.learning_rate_finder import rising_rates, sweep_rates
from san_tf.visualization.rate_sweep_curve import rate_sweep
from san_tf.visualization.style import save_figure

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
