"""MSMT17 with the paper's recipe, from your copy of the benchmark to an exported encoder.

Command: python -m san_tf.experiments.msmt17 --data_dir DATA --manual_dir FOLDER
  FOLDER holds MSMT17_V1 or MSMT17_V2 (or its archive); the stage prepare says what is missing.
  --dataset names the version; --beam_runner DirectRunner builds it with Apache Beam.
Data: 1,041 identities, 32,621 training images; 11,659 queries of 3,060 others, 82,161 gallery images.
Expected: the paper reports rank-1 79.2 %, mAP 55.7 % (single query, no re-ranking). This package has not run
  this recipe on MSMT17, so its score is unknown.
Cost: SAN and its baseline, each 320 epochs of at most 509 steps of 64 images. Use a GPU; the time on one was
  not measured. Two CPU cores ran a training step of the public code at 0.9 images/s: about 130 days for SAN.
"""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import WITH_TEXTURES
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment

RECIPE = Recipe(data=DataRecipe(dataset="msmt17", pit="pit/paper"), model=ModelRecipe(weights="imagenet"))
STAGES = WITH_TEXTURES


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("msmt17", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
