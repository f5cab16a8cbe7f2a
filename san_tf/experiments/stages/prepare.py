"""`prepare`: make the data sets an experiment needs, or find them made."""

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
    """Prepare the data sets to train and test on and the paired data; export the first if asked to.

    Raises:
        UserError: there is no data set of that name, its files are missing or damaged, or a folder cannot be
            written.
    """
    recipe, options = experiment.recipe, experiment.options
    # By name, and whether it is tested on, for its images may then lie elsewhere than those trained on.
    wanted = [(name, not is_own(recipe, name)) for name in recipe.test_sets]
    if not (experiment.run.is_done("train") and any(tested for _, tested in wanted)):
        # Else the run is trained, and is tried on other images than its own.
        names = [*recipe.training_sets, *([recipe.data.pit] if recipe.needs_pairs else [])]
        wanted = [*((name, False) for name in names), *wanted]
    for name, tested in dict.fromkeys(wanted):
        builder = prepared_builder(experiment, name, tested, renewed=True)
        counts = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
        experiment.say(f"{builder.info.full_name}: {counts} images in {builder.data_path}")
        for line in told_of(builder):
            experiment.say(f"  {line}")
        if getattr(builder, "made_anew", False) and experiment.run.is_done("train"):
            experiment.say("what this run trained saw the former images; train anew in another --workdir")
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
