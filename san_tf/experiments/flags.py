"""Command line of all experiments: flags from the recipe's fields."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from simple_parsing import DashVariant

from san_tf.command_line import Parser, printable
from san_tf.errors import UserError
from san_tf.experiments.ownership import Owned, with_absolute_places
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_checks import check_recipe
from san_tf.experiments.recipe_files import read_recipe_file, shipped_recipes, updated
from san_tf.registry import import_modules
from san_tf.training.cluster import read_cluster


@dataclass(frozen=True)
class Options:
    """Folders and stages of an experiment; no option changes a result."""

    workdir: str
    """Run directory for recipe, logs, checkpoints, figures and results."""
    data_dir: str = field(default_factory=lambda: os.environ.get("TFDS_DATA_DIR", "data"))
    """Folder of prepared data sets."""
    manual_dir: str | None = None
    """Folder with the files of published benchmarks (folders or archives) for the stage `prepare`; none uses
    TFDS's default, `downloads/manual` in the data_dir."""
    beam_runner: str | None = None
    """With the stage `prepare`: build benchmarks with this runner of Apache Beam, such as DirectRunner (needs
    `pip install "san-tf[tfds]"`); the data set is the same without it."""
    save_every: float = 300.0
    """Seconds between checkpoints within an epoch; one is always written at its end."""
    dry_run: bool = False
    """Print the recipe's networks, their parameters, and memory and time, estimated from a few measured
    steps; write nothing."""
    find_learning_rate: bool = False
    """With `--stage train` or `texture-generator`: try learning rates on a network of the recipe, draw the
    figure `learning_rate` and suggest one; the run's training is not changed."""
    panels: int = 10
    """Number of times in a training that textures and ranked lists of a few fixed images are painted for
    TensorBoard."""
    stage: list[str] = field(default_factory=list)
    """Run only these stages, done or not; without it, every stage that is not done yet."""
    export_folder: str | None = None
    """With `--stage prepare`: also write the data set to this folder in the Market-1501 layout."""
    export_texture: bool = False
    """Also export the decoder, as the signature `texture`, which shows what the network sees of a person."""
    export_weights: Literal["float32", "float16"] = "float32"
    """Precision of the exported kernels: `float16` halves the file; the arithmetic stays float32."""
    export_trainable: bool = False
    """Also store the encoder unfolded, without its classifier, so that `san-tf adapt` can train it further.
    The export is then two to three times as large."""
    images: str | None = None
    """With `--stage pseudo-textures`: paint textures for this folder of crops instead."""
    imports: list[str] = field(default_factory=list)
    """Your modules to import first, which register losses or backbones that the recipe names: `--imports
    my_losses` for `my_losses.py` in the current folder."""
    strategy: Literal["mirrored", "multiworker"] | None = None
    """Train (stages `texture-generator` and `train`) on several devices: `mirrored` uses all GPUs of this
    machine, `multiworker` those of all machines in the environment variable TF_CONFIG. With `multiworker`,
    start the same command on each machine (on the first with TF_CONFIG='{"cluster": {"worker":
    ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}', on the second the same with index
    1). The batch size is that of the recipe; P must be a multiple of the number of devices. None uses one
    device."""


OptionsKind = TypeVar("OptionsKind", bound=Options)


