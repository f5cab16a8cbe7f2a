"""CUHK03 with the paper's recipe: the 767/700 protocol, or the classic one with 20 splits.

Command: python -m san_tf.experiments.cuhk03 --data_dir DATA --manual_dir FOLDER
  FOLDER holds cuhk03_release with cuhk-03.mat, and next to it the files of the 767/700 protocol; the stage
  prepare says what is missing. --dataset cuhk03/detected takes the boxes of a detector instead of those drawn
  by hand. --splits 1 2 3 (up to 20) runs the classic protocol on these splits: one network per split, 100
  people to find, one random gallery image of each, drawn 100 times (--repeats); results.json has the means.
Data: labeled: 767 identities, 7,368 training images; 1,400 queries of 700 others, 5,328 gallery images.
Expected: the paper reports rank-1 80.1 %, mAP 76.4 % (labeled, 767/700, single query, no re-ranking) and for
  its baseline 73.7 %, 69.8 %. This package has not run this recipe on CUHK03, so its score is unknown. (A
  user of the public code reported 72.0 %, 68.2 % with it.)
Cost: SAN and its baseline, each 320 epochs of at most 115 steps of 64 images; in the classic protocol about
  190 steps, for each split. Use a GPU; the time on one was not measured. Two CPU cores ran a training step of
  the public code at 0.9 images/s: about 30 days for SAN on labeled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from san_tf.errors import UserError
from san_tf.experiments.experiment import WITH_TEXTURES, Experiment, Stage
from san_tf.experiments.flags import Options
from san_tf.experiments.recipe import DataRecipe, EvaluationRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment
from san_tf.experiments.runner import run_stages
from san_tf.experiments.splits import run_splits

# 100 draws, as in DeepReID (Li et al., CVPR 2014); the 767/700 protocol draws nothing.
RECIPE = Recipe(
    data=DataRecipe(dataset="cuhk03/labeled", pit="pit/paper"),
    model=ModelRecipe(weights="imagenet"),
    evaluation=EvaluationRecipe(repeats=100),
)
STAGES = WITH_TEXTURES
NUM_SPLITS = 20


@dataclass(frozen=True)
class Cuhk03Options(Options):
    """Options of an experiment, and the classic splits to run."""

    splits: list[int] = field(default_factory=list)
    """Run the classic protocol on these of its 20 splits, each in its own folder; none runs 767/700."""


def run(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Run the 767/700 protocol, or the classic one on the given splits.

    Raises:
        UserError: there is no such split, or see `run_stages`.
    """
    splits = getattr(experiment.options, "splits", [])
    if not splits:
        run_stages(experiment, stages)
        return
    if experiment.distribution.workers > 1:
        raise UserError("--splits is for one machine; leave --strategy multiworker out, or name a --dataset.")
    wrong = [split for split in splits if not 1 <= split <= NUM_SPLITS]
    if wrong:
        raise UserError(f"CUHK03 has no classic split {wrong[0]}; they are numbered 1 to {NUM_SPLITS}.")
    dataset, _, config = experiment.recipe.data.dataset.partition("/")
    boxes = (config or "labeled").partition("_")[0]
    run_splits(
        experiment,
        stages,
        {f"split_{split:02d}": f"{dataset}/{boxes}_classic_{split:02d}" for split in dict.fromkeys(splits)},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("cuhk03", __doc__ or "", RECIPE, STAGES, argv, Cuhk03Options, run)


if __name__ == "__main__":
    main()
