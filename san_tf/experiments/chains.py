"""The stages of an experiment in their order: with a texture generator, and without."""

from __future__ import annotations

from san_tf.experiments.experiment import Stage

_DATA = ("data",)
_GENERATOR = ("seed", "data", "model", "generator")
_TRAIN = (*_GENERATOR, "losses", "training")
_MEASURED = (*_TRAIN, "evaluation")

WITH_TEXTURES = (
    Stage("prepare", _DATA),
    Stage("texture-generator", _GENERATOR),
    Stage("pseudo-textures", _GENERATOR),
    Stage("train", _TRAIN),
    Stage("evaluate", _MEASURED),
    # An export holds the network, and what is done to its embeddings before they are compared.
    Stage("export", (*_TRAIN, "evaluation.normalize", "evaluation.flip_average")),
    Stage("report", _MEASURED),
)
# For what has no body: nothing is painted, and the encoder is trained alone.
WITHOUT_TEXTURES = tuple(
    stage for stage in WITH_TEXTURES if stage.name not in ("texture-generator", "pseudo-textures")
)
