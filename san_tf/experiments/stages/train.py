"""`train`: trains SAN and the baseline, the same encoder without decoder."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from san_tf.addons import OWN_OPTIMIZERS
from san_tf.checkpoints import CheckpointFolder, restore
from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import inference_dataset, train_dataset
from san_tf.data.records import Records
from san_tf.data.sampling import pk_steps
from san_tf.data.textures import attach_textures
from san_tf.errors import UserError
from san_tf.evaluation.embedding import Embedder
from san_tf.experiments.data_records import pit_records, reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features
from san_tf.experiments.networks import (
    decoder_of,
    encoder_of,
    encoder_to_start_from,
    mirror_map_of,
    save_weights,
    start_from_generator,
)
from san_tf.experiments.painting import start_weights
from san_tf.experiments.panels import Panels
from san_tf.experiments.rate_sweep import find_learning_rate
from san_tf.experiments.recipe import DataRecipe, Recipe
from san_tf.experiments.stages import pseudo_textures
from san_tf.keras_distribution import synchronize_batch_norms
from san_tf.models.san import SAN, LossWeights
from san_tf.training.loop import train
from san_tf.training.optimizers import build_addons_optimizer, build_optimizer, take_averages
from san_tf.training.precision import set_precision
from san_tf.training.schedules import WarmupCosine, WarmupMilestones, WarmupSteps


class Validation(keras.callbacks.Callback):
    """Adds `mAP` and `rank1` of held-out identities to the logs.

    It measures every `validate_every` epochs and after the last one. The held-out identities are those of
    `validation_identities`, never a test set. Embeddings are compared by the recipe's settings without
    re-ranking, with the Market-1501 protocol.

    Args:
        experiment: experiment with recipe and data.
        encoder: encoder in training.

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
        """Measure if it is due."""
        training = self.recipe.training
        if logs is not None and ((epoch + 1) % training.validate_every == 0 or epoch + 1 == training.epochs):
            logs.update(self.measure())

    def measure(self) -> dict[str, float]:
        """Compute `mAP` and `rank1`, 0 to 1, of the current weights."""
        evaluation, size = self.recipe.evaluation, self.recipe.data.image_size
        query, gallery = (
            # No progress bar, because it would overwrite the training's progress line.
            self._embed(inference_dataset(records, size, 128), evaluation.normalize, description=None)
            for records in (self.query, self.gallery)
        )
        features = Features.of(self.query, query, self.gallery, gallery)
        _, result = next(features.rankings(evaluation, seed=self.recipe.seed))
        return {"mAP": float(result.mAP), "rank1": float(result.cmc[0])}


def take_best(experiment: Experiment, model: keras.Model, checkpoints: CheckpointFolder) -> None:
    """Load the weights with the highest mAP of a training into the model, and report it.

    Args:
        experiment: experiment that reports.
        model: the trained model.
        checkpoints: checkpoints of its training.

    Raises:
        UserError: the checkpoint that holds them is missing or damaged.
    """
    best = restore(checkpoints.best, model)
    value = best.extra.get("mAP")
    if not isinstance(value, (int, float)):
        raise UserError(f"{checkpoints.best} does not say its mAP; delete it and train the last epoch again.")
    experiment.say(f"the weights of step {best.step} are kept: mAP {value:.1%} on held-out identities")


METHODS = ("SAN", "baseline")
NO_DECODER = (
    "no decoder: both weights of its losses are 0 in this recipe, so the encoder is trained on identity and"
    " triplet loss only"
)


def methods_of(recipe: Recipe) -> tuple[str, ...]:
    """Methods that a recipe trains, the exported one first; see `TrainingRecipe.method`."""
    if not recipe.with_decoder:
        return METHODS[1:]
    return METHODS[:1] if recipe.training.method == "san" else METHODS


def weights_path(experiment: Experiment, method: str, part: str = "encoder") -> Path:
    """Path of a method's trained weights in the run.

    Args:
        experiment: experiment with run.
        method: one of `METHODS`, or the name of an ablation's row.
        part: "encoder" or "decoder".
    """
    return experiment.run.path / "weights" / f"{method.lower()}_{part}.weights.h5"


