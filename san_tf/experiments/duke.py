"""DukeMTMC-reID with the paper's recipe, from a copy that you already have.

Its authors withdrew DukeMTMC in 2019, because the people in it had not consented. It is no longer
distributed, and this package does not say where to find copies. Consider whether you need it.

Command: python -m san_tf.experiments.duke --data_dir DATA --manual_dir FOLDER
  FOLDER holds DukeMTMC-reID (or its archive); the stage prepare says what is missing.
Data: 702 identities, 16,522 training images; 2,228 queries of 702 others, 17,661 gallery images.
Expected: the paper reports rank-1 87.9 %, mAP 75.5 % (single query, no re-ranking). This package has not run
  this recipe on DukeMTMC-reID, so its score is unknown.
Cost: SAN and its baseline, each 320 epochs of at most 258 steps of 64 images. Use a GPU; the time on one was
  not measured. Two CPU cores ran a training step of the public code at 0.9 images/s: about 65 days for SAN.
"""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import WITH_TEXTURES
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment

RECIPE = Recipe(
    data=DataRecipe(dataset="dukemtmc_reid", pit="pit/paper"), model=ModelRecipe(weights="imagenet")
)
STAGES = WITH_TEXTURES


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("duke", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
