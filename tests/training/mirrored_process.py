"""What is true of replicas, tried on two of one process: `python mirrored_process.py OUT.npz [san | frozen]`.

A process of its own, because a processor can be divided in two only before TensorFlow starts its devices.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
from tiny_san import baseline, build, dataset_at, state  # noqa: E402
from tiny_training_model import LossScaleOptimizer  # noqa: E402

from san_tf.keras_compat import apply_gradients, optimizer_variables, scale_loss  # noqa: E402
from san_tf.keras_distribution import average_moving_statistics, local_value  # noqa: E402
from san_tf.losses import batch_hard_triplet_loss, identity_loss  # noqa: E402
from san_tf.models.replicas import WholeBatch, summed, whole_on_each_replica  # noqa: E402
from san_tf.training.distribution import Distribution, start  # noqa: E402
from san_tf.training.loop import train  # noqa: E402
from san_tf.training.run_directory import RunDirectory  # noqa: E402

Numbers = dict[str, np.ndarray]


def both(distribution: Distribution, value: object) -> list[np.ndarray]:
    return [np.asarray(part) for part in distribution.strategy.experimental_local_results(value)]


def per_replica(distribution: Distribution, parts: list[dict[str, np.ndarray]]) -> dict[str, object]:
    """A batch whose rows differ between the replicas."""

    def value(name: str) -> object:
        return distribution.strategy.experimental_distribute_values_from_function(
            lambda replica: tf.constant(parts[replica.replica_id_in_sync_group][name])
        )

    return {name: value(name) for name in parts[0]}


def losses_of_the_whole_batch(distribution: Distribution) -> Numbers:
    """Losses and gradients of embeddings that lie on two replicas, in an order that is mixed up."""
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((8, 3)).astype(np.float32)
    label = np.array([0, 0, 1, 1, 2, 2, -1, 3], np.int32)
    rows = [np.array([0, 5, 2, 7], np.int32), np.array([1, 3, 4, 6], np.int32)]

    def losses(batch: dict, x: tf.Tensor) -> list[tf.Tensor]:
        whole = WholeBatch(batch)
        known = tf.reduce_sum(tf.cast(batch["label"] >= 0, tf.float32))
        # Three losses: gathered, averaged by rows, and of nothing but rows without identity.
        triplet = batch_hard_triplet_loss(whole.rows(batch["label"]), whole.rows(x))
        identity = whole.mean(identity_loss(batch["label"], tf.concat([x, -x], 1)), known)
        return [triplet, identity, whole.mean(tf.reduce_sum(x) * 0.0, known * 0.0)]

    def gradients(batch: dict) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(batch["x"])
            values = losses(batch, batch["x"])
        return values, [tape.gradient(value, batch["x"]) for value in values[:2]]

    @tf.function
    def step(batch: dict) -> tuple:
        return distribution.strategy.run(gradients, args=(batch,))

    parts = [{"x": embedding[own], "label": label[own], "row": own} for own in rows]
    values, slopes = step(per_replica(distribution, parts))
    alone, slopes_alone = gradients({"x": tf.constant(embedding), "label": tf.constant(label)})
    numbers: Numbers = {}
    for name, value, single in zip(("triplet", "identity", "nothing"), values, alone, strict=True):
        numbers[f"{name} alone"] = np.asarray(single)
        numbers[f"{name} replicas"] = np.stack(both(distribution, value))
    for name, slope, single in zip(("triplet", "identity"), slopes, slopes_alone, strict=True):
        whole = np.zeros_like(embedding)
        for own, part in zip(rows, both(distribution, slope), strict=True):
            whole[own] = part
        numbers[f"{name} slope alone"], numbers[f"{name} slope replicas"] = np.asarray(single), whole
    return numbers


def gradient_of_all_gather(distribution: Distribution) -> Numbers:
    """TensorFlow's own: of a loss that every replica computes whole."""

    def slope(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            replica = tf.distribute.get_replica_context()
            loss = tf.reduce_sum(replica.all_gather(tf.identity(x), axis=0) ** 2)
        return tape.gradient(loss, x)

    value = per_replica(distribution, [{"x": np.array([1.0, 2.0])}, {"x": np.array([3.0, 4.0])}])["x"]
    run = tf.function(lambda x: distribution.strategy.run(slope, args=(x,)))
    return {"all_gather slope": np.concatenate(both(distribution, run(value)))}


class Layered(keras.Model):
    """Batch norm and one dense layer; a row of infinite weight overflows as float16 does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = keras.layers.BatchNormalization(momentum=0.5)
        self.head = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.head(self.norm(image, training=training))

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self(batch["image"], training=True) * batch["scale"])
            scaled = scale_loss(self.optimizer, loss)
        variables = self.trainable_variables
        apply_gradients(self.optimizer, summed(tape.gradient(scaled, variables)), variables)
        return {"loss": loss}


def overflow_on_one_replica(distribution: Distribution) -> Numbers:
    """float16's scaling: a step in which the second replica overflows, and a step in which none does."""
    with distribution.scope():
        model = Layered()
        model(tf.zeros((2, 2)))
        model.compile(
            optimizer=LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=8.0)
        )
        optimizer_variables(model.optimizer, model.trainable_variables)

    def replica_step(batch: dict) -> dict:
        logs = model.train_step(batch)
        average_moving_statistics(model)
        return logs

    step = tf.function(lambda batch: distribution.strategy.run(replica_step, args=(batch,)))
    images = [np.array([[1.0, 2.0], [3.0, 5.0]], np.float32), np.array([[0.0, 1.0], [8.0, 3.0]], np.float32)]
    numbers: Numbers = {}
    for name, scales in (("overflow", ([1.0, 3.0], [np.inf, 1.0])), ("fine", ([1.0, 3.0], [2.0, 1.0]))):
        parts = [
            {"image": image, "scale": np.array(scale, np.float32)[:, None]}
            for image, scale in zip(images, scales, strict=True)
        ]
        step(per_replica(distribution, parts))
        numbers[f"kernel after {name}"] = np.stack(both(distribution, _own(model.head.kernel)))
        numbers[f"scale after {name}"] = np.float64(loss_scale_of(model.optimizer))
        if name == "overflow":
            numbers["moving means"] = np.stack(both(distribution, _own(model.norm.moving_mean)))
            numbers["moving variances"] = np.stack(both(distribution, _own(model.norm.moving_variance)))
    return numbers


