"""Trains a SAN on records in one call: batches, optimiser, checkpoints, resume."""

from __future__ import annotations

import os

from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import train_dataset
from san_tf.data.records import Records
from san_tf.data.sampling import pk_steps
from san_tf.errors import UserError
from san_tf.models.san import SAN
from san_tf.training.loop import TrainingResult
from san_tf.training.loop import train as run_loop
from san_tf.training.optimizers import build_optimizer
from san_tf.training.run_directory import RunDirectory
from san_tf.training.schedules import WarmupCosine


def train(
    model: SAN,
    records: Records,
    epochs: int,
    *,
    workdir: str | os.PathLike[str],
    identities_per_batch: int = 16,
    images_per_identity: int = 4,
    learning_rate: float = 1e-3,
    warmup_epochs: float = 2.0,
    weight_decay: float = 1e-2,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> TrainingResult:
    """Train a model on records; repeating the call resumes an interrupted training.

    A model that is not compiled gets AdamW with a linear warm-up and a cosine to zero; a compiled model keeps
    its optimiser. Ctrl-C saves before it stops. With a decoder the records need textures, see
    `data.attach_textures`.

    Args:
        model: model to train in place; its classifier needs one class per identity of the records.
        records: training images.
        epochs: total passes over the images, including those already done.
        workdir: folder for checkpoints, `metrics.csv` and TensorBoard logs; each training needs its own.
        identities_per_batch: P.
        images_per_identity: K; a batch has P x K images.
        learning_rate: highest learning rate, for a model that is not compiled.
        warmup_epochs: warm-up of the learning rate, in epochs.
        weight_decay: decoupled weight decay, for a model that is not compiled.
        augmentation: the paper's flips, translations and erasing by default.
        seed: seed of batches and augmentation; on a CPU the same seed gives the same weights.

    Returns:
        Steps, seconds, and the step it resumed from.

    Raises:
        UserError: a batch needs more identities, the number of classes is wrong, the decoder has no textures,
            the loss became NaN, or the work directory belongs to another network.

    Example:
        >>> data = load_dataset("Market-1501-v15.09.15")
        >>> people = data["train"].num_identities
        >>> encoder = build_encoder("thin_resnet", (128, 64, 3), people, "bnneck", weights=None)
        >>> train(SAN(encoder), data["train"], epochs=40, workdir="runs/mine")
    """
    classes = int(model.encoder.output["logits"].shape[-1])
    if classes != records.num_identities:
        raise UserError(
            f"The classifier has {classes} classes, but the records have {records.num_identities} identities;"
            f" build the encoder with num_classes={records.num_identities}."
        )
    _, height, width, _ = model.encoder.input.shape
    texture_size = None if model.decoder is None else int(model.decoder.output["texture"].shape[1])
    steps = pk_steps(records.pids, identities_per_batch, images_per_identity)
    if getattr(model, "optimizer", None) is None:
        warmup = min(round(warmup_epochs * steps), epochs * steps - 1)
        schedule = WarmupCosine(learning_rate, epochs * steps, warmup)
        model.compile(build_optimizer(schedule=schedule, weight_decay=weight_decay, decay="decoupled"))
    return run_loop(
        model,
        lambda step: train_dataset(
            records,
            identities_per_batch,
            images_per_identity,
            (int(height), int(width)),
            texture_size,
            augmentation=augmentation,
            seed=seed,
            start_step=step,
        ),
        epochs,
        steps,
        RunDirectory(workdir),
        warmup_epochs=warmup_epochs,
        filenames=list(records.filenames),
    )
