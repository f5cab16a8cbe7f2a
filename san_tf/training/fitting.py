"""Train a SAN on records in one call: batches, optimiser, checkpoints, resume."""

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
    """Train a model on records; the same call goes on where an interrupted one stopped.

    A model that is not compiled gets AdamW with a linear warm-up and a cosine to zero; one that is keeps its
    optimiser. Ctrl-C saves first. With a decoder the records need textures, see `data.attach_textures`.

    Args:
        model: to be trained in place; its classifier must have as many classes as the records identities.
        records: training images.
        epochs: passes over the images, those done before included.
        workdir: where checkpoints, `metrics.csv` and TensorBoard logs go; one a training.
        identities_per_batch: P.
        images_per_identity: K; a batch has P x K images.
        learning_rate: highest one, of a model that is not compiled.
        warmup_epochs: of the learning rate.
        weight_decay: decoupled, of a model that is not compiled.
        augmentation: how images are varied; the paper's flips, translations and erasing by default.
        seed: of batches and augmentation; the same gives the same weights on a CPU.

    Returns:
        Steps, seconds, and where it resumed from.

    Raises:
        UserError: too few identities for a batch, another number of classes, no textures for the decoder, a
            loss that became NaN, or a work directory of another network.

    Example:
        >>> data = load_dataset("Market-1501-v15.09.15")
        >>> people = data["train"].num_identities
        >>> encoder = build_encoder("thin_resnet", (128, 64, 3), people, "bnneck", weights=None)
        >>> train(SAN(encoder), data["train"], epochs=40, workdir="runs/mine")
    """
    classes = int(model.encoder.output["logits"].shape[-1])
    if classes != records.num_identities:
        raise UserError(
            f"The classifier has {classes} classes, but the records {records.num_identities} identities;"
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
