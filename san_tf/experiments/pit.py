"""Trains only the texture generator SAN-PG, which paints textures for any folder of person crops."""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import Stage
from san_tf.experiments.recipe import DataRecipe, GeneratorRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment

RECIPE = Recipe(
    # 929 people instead of the demo's 500, and 1,450 steps: with fewer, textures of photographs are worse.
    data=DataRecipe(dataset="", pit="pit/paper", image_size=(128, 64)),
    model=ModelRecipe(backbone="thin_resnet", sketch=256, palette=16),
    generator=GeneratorRecipe(
        generator_epochs=10, generator_learning_rate=3e-3, texture_colors="photographed"
    ),
)

_PARTS = ("seed", "data", "model", "generator")
STAGES = (
    Stage("prepare", ("data",)),
    Stage("texture-generator", _PARTS),
    Stage("report", _PARTS),
    Stage("pseudo-textures", _PARTS),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("pit", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
