"""Experiments on several workers: the chief runs all stages, the others join the training."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from san_tf.command_line import Terminal
from san_tf.errors import UserError
from san_tf.experiments.ownership import fingerprint

if TYPE_CHECKING:
    from san_tf.experiments.experiment import Experiment, Stage
    from san_tf.training.distribution import Distribution

# Stages that all workers run. Only the chief runs the others, and only the chief writes files.
TOGETHER = ("texture-generator", "train")


def console_of(distribution: Distribution) -> Terminal:
    """Return the console of an experiment; only the chief of several workers prints."""
    if distribution.is_chief:
        return Terminal(highlight=False)
    return Terminal(file=open(os.devnull, "w"), highlight=False)  # as long as the process


def check_shares(experiment: Experiment, stages: Collection[str]) -> None:
    """Check that the replicas can share the batches of these stages, before the first stage starts.

    Raises:
        UserError: they cannot, or the recipe sets `jit_compile` (XLA).
    """
    recipe, shares = experiment.recipe, {}
    if experiment.options.find_learning_rate and experiment.distribution.strategy is not None:
        raise UserError("--find_learning_rate sweeps on one device; leave --strategy out.")
    trains_generator = not (recipe.generator.textures or recipe.generator.generator_weights)
    if "train" in stages:
        shares["identities_per_batch"] = recipe.data.identities_per_batch
        shares["pit_per_batch"] = recipe.data.pit_per_batch if recipe.with_decoder else 0
    if "texture-generator" in stages and recipe.with_generator and trains_generator:
        shares["generator_batch"] = recipe.generator.generator_batch
    if shares:
        experiment.distribution.check(recipe.model.jit_compile, **shares)


def agree_with_workers(experiment: Experiment) -> None:
    """Check that this worker's recipe equals the chief's.

    Each worker has its own run directory and flags. All workers, the chief included, call it before any other
    joint step.

    Raises:
        UserError: the recipes differ; raised only on workers other than the chief.
    """
    mine = float(fingerprint(experiment.recipe))
    if experiment.distribution.of_chief([mine])[0] != mine:
        raise UserError(
            "This worker's recipe differs from that of the first worker (task 0); start the same command with"
            " the same flags and --config on each worker, with the --workdir of the same run or an empty one."
        )


def follow(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Run a worker other than the chief: join the training, and wait during the other stages.

    Raises:
        UserError: the chief or another worker ended, or this machine lacks what a stage needs.
    """
    if experiment.options.images:
        return
    # This imports TensorFlow, which has been started by now.
    from san_tf.training.lost_workers import lost_workers

    distribution = experiment.distribution
    with lost_workers(distribution.workers, "The first worker ended before any stage; its message says why."):
        agree_with_workers(experiment)
    for stage in stages:
        where = f"Another worker ended while this one waited at stage {stage.name}; its own message says why."
        with lost_workers(distribution.workers, where):
            wanted = bool(distribution.of_chief([0.0])[0])
        if not wanted:
            continue
        if stage.name in TOGETHER:
            stage.work(experiment)
        with lost_workers(distribution.workers, where):
            distribution.wait()
