"""Partial-REID: finds whole people from images of a part of them, trained on Market-1501.

Command: python -m san_tf.experiments.partial_reid --data_dir DATA --manual_dir FOLDER
  FOLDER holds Market-1501-v15.09.15 to train on, and the folder of Partial-REID to test on (or the archives);
  the stage prepare says what is missing.
Data: 12,936 training images of Market-1501; 300 partial queries, 300 whole gallery images of 60 identities.
  Partial-REID has no cameras: its protocol removes only junk images.
Expected: the paper does not test on it. FastReID-DSR, a method for partial images, is reported with rank-1
  82.7 %, mAP 76.8 %. This package has not run this recipe, so its score is unknown.
Cost: that of san_tf.experiments.market. A trained run of that experiment can be tested without new training:
  python -m san_tf.experiments.market --workdir runs/market --stage evaluate --test partial_reid
"""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import WITH_TEXTURES
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment

RECIPE = Recipe(
    data=DataRecipe(dataset="partial_reid", train=("market1501",), pit="pit/paper"),
    model=ModelRecipe(weights="imagenet"),
)
STAGES = WITH_TEXTURES


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("partial_reid", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
