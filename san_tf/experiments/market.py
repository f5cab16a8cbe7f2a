"""Market-1501 with the paper's recipe, from your copy of the benchmark to an exported encoder.

Command: python -m san_tf.experiments.market --data_dir DATA --manual_dir FOLDER
  FOLDER holds Market-1501-v15.09.15 (or its archive); the stage prepare says what is missing.
Data: 751 identities, 12,936 training images; 3,368 queries of 750 others, 19,732 gallery images.
Expected: the paper reports rank-1 96.1 %, mAP 88.0 % (single query, no re-ranking) and for its baseline
  94.1 %, 83.2 %. This package has not run this recipe on Market-1501, so its score is unknown.
Cost: SAN and its baseline, each 320 epochs of at most 202 steps of 64 images. Use a GPU; the time on one was
  not measured. Two CPU cores ran a training step of the public code at 0.9 images/s: about 50 days for SAN.
"""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import WITH_TEXTURES
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment

RECIPE = Recipe(data=DataRecipe(dataset="market1501", pit="pit/paper"), model=ModelRecipe(weights="imagenet"))
STAGES = WITH_TEXTURES


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("market", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