def run(experiment: Experiment) -> None:
    """Train SAN, the baseline, or both.

    Both have the same encoder, initial weights, P x K batches and number of steps.

    Raises:
        UserError: data or pseudo textures are missing, there are too few identities for a batch, or the loss
            becomes NaN.
    """
    records = reid_records(experiment, "train")
    if not experiment.recipe.with_decoder and experiment.recipe.training.method != "baseline":
        experiment.say(NO_DECODER)
    start = encoder_to_start_from(experiment.recipe)
    if start is not None:
        experiment.say(
            f"the encoder starts from {start}, except for the layer classifier, which is new because its"
            " identities differ"
        )
    methods = methods_of(experiment.recipe)
    for method in methods[:1] if experiment.options.find_learning_rate else methods:
        train_method(
            experiment, records, method, pseudo_textures.folder_of(experiment) if method == "SAN" else None
        )


def train_method(
    experiment: Experiment,
    records: Records,
    method: str,
    textures: Path | None,
    generator: Path | None = None,
) -> None:
    """Train one method with the experiment's recipe and write its weights to the run directory.

    Initial weights, batches and augmentation depend only on the recipe's seed, so they are the same for every
    method.

    Args:
        experiment: experiment with recipe and run.
        records: training images.
        method: name for checkpoints, logs and weights.
        textures: folder of the target textures, named after the images; None trains only the encoder.
        generator: weights of the texture generator to start from, if the recipe says so; None takes those of
            the experiment.

    Raises:
        UserError: textures are missing, there are too few identities for a batch, or the loss becomes NaN.
    """
    recipe, distribution = experiment.recipe, experiment.distribution
    set_precision(recipe.model.precision)
    data = recipe.data
    # First, because it fails quickly if there are too few identities for a batch.
    steps = pk_steps(records.pids, data.identities_per_batch, data.images_per_identity)
    steps = recipe.training.steps_per_epoch or steps
    with_decoder = textures is not None
    pairs = mirror_map = None
    if textures is not None:
        records = attach_textures(records, textures)
        mirror_map = mirror_map_of(recipe)
        if recipe.data.pit_per_batch:
            pairs = pit_records(experiment, "train")

    def start_model() -> SAN:
        model = san_of(recipe, records.num_identities, with_decoder)
        model.triplet_warmup = round(recipe.losses.triplet_warmup_epochs * steps)
        if with_decoder and not data.pit_in_norms:
            model.pairs = data.pit_per_batch // distribution.replicas
        # The other workers get their initial weights from the chief.
        if recipe.training.start == "texture-generator" and distribution.is_chief:
            start = generator or start_weights(experiment)
            start_from_generator(model.encoder, model.decoder, recipe, start)
        return model

    def batches(step: int) -> tf.data.Dataset:
        return train_dataset(
            records,
            data.identities_per_batch,
            data.images_per_identity,
            data.image_size,
            recipe.texture_size if with_decoder else None,
            mirror_map=mirror_map,
            augmentation=augmentation_of(data),
            pit=pairs,
            pit_per_batch=data.pit_per_batch if with_decoder else 0,
            seed=recipe.seed,
            start_step=step,
            shard=distribution.shard,
        )

    if experiment.options.find_learning_rate:
        optimizer = functools.partial(optimizer_of, recipe, steps)
        find_learning_rate(experiment, start_model(), batches(0), optimizer, method.lower())
        return
    with distribution.scope():
        model = start_model()
        model.compile(optimizer=optimizer_of(recipe, steps), jit_compile=recipe.model.jit_compile)
    if recipe.model.synchronized_batch_norm:
        synchronize_batch_norms(model)
    validated = recipe.training.validate_every > 0
    stage = f"train/{method.lower()}"
    train(
        model,
        batches,
        recipe.training.epochs,
        steps,
        experiment.run,
        stage,
        callbacks=[
            *([Validation(experiment, model.encoder)] if validated else []),
            Panels(experiment, model, records, stage, recipe.training.epochs),
        ],
        best="mAP" if validated else None,
        patience=recipe.training.patience,
        warmup_epochs=max(
            recipe.training.warmup_epochs,
            recipe.losses.triplet_warmup_epochs,
            recipe.training.freeze_epochs,
        ),
        freeze_epochs=recipe.training.freeze_epochs,
        save_every_seconds=experiment.options.save_every,
        filenames=[*records.filenames, *(pairs.filenames if pairs is not None else [])],
        console=experiment.console,
        distribution=distribution,
    )
    if not distribution.is_chief:
        return
    classes = records.num_identities
    model = distribution.local_copy(model, lambda: san_of(recipe, classes, with_decoder, weights=False))
    if validated:
        take_best(experiment, model, experiment.run.checkpoints(stage))
    else:
        take_averages(model)
    save_weights(model.encoder, weights_path(experiment, method))
    if model.decoder is not None:
        save_weights(model.decoder, weights_path(experiment, method, "decoder"))
    # So that the network can be built again without the data.
    experiment.run.note("train", identities=classes)


