"""mAP on held-out identities while training goes on: by what the best weights are chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from san_tf.checkpoints import CheckpointFolder, restore
from san_tf.data.pipeline import inference_dataset
from san_tf.errors import UserError
from san_tf.evaluation.embedding import Embedder
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features


class Validation(keras.callbacks.Callback):
    """Adds `mAP` and `rank1` of the held-out identities to the logs of every so many epochs, and of the last.

    The held-out identities are those of `validation_identities`, never the test set, whatever the recipe
    tests on; embeddings are compared as the recipe says, plain, by the Market-1501 protocol.

    Args:
        experiment: whose recipe and data.
        encoder: that is being trained.

    Raises:
        UserError: the data are not prepared.
    """

    def __init__(self, experiment: Experiment, encoder: keras.Model) -> None:
        super().__init__()
        self.recipe = experiment.recipe
        self.encoder = encoder
        on = dataclasses.replace(self.recipe.evaluation, on="validation")
        held_out = dataclasses.replace(experiment, recipe=dataclasses.replace(self.recipe, evaluation=on))
        self.query, self.gallery = (reid_records(held_out, split) for split in ("query", "gallery"))
        alone = experiment.distribution.alone(lambda images: encoder(images, training=False)["embedding"])
        # Traced once, not at each measurement.
        self._embed = Embedder(lambda images, training: alone(images), self.recipe.evaluation.flip_average)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, if it is the epoch's turn."""
        training = self.recipe.training
        if logs is not None and ((epoch + 1) % training.validate_every == 0 or epoch + 1 == training.epochs):
            logs.update(self.measure())

    def measure(self) -> dict[str, float]:
        """`mAP` and `rank1`, 0 to 1, of the weights as they are."""
        evaluation, size = self.recipe.evaluation, self.recipe.data.image_size
        query, gallery = (
            # No bar: the training's line is on the screen, and two would write over each other.
            self._embed(inference_dataset(records, size, 128), evaluation.normalize, description=None)
            for records in (self.query, self.gallery)
        )
        features = Features.of(self.query, query, self.gallery, gallery)
        _, result = next(features.rankings(evaluation, seed=self.recipe.seed))
        return {"mAP": float(result.mAP), "rank1": float(result.cmc[0])}


def take_best(experiment: Experiment, model: keras.Model, checkpoints: CheckpointFolder) -> None:
    """Give the model the weights with the highest mAP of its training, and say so.

    Raises:
        UserError: the checkpoint that holds them is missing or damaged.
    """
    best = restore(checkpoints.best, model)
    value = best.extra.get("mAP")
    if not isinstance(value, (int, float)):
        raise UserError(f"{checkpoints.best} does not say its mAP; delete it and train the last epoch again.")
    experiment.say(f"the weights of step {best.step} are kept: mAP {value:.1%} on held-out identities")