def parse(
    name: str,
    description: str,
    recipe: Recipe,
    stages: Sequence[str],
    argv: Sequence[str] | None = None,
    kind: type[OptionsKind] = Options,  # type: ignore[assignment]  # mypy does not take a default for a variable
) -> tuple[OptionsKind, Recipe]:
    """Read the command line of the experiment `name`.

    Flags override the recipe file of `--config`. That overrides the recipe of the run directory, or `recipe`
    if the run directory has none yet.

    Args:
        name: name of the experiment, for `--help` and the default run directory.
        description: text at the beginning of `--help`.
        recipe: default recipe of the experiment.
        stages: stages that `--stage` may name, in order.
        argv: arguments; None takes `sys.argv[1:]`.
        kind: dataclass of the options, for experiments with additional ones.

    Returns:
        The options and the recipe, checked.

    Raises:
        UserError: a flag is unknown, a value is impossible or contradicts the recipe of the run directory, or
            the recipe file cannot be read.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    known = _known_first(argv)
    workdir = known.workdir or f"runs/{name}"
    owned = Owned.read(workdir, recipe)
    default, own = kind(workdir=f"runs/{name}"), recipe
    if owned is not None:
        recipe = owned.recipe
        if owned.data_dir and "TFDS_DATA_DIR" not in os.environ:
            default = dataclasses.replace(default, data_dir=owned.data_dir)
    if known.config == "list":
        for title, about in shipped_recipes().items():
            print(printable(f"{title:12s} {about}"))
        raise SystemExit(0)
    if known.config:
        recipe = read_recipe_file(known.config, recipe)

    default_method = recipe.training.method
    parser = Parser(
        prog=f"python -m san_tf.experiments.{name}",
        description=description,
        usage="%(prog)s [--stage STAGE ...] [--workdir DIR] [--config NAME | FILE] [flags of the recipe]",
        add_option_string_dash_variants=DashVariant.UNDERSCORE,
        epilog=f"Stages: {', '.join(stages)}.",
    )
    parser.add_argument(
        "--config",
        metavar="NAME | FILE",
        help=f"a recipe of this package ({', '.join(shipped_recipes())}; `--config list` describes them)"
        " or a recipe file (YAML); flags override it",
        default=argparse.SUPPRESS,
    )
    # The name of `--method` in older versions.
    former: dict[str, Any] = {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS, "dest": "baseline"}
    parser.add_argument(
        "--baseline", nargs="?", const="true", choices=("true", "false"), type=str.lower, **former
    )
    parser.add_argument("--nobaseline", action="store_const", const="false", **former)
    parser.add_arguments(Recipe, dest="recipe", default=recipe)
    parser.add_arguments(kind, dest="options", default=default)
    arguments = parser.parse_args(argv)
    options: OptionsKind = arguments.options
    recipe = arguments.recipe
    if hasattr(arguments, "baseline"):
        if recipe.training.method != default_method:
            raise UserError("--baseline is the name of --method in older versions; give only --method.")
        weights = {
            name: getattr(recipe.losses, name) for name in ("lambda_reconstruction", "lambda_texture_triplet")
        }
        recipe = updated(recipe, {"baseline": arguments.baseline == "true", **weights}, "--baseline")
    unknown = [stage for stage in options.stage if stage not in stages]
    if unknown:
        raise UserError(f"There is no stage {unknown[0]!r} here; the stages are {', '.join(stages)}.")
    if options.images and "pseudo-textures" not in options.stage:
        raise UserError("--images goes with --stage pseudo-textures; add it.")
    if options.find_learning_rate and not {*options.stage} & {"train", "texture-generator"}:
        raise UserError("--find_learning_rate goes with --stage train or texture-generator; add it.")
    # Written so that NaN does not pass.
    if not 0 < options.save_every < math.inf or not 0 <= options.panels < 2**31:
        raise UserError("--save_every must be a number of seconds above 0, and --panels 0 or more.")
    if options.export_folder and "prepare" not in options.stage:
        raise UserError("--export_folder goes with --stage prepare; add it.")
    if owned is not None:
        recipe = owned.asked(recipe, options.stage, name, own)
    import_modules(options.imports)
    check_recipe(recipe)
    recipe = with_absolute_places(recipe)
    if owned is not None:
        owned.check(recipe, options.stage)
    if options.strategy == "multiworker":
        read_cluster()
    return options, recipe


def _known_first(argv: Sequence[str]) -> argparse.Namespace:
    """Read `--config` and `--workdir` first, because they give the defaults of all other flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    try:
        return parser.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        what = "a recipe file" if error.argument_name == "--config" else "a folder"
        raise UserError(f"{error.argument_name} needs the name of {what}; see --help.") from None