def augmentation_of(data: DataRecipe) -> Augmentation:
    """Return a recipe's augmentation of re-ID images."""
    ranges = {
        name: data.jitter_strength * getattr(Augmentation, name)
        for name in ("brightness", "contrast", "saturation", "hue")
    }
    same = ("flip", "translation", "erasing", "jitter", "grayscale", "auto_augment", "blur", "jpeg")
    more = ("low_resolution", "amplitude_mix")
    return Augmentation(
        **{name: getattr(data, name) for name in (*same, *more)}, **ranges, smallest_scale=0.25
    )


def san_of(recipe: Recipe, num_classes: int, with_decoder: bool, weights: bool = True) -> SAN:
    """Build the recipe's SAN with its initial weights, or without decoder its baseline.

    Args:
        recipe: recipe of the experiment.
        num_classes: number of training identities.
        with_decoder: False builds the baseline.
        weights: whether to load pretrained weights, see `encoder_of`.
    """
    encoder = encoder_of(recipe, num_classes, weights)
    losses = recipe.losses
    return SAN(
        encoder,
        decoder_of(recipe, encoder) if with_decoder else None,
        LossWeights(
            losses.lambda_identity,
            losses.lambda_triplet,
            losses.lambda_reconstruction,
            losses.lambda_texture_triplet,
        ),
        margin=losses.margin,
        smoothing=losses.smoothing,
        triplet=losses.triplet,
        seed=recipe.seed,
        circle_margin=losses.circle_margin,
        circle_scale=losses.circle_scale,
        centre_weight=losses.lambda_centre,
        centre_rate=losses.centre_rate,
    )


def optimizer_of(recipe: Recipe, steps_per_epoch: int, schedule: Any = None):  # type: ignore[no-untyped-def]
    """Build the recipe's Keras optimiser: AMSGrad Adam, SGD, or one of TensorFlow Addons.

    Args:
        recipe: recipe of the experiment.
        steps_per_epoch: number of training steps per epoch.
        schedule: schedule of the learning rate; None takes the recipe's.
    """
    training = recipe.training
    schedule = schedule or _schedule_of(recipe, steps_per_epoch)
    clipnorm = training.clip_norm or None
    if training.optimizer not in OWN_OPTIMIZERS:
        return build_addons_optimizer(training.optimizer, schedule, training.weight_decay, clipnorm)
    return build_optimizer(
        training.optimizer,
        weight_decay=training.weight_decay,
        decay=training.decay,
        schedule=schedule,
        clipnorm=clipnorm,
        accumulation=training.accumulation,
        ema=training.ema,
        own_steps=training.freeze_epochs > 0,
    )


def _schedule_of(recipe: Recipe, steps_per_epoch: int) -> WarmupCosine | WarmupMilestones | WarmupSteps:
    training = recipe.training
    if training.schedule == "milestones":
        return WarmupMilestones(
            steps_per_epoch,
            training.learning_rate,
            training.milestones,
            training.milestone_factor,
            training.warmup_epochs,
        )
    if training.schedule == "cosine":
        total = training.epochs * steps_per_epoch
        warmup = min(round(training.warmup_epochs * steps_per_epoch), total - 1)
        return WarmupCosine(training.learning_rate, total, warmup)
    return WarmupSteps(
        steps_per_epoch,
        training.learning_rate,
        training.learning_rate / 100,
        warmup_epochs=round(training.warmup_epochs),
    )
