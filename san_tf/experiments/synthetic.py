"""All stages on rendered people: from no data to an evaluated and exported encoder."""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import WITH_TEXTURES
from san_tf.experiments.recipe import (
    DataRecipe,
    EvaluationRecipe,
    GeneratorRecipe,
    LossRecipe,
    ModelRecipe,
    Recipe,
    TrainingRecipe,
)
from san_tf.experiments.runner import main as run_experiment

# Nothing here is pretrained, so the recipe differs from the paper's, which starts from ImageNet weights.
# A head with batch norm keeps embeddings apart from the first step. The triplet loss is large on its scale
# and gets a smaller weight. Nothing is erased, because the training is short. Colours are jittered, because
# the cameras differ. The decoder's losses get small weights: the paper's weights harm such a short training.
RECIPE = Recipe(
    data=DataRecipe(image_size=(128, 64), erasing=0.0, jitter=0.5, pit_per_batch=0),
    model=ModelRecipe(backbone="thin_resnet", head="fc512", sketch=256),
    losses=LossRecipe(
        lambda_identity=1.0, lambda_triplet=0.1, lambda_reconstruction=0.1, lambda_texture_triplet=0.02
    ),
    training=TrainingRecipe(
        epochs=16,
        schedule="cosine",
        warmup_epochs=0.5,
        learning_rate=3e-3,
        weight_decay=1e-2,
        decay="decoupled",
    ),
    generator=GeneratorRecipe(generator_epochs=20, generator_learning_rate=3e-3, pseudo_textures="identity"),
    evaluation=EvaluationRecipe(flip_average=True),
)

STAGES = WITH_TEXTURES


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("synthetic", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
