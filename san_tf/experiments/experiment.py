"""An experiment: a recipe, a run directory, and the stages that lead from one to the other."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from san_tf.command_line import import_tensorflow, run_as_command
from san_tf.experiments.command_line import Options, parse
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.workers import check_shares, console_of, follow
from san_tf.memory import peak_memory

if TYPE_CHECKING:
    # Brings TensorFlow, which `--help` and wrong flags should not have to wait for.
    from san_tf.training.distribution import Distribution
    from san_tf.training.run_directory import RunDirectory


def _one_device() -> Distribution:
    from san_tf.training.distribution import Distribution

    return Distribution()


@dataclass(frozen=True)
class Experiment:
    """What every stage is given."""

    name: str
    recipe: Recipe
    options: Options
    run: RunDirectory
    console: Console = field(default_factory=functools.partial(Console, highlight=False))
    distribution: Distribution = field(default_factory=_one_device)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(f"  {text}", markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Stage:
    """A step of an experiment.

    The stage `pseudo-textures` is the function `run` of `san_tf.experiments.stages.pseudo_textures`, imported
    when its turn comes. What it leaves in the run directory is complete when it returns.

    Args:
        name: as `--stage` takes it.
        parts: the parts of the recipe that decide its result, with those of the stages it builds on.
    """

    name: str
    parts: tuple[str, ...]

    def work(self, experiment: Experiment) -> None:
        """Do it."""
        module = importlib.import_module(f"san_tf.experiments.stages.{self.name.replace('-', '_')}")
        module.run(experiment)

    def fields(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe values that decide the stage's result."""
        return {part: getattr(recipe, part) for part in self.parts}


def run_stages(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Run the stages asked for, or those that are not done yet.

    A stage that was interrupted goes on from its last checkpoint; one that is asked for by name although it
    is done starts anew. With several workers the chief runs them, and the others take part in the training.

    Raises:
        UserError: a stage was run with another recipe in this directory, or fails for a reason of its own.
    """
    run, asked = experiment.run, experiment.options.stage
    chosen = [stage for stage in stages if not asked or stage.name in asked]
    check_shares(experiment, [stage.name for stage in chosen])
    if not experiment.distribution.is_chief:
        follow(experiment, chosen)
        return
    if experiment.options.images or experiment.options.find_learning_rate:
        # Painting somebody's photographs is a use of the run, not a step of it, and so is a sweep of learning
        # rates: it changes no stage.
        for stage in chosen:
            stage.work(experiment)
        return
    # Before anything is written: a stage of another recipe in this run is an error that changes nothing.
    for stage in chosen:
        if not (asked and run.is_done(stage.name)):
            run.is_done(stage.name, stage.fields(experiment.recipe))
    run.write_recipe(experiment.recipe)
    for stage in chosen:
        fields = stage.fields(experiment.recipe)
        done = run.is_done(stage.name)
        title = f"[bold]{stages.index(stage) + 1}/{len(stages)} {stage.name}[/bold]"
        experiment.distribution.of_chief([float(not done or bool(asked))])
        if done and not asked:
            experiment.console.print(f"{title}  [dim]done already[/dim]")
            continue
        if done:
            run.reset(stage.name)
        experiment.console.print(title)
        run.begin(stage.name, fields)
        try:
            stage.work(experiment)
        except BaseException:
            if not (run.path / "checkpoints" / stage.name).exists():
                # There is nothing to go on from, so another recipe may have its turn in this directory.
                run.reset(stage.name)
            raise
        peak = round(peak_memory(), 3)
        run.mark_done(stage.name, peak_memory_gb=peak)
        run.note_in_environment(peak_memory_gb=peak)
        experiment.distribution.wait()
        seconds = run.seconds(stage.name)
        experiment.console.print(f"  [dim]{seconds:.0f} s, peak memory so far {peak:.2f} GB[/dim]")


def main(
    name: str,
    description: str,
    recipe: Recipe,
    stages: Sequence[Stage],
    argv: Sequence[str] | None = None,
    options_class: type[Options] = Options,
    run_all: Callable[[Experiment, Sequence[Stage]], None] = run_stages,
) -> None:
    """Parse the command line, open the run directory, run the stages: the body of every experiment's `main`.

    Args:
        name: of the experiment.
        description: the head of `--help`.
        recipe: the experiment's own recipe.
        stages: in order.
        argv: the arguments; `sys.argv[1:]` where None.
        options_class: for an experiment with options of its own.
        run_all: for one that does more than run the stages once.
    """

    def action() -> None:
        names = [stage.name for stage in stages]
        options, chosen = parse(name, description, recipe, names, argv, options_class)
        distribution = import_tensorflow(strategy=None if options.dry_run else options.strategy)
        if options.dry_run:
            from san_tf.experiments.dry_run import dry_run

            dry_run(name, chosen, options, names)
            return
        from san_tf.training.run_directory import RunDirectory

        run = RunDirectory(options.workdir)
        distribution = distribution or _one_device()
        experiment = Experiment(name, chosen, options, run, console_of(distribution), distribution)
        run_all(experiment, stages)

    run_as_command(action)
