"""VeRi-776: vehicles, for which the encoder is trained without decoder.

A texture of this package is the surface of a human body in a fixed layout. A generator trained on people
would paint clothes on cars. So both weights of the decoder's losses are 0 and the stages texture-generator
and pseudo-textures are left out. The result is the paper's baseline, with identity and triplet loss.
Images are 256x256, the size that the field's toolkits use for vehicles. Most vehicles are wider than tall,
and 256x128, for standing people, would squeeze them.

Command: python -m san_tf.experiments.veri776 --data_dir DATA --manual_dir FOLDER
  FOLDER holds VeRi (or its archive); the stage prepare says what is missing.
Data: 576 vehicles, 37,778 training images; 1,678 queries of 200 others, 11,579 gallery images.
Expected: the paper does not use VeRi-776. Public leader boards list rank-1 93.3 % for "SAN", which could not
  be verified. This package has not run this recipe, so its score is unknown.
Cost: only the encoder, 320 epochs of at most 590 steps of 64 images. Use a GPU; not measured here. Two CPU
  cores train ResNet-50 (last stride 2, 256x128) at 4 images/s: about 35 days, and twice that at 256x256.
"""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.errors import UserError
from san_tf.experiments.experiment import WITHOUT_TEXTURES, Experiment, Stage
from san_tf.experiments.recipe import DataRecipe, LossRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment
from san_tf.experiments.runner import run_stages

RECIPE = Recipe(
    data=DataRecipe(dataset="veri776", image_size=(256, 256), pit_per_batch=0),
    model=ModelRecipe(weights="imagenet"),
    losses=LossRecipe(lambda_reconstruction=0.0, lambda_texture_triplet=0.0),
)
STAGES = WITHOUT_TEXTURES


def run(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Run the stages.

    Raises:
        UserError: the recipe has a decoder but no textures for it, or see `run_stages`.
    """
    if experiment.recipe.with_decoder and not experiment.recipe.generator.textures:
        raise UserError(
            "Vehicles have no human body whose texture a decoder could learn; add --method baseline, or give"
            " your own --textures."
        )
    if not experiment.recipe.with_decoder:
        experiment.say("vehicles have no human body to paint: no texture stages, no decoder")
    run_stages(experiment, stages)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("veri776", __doc__ or "", RECIPE, STAGES, argv, run_all=run)


if __name__ == "__main__":
    main()
