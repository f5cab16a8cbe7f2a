"""MSMT17 by the paper's recipe, from your copy of the benchmark to a served encoder.

Command: python -m san_tf.experiments.msmt17 --data_dir DATA --manual_dir FOLDER
  FOLDER holds MSMT17_V1 or MSMT17_V2 (or its archive); the stage prepare says what is missing.
  --dataset names the version; --beam_runner DirectRunner builds it with Apache Beam.
Data: 1,041 identities, 32,621 training images; 11,659 queries of 3,060 others among 82,161 images.
Expected: the paper reports rank-1 79.2 %, mAP 55.7 % (single query, no re-ranking). This recipe has not been
  run on MSMT17 with this package: its score is not known.
Cost: SAN and its baseline, 320 epochs of at most 509 steps of 64 images each. For a GPU; not measured here on
  one. Two CPU cores ran a training step of the public code at 0.9 images/s: some 130 days for SAN.
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
