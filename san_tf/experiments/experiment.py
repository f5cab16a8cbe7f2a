"""An experiment: a recipe, a run directory, and the stages in between."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from san_tf.command_line import Terminal
from san_tf.experiments.flags import Options
from san_tf.experiments.recipe import Recipe

if TYPE_CHECKING:
    from san_tf.training.distribution import Distribution
    from san_tf.training.run_directory import RunDirectory


def _one_device() -> Distribution:
    from san_tf.training.distribution import Distribution

    return Distribution()


@dataclass(frozen=True)
class Experiment:
    """An experiment in progress, the argument of every stage."""

    name: str
    recipe: Recipe
    options: Options
    run: RunDirectory
    console: Terminal = field(default_factory=functools.partial(Terminal, highlight=False))
    distribution: Distribution = field(default_factory=_one_device)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(f"  {text}", markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Stage:
    """A step of an experiment.

    The stage `pseudo-textures` is the function `run` of `san_tf.experiments.stages.pseudo_textures`, imported
    just before it runs. Its output in the run directory is complete when it returns.

    Args:
        name: name for `--stage`.
        parts: parts of the recipe that decide its result, including those of the stages it depends on.
    """

    name: str
    parts: tuple[str, ...]

    def work(self, experiment: Experiment) -> None:
        """Run the stage."""
        module = importlib.import_module(f"san_tf.experiments.stages.{self.name.replace('-', '_')}")
        module.run(experiment)

    def fields(self, recipe: Recipe) -> dict[str, Any]:
        """Recipe values that decide the stage's result: whole parts, or single values by `part.name`."""
        return {name: functools.reduce(getattr, name.split("."), recipe) for name in self.parts}


_DATA = ("data",)
_GENERATOR = ("seed", "data", "model", "generator")
_TRAIN = (*_GENERATOR, "losses", "training")
_MEASURED = (*_TRAIN, "evaluation")

WITH_TEXTURES = (
    Stage("prepare", _DATA),
    Stage("texture-generator", _GENERATOR),
    Stage("pseudo-textures", _GENERATOR),
    Stage("train", _TRAIN),
    Stage("evaluate", _MEASURED),
    # An export holds the network and the preparation of its embeddings.
    Stage("export", (*_TRAIN, "evaluation.normalize", "evaluation.flip_average")),
    Stage("report", _MEASURED),
)
# For objects without a human body: no textures, and the encoder is trained without decoder.
WITHOUT_TEXTURES = tuple(
    stage for stage in WITH_TEXTURES if stage.name not in ("texture-generator", "pseudo-textures")
)
