"""float16: a step whose gradients overflow is left out, and the scale of the loss halved."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from san_tf.keras_compat import optimizer_variables
from san_tf.models.san import SAN
from san_tf.training.optimizers import build_optimizer
from san_tf.training.precision import precision_scope


def build() -> SAN:
    with precision_scope("mixed_float16"):
        image = keras.Input((32, 16, 3))
        stage = keras.layers.Conv2D(8, 3, 4, activation="relu")(image)
        embedding = keras.layers.GlobalAveragePooling2D(dtype="float32")(stage)
        logits = keras.layers.Dense(3, dtype="float32")(embedding)
        model = SAN(keras.Model(image, {"embedding": embedding, "logits": logits, "stages": [stage]}))
        model.compile(optimizer=build_optimizer(schedule=1e-2), jit_compile=False)
    return model


def test_an_overflow_skips_the_step_and_halves_the_scale() -> None:
    model = build()
    generator = np.random.default_rng(0)
    batch = {
        "image": tf.constant(generator.normal(size=(6, 32, 16, 3)), tf.float32),
        "label": tf.constant([0, 0, 1, 1, 2, 2]),
    }
    scale = dict(optimizer_variables(model.optimizer, model.trainable_variables))["dynamic_scale"]
    assert float(scale) == 2.0**15
    step = tf.function(model.train_step)

    def weights() -> list[np.ndarray]:
        return [np.array(variable) for variable in model.trainable_variables]

    scale.assign(2.0**40)  # times a gradient of any size to speak of: beyond float16's 65504
    before = weights()
    assert np.isfinite(float(step(batch)["loss"]))
    for one, other in zip(before, weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(scale) == 2.0**39
    scale.assign(2.0**8)
    step(batch)
    assert all((one != other).any() for one, other in zip(before, weights(), strict=True))
    assert all(np.isfinite(value).all() for value in weights())
    assert float(scale) == 2.0**8