def _own(variable: Any) -> Any:
    """The variable of TensorFlow in one of Keras 3; in Keras 2 it is one, and `value` a method."""
    return variable if callable(variable.value) else variable.value


def loss_scale_of(optimizer: keras.optimizers.Optimizer) -> float:
    return float(local_value(dict(optimizer_variables(optimizer, []))["dynamic_scale"]))


def without_rows(distribution: Distribution) -> Numbers:
    """A batch as Keras deals out a data set of one's own: no column with the places of its rows."""
    rng = np.random.default_rng(1)
    embedding = rng.standard_normal((6, 3)).astype(np.float32)
    label = np.array([0, 0, 1, 1, 2, 2], np.int32)
    # Uneven, as the last batch may be.
    parts = [{"x": embedding[own], "label": label[own]} for own in (slice(0, 4), slice(4, 6))]

    def gathered(batch: dict) -> list[tf.Tensor]:
        whole = WholeBatch(batch)
        penalty = tf.reduce_sum(batch["x"]) * 0.0 + 3.0
        return [whole.rows(batch["x"]), whole.rows(batch["label"]), whole_on_each_replica(penalty)]

    run = tf.function(lambda batch: distribution.strategy.run(gathered, args=(batch,)))
    rows, labels, penalty = run(per_replica(distribution, parts))
    return {
        "own rows": np.stack(both(distribution, rows)),
        "own rows expected": embedding,
        "own labels": np.stack(both(distribution, labels)),
        "own labels expected": label,
        "penalty": np.stack(both(distribution, penalty)),
    }


def trained_san(distribution: Distribution, frozen: bool = False) -> Numbers:
    """A SAN with all its losses, or a baseline that is frozen first, trained by one device and by two."""
    numbers: Numbers = {}
    for name, who in (("alone", Distribution()), ("replicas", distribution)):
        model = baseline(who) if frozen else build(who)
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory(folder)
            batches = functools.partial(lambda step, who: dataset_at(step, who.shard), who=who)
            train(model, batches, 2, 3, run, distribution=who, freeze_epochs=int(frozen))
            rows = run.metrics.rows()
        numbers |= {f"{name} {key}": value for key, value in state(model).items()}
        decoder = () if frozen else ("rec_loss", "tr_loss")
        for key in ("loss", "id_loss", "triplet_loss", *decoder, "accuracy", "spread"):
            numbers[f"{name} {key}"] = np.array([float(row[key]) for row in rows])
    return numbers


if __name__ == "__main__":
    two = start("mirrored")
    if sys.argv[2:]:
        np.savez(sys.argv[1], **trained_san(two, frozen=sys.argv[2] == "frozen"))
    else:
        found = {"devices": np.array(two.replicas)} | losses_of_the_whole_batch(two)
        found |= gradient_of_all_gather(two) | overflow_on_one_replica(two) | without_rows(two)
        np.savez(sys.argv[1], **found)
