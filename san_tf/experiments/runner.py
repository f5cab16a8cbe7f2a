"""Runs the stages of an experiment: those requested, or those not done yet."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from san_tf.command_line import Terminal, run_as_command
from san_tf.errors import UserError
from san_tf.experiments.experiment import Experiment, Stage
from san_tf.experiments.flags import Options, parse
from san_tf.experiments.ownership import Owned, differences, fingerprint
from san_tf.experiments.recipe import Recipe
from san_tf.resources import peak_memory
from san_tf.start import import_tensorflow

if TYPE_CHECKING:
    from san_tf.experiments.experiment import Experiment, Stage
    from san_tf.training.distribution import Distribution
    from san_tf.training.run_directory import RunDirectory


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
    from san_tf.training.distribution import lost_workers

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


# Long stages; the data are checked before they start.
_TRAININGS = ("texture-generator", "train")


def run_stages(experiment: Experiment, stages: Sequence[Stage], wait: bool = False) -> None:
    """Run the requested stages, or those not done yet.

    An interrupted stage continues from its last checkpoint. A finished stage that is requested by name starts
    again. With several workers the chief runs the stages, and the others join the training. A command that
    fails before a stage has saved anything leaves the run directory unchanged.

    Args:
        experiment: experiment with recipe and run.
        stages: stages in order.
        wait: whether to wait for another process that works in the run, instead of raising an error.

    Raises:
        UserError: the recipe contradicts that of the run, another process works in the run, the data are not
            suitable, or a stage fails.
    """
    asked = experiment.options.stage
    chosen = [stage for stage in stages if not asked or stage.name in asked]
    check_shares(experiment, [stage.name for stage in chosen])
    if not experiment.distribution.is_chief:
        follow(experiment, chosen)
        return

    def waiting(holder: str) -> None:
        experiment.say(f"waiting for {holder}")

    with experiment.run.held(wait, waiting):
        if experiment.options.images or experiment.options.find_learning_rate:
            # Painting a folder of photographs and sweeping learning rates only use the run: they change no
            # stage.
            _owned(experiment)
            for stage in chosen:
                stage.work(experiment)
        else:
            _run(experiment, stages, chosen)


def _owned(experiment: Experiment) -> tuple[Owned | None, bool]:
    """The recipe that the run owns, and whether its training continues for more epochs."""
    owned = Owned.read(experiment.run.path, experiment.recipe)
    grows = owned is not None and owned.check(experiment.recipe, experiment.options.stage)
    for note in owned.notes if owned is not None else ():
        experiment.say(note)
    return owned, grows


def _run(experiment: Experiment, stages: Sequence[Stage], chosen: Sequence[Stage]) -> None:
    run, recipe, asked = experiment.run, experiment.recipe, experiment.options.stage
    owned, grows = _owned(experiment)
    agree_with_workers(experiment)
    due = [stage for stage in chosen if asked or _is_due(run, stage, recipe)]
    if any(stage.name == "evaluate" for stage in due):
        # Figures must show the newest evaluation.
        due = [stage for stage in chosen if stage in due or stage.name == "report"]
    former = run.recipe_contents()
    try:
        for stage in chosen:
            title = f"[bold]{stages.index(stage) + 1}/{len(stages)} {stage.name}[/bold]"
            if stage in due and stage.name in _TRAININGS:
                # This imports TensorFlow, which has been started by now.
                from san_tf.experiments.readiness import check_readiness

                check_readiness(experiment, [later.name for later in due])
            experiment.distribution.of_chief([float(stage in due)])
            if stage not in due:
                experiment.console.print(f"{title}  [dim]done already[/dim]")
                continue
            goes_on = grows and owned is not None and stage.name == "train"
            anew = run.is_done(stage.name) and not goes_on
            experiment.console.print(f"{title}  [dim]anew[/dim]" if anew else title)
            if goes_on and owned is not None:
                before = owned.recipe.training.epochs
                experiment.say(f"epochs were {before} and are {recipe.training.epochs}: training continues")
            if stage is due[0]:
                _own(experiment, owned)
            with run.attempt(stage.name, stage.fields(recipe), anew):
                stage.work(experiment)
            peak = round(peak_memory(), 3)
            run.mark_done(stage.name, peak_memory_gb=peak)
            data_dir = os.path.abspath(experiment.options.data_dir)
            run.note_in_environment(peak_memory_gb=peak, data_dir=data_dir)
            experiment.distribution.wait()
            seconds = run.seconds(stage.name)
            experiment.console.print(f"  [dim]{seconds:.0f} s, peak memory so far {peak:.2f} GB[/dim]")
    except BaseException:
        now = Owned.read(run.path, recipe)
        if now is None or now.fixed == (frozenset() if owned is None else owned.fixed):
            # No stage saved anything with this recipe, so the run gets its former recipe back.
            run.put_back(former)
        raise


def _is_due(run: RunDirectory, stage: Stage, recipe: Recipe) -> bool:
    """Whether a stage is not done, or was done with other values than the recipe's."""
    made_with = run.made_with(stage.name)
    return (
        made_with is None or not run.is_done(stage.name) or bool(differences(made_with, stage.fields(recipe)))
    )


def _own(experiment: Experiment, owned: Owned | None) -> None:
    """Write the recipe of a run without one, or update its values that no stage has used yet."""
    recipe = experiment.recipe
    changes = {} if owned is None else owned.changes(recipe)
    if owned is not None:
        recipe = dataclasses.replace(recipe, evaluation=owned.recipe.evaluation)
    if changes or not experiment.run.recipe_path.is_file():
        for name, (before, now) in changes.items():
            experiment.say(f"{name} was {before} in {experiment.run.recipe_path}, and is {now} from now on")
        experiment.run.write_recipe(recipe, experiment=experiment.name)


def main(
    name: str,
    description: str,
    recipe: Recipe,
    stages: Sequence[Stage],
    argv: Sequence[str] | None = None,
    options_class: type[Options] = Options,
    run_all: Callable[[Experiment, Sequence[Stage]], None] = run_stages,
) -> None:
    """Run an experiment from its command line; the body of every experiment's `main`.

    Args:
        name: name of the experiment.
        description: text at the beginning of `--help`.
        recipe: default recipe of the experiment.
        stages: stages in order.
        argv: arguments; None takes `sys.argv[1:]`.
        options_class: dataclass of the options, for an experiment with additional options.
        run_all: function that runs the stages, for an experiment that does not just run them once.
    """

    def action() -> None:
        names = [stage.name for stage in stages]
        options, chosen = parse(name, description, recipe, names, argv, options_class)
        distribution = import_tensorflow(strategy=None if options.dry_run else options.strategy)
        if options.dry_run:
            from san_tf.experiments.dry_run import dry_run

            dry_run(name, chosen, options, names)
            return
        from san_tf.training.distribution import Distribution
        from san_tf.training.run_directory import RunDirectory

        run = RunDirectory(options.workdir)
        distribution = distribution or Distribution()
        experiment = Experiment(name, chosen, options, run, console_of(distribution), distribution)
        run_all(experiment, stages)

    run_as_command(action)
