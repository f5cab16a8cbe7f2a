"""A model with its own train_step, and data that is a function of the step: what the loop's tests train."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from san_tf.keras_compat import KERAS_3, apply_gradients, model_variables, optimizer_variables, scale_loss

LossScaleOptimizer = (keras.optimizers if KERAS_3 else keras.mixed_precision).LossScaleOptimizer


class TinyModel(keras.Model):
    """One hidden layer with dropout (random state) and batch normalisation (moving state)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(name="tiny")
        self.hidden = keras.layers.Dense(width, name="hidden")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.drop = keras.layers.Dropout(0.3, seed=5, name="drop")
        self.head = keras.layers.Dense(3, name="head")
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        flat = tf.reshape(image, (-1, 12))
        return self.head(self.drop(self.norm(self.hidden(flat), training=training), training=training))

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = self(batch["image"], training=True)
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True)
            )
            scaled = scale_loss(self.optimizer, loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        apply_gradients(self.optimizer, gradients, self.trainable_variables)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_tracker]


def build(width: int = 8, scaled: bool = False, learning_rate: float = 0.01) -> TinyModel:
    keras.utils.set_random_seed(3)
    model = TinyModel(width)
    model(tf.zeros((1, 2, 2, 3)))
    optimizer = keras.optimizers.Adam(learning_rate, amsgrad=True)
    if scaled:
        optimizer = LossScaleOptimizer(optimizer, dynamic_growth_steps=3)
    # As an experiment does it; Keras 3 alone would compile the step by XLA, for longer than a test takes.
    model.compile(optimizer=optimizer, jit_compile=False)
    return model


def named_state(model: keras.Model) -> dict[str, np.ndarray]:
    """Every number that a checkpoint has to bring back."""
    named = [
        *model_variables(model),
        *optimizer_variables(model.optimizer, model.trainable_variables),
    ]
    return {f"{number}: {name}": np.array(variable) for number, (name, variable) in enumerate(named)}


def state(model: keras.Model) -> list[np.ndarray]:
    """The values alone, in an order that depends on the architecture only."""
    return list(named_state(model).values())


def loss_scale(optimizer: keras.optimizers.Optimizer) -> float:
    """What the optimizer multiplies losses by at present."""
    return float(dict(optimizer_variables(optimizer, []))["dynamic_scale"])


def dataset_at(start_step: int, poison_step: int | None = None) -> tf.data.Dataset:
    """Batches of four images from `start_step` on; the batch of `poison_step` holds a NaN."""

    def batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.random.stateless_normal((4, 2, 2, 3), tf.stack([tf.constant(1, tf.int64), step]))
        if poison_step is not None:
            image = tf.where(tf.equal(step, poison_step), image * float("nan"), image)
        return {"image": image, "label": tf.stack([step % 3, 0, 1, 2])}

    return tf.data.Dataset.counter(start_step).map(batch).prefetch(2)
