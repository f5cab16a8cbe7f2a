"""The smallest SAN there is, with all that replicas could get wrong: batch norms, triplets, drawn partners,
rows without identity or texture, weight decay, AMSGrad, clipping; and data by the package's own pipeline."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
import tensorflow as tf

from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import Shard, train_dataset
from san_tf.data.records import Records
from san_tf.keras_compat import model_variables, optimizer_variables
from san_tf.keras_distribution import local_value, synchronize_batch_norms
from san_tf.models.decoder import build_decoder
from san_tf.models.san import SAN
from san_tf.training.distribution import Distribution
from san_tf.training.optimizers import build_optimizer
from san_tf.training.schedules import WarmupCosine

SIZE, TEXTURE = (32, 16), 32
IDENTITIES, IMAGES, PAIRS = 4, 2, 2
# Columns swapped: the body's own map takes seconds to compute.
MIRROR = np.stack(np.meshgrid(np.arange(TEXTURE), np.arange(TEXTURE)[::-1], indexing="ij"), axis=-1)
ALONE = Distribution()
LOSSES = ("loss", "id_loss", "triplet_loss", "rec_loss", "tr_loss", "accuracy", "spread")


def encoder(classes: int, seed: int = 0) -> keras.Model:
    """Four stages of one convolution and one batch norm each, down to 1/16 of the image."""
    x = image = keras.Input((*SIZE, 3), name="image")
    stages = []
    for number, stride in enumerate((4, 2, 2, 1)):
        start = keras.initializers.GlorotUniform(seed=seed + number)
        # Named, for numbers in names go on counting from what a process built before.
        name = f"conv{number}"
        x = keras.layers.Conv2D(6, 3, stride, "same", use_bias=False, kernel_initializer=start, name=name)(x)
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"bn{number}")(x)
        x = keras.layers.ReLU()(x)
        stages.append(x)
    embedding = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    start = keras.initializers.GlorotUniform(seed=seed + 9)
    logits = keras.layers.Dense(classes, kernel_initializer=start, dtype="float32", name="logits")(embedding)
    return keras.Model(image, {"embedding": embedding, "logits": logits, "stages": stages}, name="encoder")


def build(distribution: Distribution = ALONE, synchronized: bool = True, **optimizer: object) -> SAN:
    with distribution.scope():
        trunk = encoder(len(records().identities))
        decoder = build_decoder(
            [s.shape for s in trunk.output["stages"]], (8, 8, 4, 4, 4), texture_size=TEXTURE, seed=1
        )
        model = SAN(trunk, decoder, seed=2)
        # Slow, for the hardest of a batch are others after a rounding error, and steps grow apart from there.
        schedule = WarmupCosine(1e-3, steps=12, warmup_steps=2)
        # A bias in front of a batch norm has no gradient but rounding errors: a larger epsilon keeps Adam
        # from making steps of them.
        settings = {"schedule": schedule, "clipnorm": 1.0, "epsilon": 1e-3}
        model.compile(optimizer=build_optimizer(**settings | optimizer), jit_compile=False)
    if synchronized:
        synchronize_batch_norms(model)
    return model


def baseline(distribution: Distribution = ALONE) -> SAN:
    """Without decoder; with the centres of L_Centre, and an optimizer for a backbone that is frozen first."""
    with distribution.scope():
        model = SAN(encoder(len(records().identities)), triplet="circle", circle_scale=8.0, centre_weight=0.1)
        settings = {"clipnorm": 1.0, "epsilon": 1e-3, "own_steps": True}
        model.compile(optimizer=build_optimizer(schedule=1e-3, **settings), jit_compile=False)
    synchronize_batch_norms(model)
    return model


def picture(rng: np.random.Generator, height: int, width: int) -> bytes:
    return cv2.imencode(".png", rng.integers(0, 256, (height, width, 3), np.uint8))[1].tobytes()


def records(identities: int = 6, each: int = 3, textures: bool = True) -> Records:
    """Random images; every third has no texture, as a row without one is weighed otherwise."""
    rng = np.random.default_rng(0)
    number = identities * each
    images = [picture(rng, 40, 20) for _ in range(number)]
    painted = [picture(rng, TEXTURE, TEXTURE) if n % 3 else b"" for n in range(number)]
    pids = np.repeat(np.arange(1, identities + 1), each)
    return Records.from_columns(images, pids, textures=painted if textures else None)


def dataset_at(step: int, shard: Shard | None = None, identities: int = IDENTITIES) -> tf.data.Dataset:
    return train_dataset(
        records(), identities, IMAGES, SIZE, TEXTURE,
        augmentation=Augmentation(), pit=records(each=1), pit_per_batch=PAIRS,
        seed=3, start_step=step, shard=shard, mirror_map=MIRROR,
    )  # fmt: skip


def state(model: keras.Model) -> dict[str, np.ndarray]:
    """Weights, moving statistics and the optimizer's slots, as this process sees them."""
    named = [*model_variables(model), *optimizer_variables(model.optimizer, model.trainable_variables)]
    return {f"{number:03d} {name}": local_value(variable) for number, (name, variable) in enumerate(named)}
