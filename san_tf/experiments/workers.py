"""An experiment on several workers: the chief runs the stages, the others take part in the training."""

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

# The stages that all workers do. The others are the chief's, who alone writes.
TOGETHER = ("texture-generator", "train")


def console_of(distribution: Distribution) -> Terminal:
    """Where an experiment prints: of several workers, the chief's screen alone."""
    if distribution.is_chief:
        return Terminal(highlight=False)
    return Terminal(file=open(os.devnull, "w"), highlight=False)  # as long as the process


def check_shares(experiment: Experiment, stages: Collection[str]) -> None:
    """Whether the batches of these stages can be shared by the replicas, before the first of them starts.

    Raises:
        UserError: they cannot, or the recipe asks for XLA.
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
    """Hold this worker's recipe against the chief's: each worker has a run directory and flags of its own.

    All workers call it, the chief first of all that they do together.

    Raises:
        UserError: the recipes differ; raised on the workers that are not the chief.
    """
    mine = float(fingerprint(experiment.recipe))
    if experiment.distribution.of_chief([mine])[0] != mine:
        raise UserError(
            "This worker's recipe is another than that of the first worker (task 0); start the same command"
            " with the same flags and --config on each, with the --workdir of the same run or an empty one."
        )


def follow(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Do a worker's part that is not the chief: train where the chief trains, wait where it does the rest.

    Raises:
        UserError: the chief or another worker is gone, or what a stage needs is not to be had here.
    """
    if experiment.options.images:
        return
    # It brings TensorFlow, which has been started by now.
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
