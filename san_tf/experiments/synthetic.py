"""Everything, on data the package makes itself: from nothing to an evaluated, exported encoder."""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import Stage
from san_tf.experiments.experiment import main as run_experiment
from san_tf.experiments.recipe import (
    DataRecipe,
    EvaluationRecipe,
    GeneratorRecipe,
    LossRecipe,
    ModelRecipe,
    Recipe,
    TrainingRecipe,
)

RECIPE = Recipe(
    data=DataRecipe(image_size=(128, 64)),
    model=ModelRecipe(backbone="thin_resnet"),
    losses=LossRecipe(),
    training=TrainingRecipe(
        epochs=20, schedule="cosine", warmup_epochs=2, learning_rate=2e-3, weight_decay=5e-4
    ),
    generator=GeneratorRecipe(generator_epochs=20),
    evaluation=EvaluationRecipe(),
)

_DATA = ("data",)
_GENERATOR = ("seed", "data", "model", "generator")
_TRAIN = (*_GENERATOR, "losses", "training")
STAGES = (
    Stage("prepare", _DATA),
    Stage("texture-generator", _GENERATOR),
    Stage("pseudo-textures", _GENERATOR),
    Stage("train", _TRAIN),
    Stage("evaluate", (*_TRAIN, "evaluation")),
    Stage("export", (*_TRAIN, "evaluation")),
    Stage("report", (*_TRAIN, "evaluation")),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("synthetic", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
