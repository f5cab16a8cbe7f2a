"""Fifty steps of a small SAN in 16 bits and under XLA, against float32: losses and embeddings agree.

Largest relative difference of the loss over the steps: 0.0022 in float16, 0.018 in bfloat16 with TensorFlow
2.21, 0.011 in float16 with 2.15; of the embeddings at the end, as 1 - cosine, at most 0.0005 and 0.0034.
`ALLOWED` is about three times that.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.models.layer_factory import LayerFactory
from san_tf.models.san import SAN
from san_tf.training.optimizers import build_optimizer
from san_tf.training.precision import precision_scope

STEPS = 50


class Tolerance(NamedTuple):
    """Of the summed loss, relative, at every step; of the embeddings' direction at the end, as 1 - cosine."""

    loss: float
    embedding: float


# 8 bits of bfloat16's significand are 3 fewer than float16's: 0.4 % a rounding.
ALLOWED = {
    ("float32", True): Tolerance(0.002, 0.001),
    ("mixed_float16", False): Tolerance(0.03, 0.002),
    ("mixed_bfloat16", False): Tolerance(0.06, 0.01),
}


def small_san() -> SAN:
    """Convolutions, batch norms, doublings and all four losses, on images of 16x8 pixels."""
    factory = LayerFactory(seed=1)
    image = keras.Input((16, 8, 3))
    stage = factory.conv_bn(factory.conv_bn(image, 8, 3, 2, name="a"), 16, 3, name="b")
    embedding = keras.layers.GlobalAveragePooling2D(dtype="float32")(stage)
    outputs = {"embedding": embedding, "logits": factory.dense(embedding, 4, name="c"), "stages": [stage]}
    maps = keras.Input(stage.shape[1:])
    block = factory.up_conv(maps, 8, name="d")
    painted = factory.conv(keras.layers.ReLU()(block), 3, 3, name="e", bias=True)
    texture = keras.layers.Resizing(16, 16, dtype="float32")(
        keras.layers.Activation("tanh", dtype="float32")(painted)
    )
    decoder = keras.Model([maps], {"texture": texture, "blocks": [block]})
    return SAN(keras.Model(image, outputs), decoder, seed=3)


def batches() -> list[dict[str, tf.Tensor]]:
    """Four people, each of one colour, in noise; the texture to paint is the colour."""
    rng = np.random.default_rng(0)
    colors = rng.standard_normal((4, 3)).astype(np.float32)
    label = np.repeat(np.arange(4), 4).astype(np.int32)
    return [
        {
            "image": tf.constant(
                colors[label][:, None, None] + rng.standard_normal((16, 16, 8, 3)).astype(np.float32)
            ),
            "label": tf.constant(label),
            "texture": tf.tanh(tf.broadcast_to(colors[label][:, None, None], (16, 16, 16, 3))),
            "texture_weight": tf.ones(16),
        }
        for _ in range(8)
    ]


def trained(precision: str, jit_compile: bool) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each step `(STEPS,)` and the embeddings of a batch afterwards."""
    with precision_scope(precision):
        model = small_san()
        model.compile(optimizer=build_optimizer(schedule=3e-3), jit_compile=jit_compile)
    data = batches()
    stacked = {name: tf.stack([batch[name] for batch in data]) for name in data[0]}
    # An epoch of one step: what it logs is that step's.
    dataset = tf.data.Dataset.from_tensor_slices(stacked).repeat()
    history = model.fit(dataset, epochs=STEPS, steps_per_epoch=1, verbose=0, shuffle=False).history
    embedding = model(data[0]["image"])["embedding"]
    return np.array(history["loss"]), np.asarray(embedding, np.float32)


@pytest.fixture(scope="module")
def float32() -> tuple[np.ndarray, np.ndarray]:
    losses, embedding = trained("float32", jit_compile=False)
    assert losses[-5:].mean() < 0.6 * losses[0]  # it learnt, so that there is something to agree on
    return losses, embedding


# Processors without bfloat16 units take a minute for the fifty steps.
@pytest.mark.parametrize(
    ("precision", "jit_compile"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] == "mixed_bfloat16" else ()) for case in ALLOWED],
)
def test_as_float32(float32: tuple[np.ndarray, np.ndarray], precision: str, jit_compile: bool) -> None:
    losses, embedding = trained(precision, jit_compile)
    expected_losses, expected = float32
    allowed = ALLOWED[precision, jit_compile]
    difference = np.abs(losses / expected_losses - 1.0).max()
    lengths = np.linalg.norm(embedding, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (embedding * expected).sum(axis=1) / lengths
    assert difference < allowed.loss
    assert 1.0 - cosine.min() < allowed.embedding
