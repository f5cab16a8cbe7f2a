"""The paper's ablation, on rendered people or on your photographs: the effect of each part of SAN.

All rows share data, texture generator and textures, which are made once. Each row then trains once per seed
in `<workdir>/<row>/seed_<n>/`, from the same initial weights and on the same batches. Finished steps are
skipped. Several processes may work in one workdir: each takes runs that no other process works on. `--stage
report` reports all finished runs; `--stage evaluate` and `--stage probe` repeat these steps of trained runs.

With `--dataset custom/...` and `--folder`, the rows train on photographs. Their true textures and body parts
are unknown, so there is no row `oracle` and no probe, and scores are broken down by camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from san_tf.command_line import run_as_command
from san_tf.errors import UserError
from san_tf.experiments.ablation.rows import is_rendered, rows_for, rows_named
from san_tf.experiments.experiment import Experiment, Stage
from san_tf.experiments.flags import Options, parse
from san_tf.experiments.recipe import (
    DataRecipe,
    EvaluationRecipe,
    GeneratorRecipe,
    LossRecipe,
    ModelRecipe,
    Recipe,
    TrainingRecipe,
)
from san_tf.experiments.recipe_checks import RANGES
from san_tf.experiments.recipe_files import shown
from san_tf.experiments.runner import run_stages
from san_tf.start import import_tensorflow

# The common recipe; `rows.ROWS` has the changes of each row.
RECIPE = Recipe(
    data=DataRecipe(
        dataset="synthetic_reid/ablation",
        # Learning rate, loss weights and the like were chosen on these people; no run trains on them.
        validation_identities=80,
        pit="pit/paper",
        image_size=(128, 64),
        erasing=0.0,
        jitter=0.5,
        pit_per_batch=4,
    ),
    model=ModelRecipe(backbone="thin_resnet", head="fc512", sketch=256),
    losses=LossRecipe(
        lambda_identity=1.0, lambda_triplet=0.3, lambda_reconstruction=1.0, lambda_texture_triplet=0.02
    ),
    training=TrainingRecipe(
        # After 12 epochs the networks did not fit their training images yet, and no decoder loss helped.
        epochs=20,
        schedule="cosine",
        warmup_epochs=0.5,
        learning_rate=3e-3,
        weight_decay=1e-2,
        decay="decoupled",
    ),
    generator=GeneratorRecipe(generator_epochs=10, generator_learning_rate=3e-3, pseudo_textures="identity"),
    evaluation=EvaluationRecipe(flip_average=True),
)

_DATA, _GENERATOR = ("data",), ("seed", "data", "model", "generator")
SHARED = (
    Stage("prepare", _DATA),
    Stage("texture-generator", _GENERATOR),
    Stage("pseudo-textures", _GENERATOR),
    Stage("true-textures", _DATA),
    Stage("surface-labels", _DATA),
)
# Stages of rendered data only.
_TRUTHS = {"true-textures", "surface-labels"}
RUNS, REPORT = "runs", "report"
# Steps of every run that can be repeated.
AGAIN = ("evaluate", "probe")


@dataclass(frozen=True)
class AblationOptions(Options):
    """Folders, rows and seeds of the ablation; no option changes a result."""

    rows: list[str] = field(default_factory=list)
    """Run only these rows; without it, all of them."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of each row's runs; --seed is that of the shared texture generator."""
    threads: int = 0
    """Cores per operation of TensorFlow, for several processes at a time; 0 for all."""


def _check(options: AblationOptions, recipe: Recipe) -> None:
    dataset = recipe.data.dataset
    possible = rows_for(dataset)
    for row in rows_named(options.rows) if options.rows else ():
        if row not in possible:
            raise UserError(
                f"Row {row.name} needs the true textures of rendered people, which {dataset} has not; leave"
                " the row out."
            )
    if recipe.training.method != "both":
        raise UserError("The ablation's rows define what to train; leave --method out and choose --rows.")
    low, high = RANGES["seed"]
    in_range = all(low <= seed <= high for seed in options.seeds)
    if not options.seeds or not in_range or len(set(options.seeds)) < len(options.seeds):
        raise UserError(
            f"--seeds needs different whole numbers from {low:,} to {high:,}, not {shown(options.seeds)}."
        )
    if options.strategy:
        raise UserError("The ablation trains each run on one device; leave --strategy out.")
    if options.threads < 0:
        raise UserError(f"--threads is {options.threads}; give a number of cores, or 0 for all.")


def _do_runs(experiment: Experiment, options: AblationOptions, again: Sequence[str]) -> None:
    from san_tf.experiments.ablation.row_runs import RowRun

    # Seeds in the outer loop, so that a table with all rows is available early.
    for number in range(len(options.seeds)):
        for row in rows_named(options.rows, rows_for(experiment.recipe.data.dataset)):
            seeds = row.seeds(options.seeds)
            if number < len(seeds) and not RowRun(experiment, row, seeds[number]).do(again):
                experiment.console.print(
                    f"[bold]{row.name}, seed {seeds[number]}[/bold]  [dim]another process works on it[/dim]"
                )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the ablation; see `--help`."""

    def action() -> None:
        names = [*(stage.name for stage in SHARED), RUNS, REPORT]
        stages = [*names, *AGAIN]
        options, recipe = parse("ablation", __doc__ or "", RECIPE, stages, argv, AblationOptions)
        _check(options, recipe)
        import_tensorflow(options.threads)
        from san_tf.training.run_directory import RunDirectory

        experiment = Experiment("ablation", recipe, options, RunDirectory(options.workdir))
        asked = options.stage or names
        rendered = is_rendered(recipe.data.dataset)
        shared = [
            stage for stage in SHARED if rendered or stage.name not in _TRUTHS or stage.name in options.stage
        ]
        if any(stage.name in asked for stage in shared):
            # All rows share these stages: a second process waits until the first has finished them.
            run_stages(experiment, shared, wait=True)
        again = [name for name in AGAIN if name in asked]
        if RUNS in asked:
            _do_runs(experiment, options, ())
        if again:
            _do_runs(experiment, options, again)
        if REPORT in asked:
            from san_tf.experiments.ablation.ablation_report import report

            report(experiment, rows_for(recipe.data.dataset))

    run_as_command(action)


if __name__ == "__main__":
    main()
