"""`prepare`: prepares the data sets that an experiment needs."""

from __future__ import annotations

from pathlib import Path

from san_tf.errors import UserError
from san_tf.experiments.data_records import prepared_builder
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.ownership import is_own
from san_tf.experiments.readiness import tell_readiness
from san_tf.layouts.benchmark_builder import SKIPPED
from san_tf.layouts.benchmark_preparation import told_of
from san_tf.synthesis.generator import export_market


def run(experiment: Experiment) -> None:
    """Prepare the training sets, test sets and paired data; with `--export_folder` also export the data set.

    Raises:
        UserError: there is no such data set, its files are missing or damaged, or a folder cannot be written.
    """
    recipe, options = experiment.recipe, experiment.options
    # Name, and whether it is a test set whose images may come from another folder than the training's.
    wanted = [(name, not is_own(recipe, name)) for name in recipe.test_sets]
    if not (experiment.run.is_done("train") and any(tested for _, tested in wanted)):
        # A trained run that is tested on other images needs only the test sets.
        names = [*recipe.training_sets, *([recipe.data.pit] if recipe.needs_pairs else [])]
        wanted = [*((name, False) for name in names), *wanted]
    for name, tested in dict.fromkeys(wanted):
        builder = prepared_builder(experiment, name, tested, renewed=True)
        counts = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
        experiment.say(f"{builder.info.full_name}: {counts} images in {builder.data_path}")
        for line in told_of(builder):
            experiment.say(f"  {line}")
        if getattr(builder, "made_anew", False) and experiment.run.is_done("train"):
            experiment.say("this run was trained on the former images; train again in another --workdir")
        skipped = Path(builder.data_path, SKIPPED)
        if skipped.is_file():
            number = len(skipped.read_text().splitlines())
            experiment.say(f"{number} damaged images were left out; {skipped} names them")
    tell_readiness(experiment)
    if options.export_folder:
        dataset, _, config = recipe.data.dataset.partition("/")
        if dataset != "synthetic_reid":
            raise UserError(f"--export_folder writes the synthetic data set, not {dataset}; leave it out.")
        export_market(config or "tiny", options.export_folder)
        experiment.say(f"{recipe.data.dataset} in the Market-1501 layout: {options.export_folder}")
