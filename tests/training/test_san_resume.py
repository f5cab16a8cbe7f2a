"""The real model in the loop: an interrupted SAN ends as an undisturbed one does."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_san
from tiny_training_model import named_state

from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.san import SAN
from san_tf.training.loop import train
from san_tf.training.optimizers import build_optimizer
from san_tf.training.run_directory import RunDirectory
from san_tf.training.schedules import WarmupCosine

BATCH = 6


def build() -> SAN:
    encoder = build_encoder("thin_resnet", (32, 16, 3), num_classes=3, weights=None, seed=0)
    shapes = [stage.shape for stage in encoder.output["stages"]]
    model = SAN(encoder, build_decoder(shapes, widths=(16, 8, 8, 4, 4), seed=1), seed=2)
    schedule = WarmupCosine(1e-3, steps=6, warmup_steps=2)
    model.compile(optimizer=build_optimizer(schedule=schedule), jit_compile=False)
    return model


def dataset_at(start_step: int) -> tf.data.Dataset:
    def batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        seed = tf.stack([step, tf.constant(1, tf.int64)])
        return {
            "image": tf.random.stateless_normal((BATCH, 32, 16, 3), seed),
            "label": tf.constant([0, 0, 1, 1, -1, -1]),
            "texture": tf.tanh(tf.random.stateless_normal((BATCH, 32, 32, 3), seed)),
            "texture_weight": tf.constant([1.0, 1, 1, 0, 1, 1]),
        }

    return tf.data.Dataset.counter(start_step).map(batch).prefetch(2)


class PullThePlug(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if int(self.model.optimizer.iterations) == 5:
            raise RuntimeError("the plug was pulled")


@pytest.mark.slow  # compiles the training step three times
def test_interrupted_san_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = build()
    train(whole, dataset_at, 2, 3, RunDirectory(tmp_path / "whole"))
    run = RunDirectory(tmp_path / "halves")
    with pytest.raises(RuntimeError, match="plug"):
        train(build(), dataset_at, 2, 3, run, callbacks=[PullThePlug()], save_every_steps=2)
    model = build()
    assert train(model, dataset_at, 2, 3, run).resumed_from == 4
    initial = build()
    resumed = named_state(model)
    for name, value in named_state(whole).items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    assert not np.array_equal(initial.variables[0].numpy(), whole.variables[0].numpy())
    row = run.metrics.rows("train")[-1]
    assert {"loss", "id_loss", "triplet_loss", "rec_loss", "tr_loss", "accuracy"} <= set(row)


class StopAfter(keras.callbacks.Callback):
    """Pulls the plug after so many steps of the whole training."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if int(self.model.optimizer.iterations) == self.step:
            raise RuntimeError("the plug was pulled")


FROZEN = {"freeze_epochs": 1, "save_every_steps": 1}


def without_decoder() -> SAN:
    model = SAN(tiny_san.encoder(6), centre_weight=0.1, name="san")
    optimizer = build_optimizer(schedule=1e-3, clipnorm=1.0, own_steps=True)
    model.compile(optimizer=optimizer, jit_compile=False)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SAN:
    model = without_decoder()
    train(model, tiny_san.dataset_at, 2, 3, RunDirectory(tmp_path_factory.mktemp("whole")), **FROZEN)
    return model


slow = pytest.mark.slow


@pytest.mark.parametrize("step", [pytest.param(2, marks=slow), 4, pytest.param(5, marks=slow)])
def test_interrupted_before_at_or_after_the_thaw_it_ends_with_the_same_weights(
    tmp_path: Path, step: int, whole: SAN
) -> None:
    """Two epochs of three steps, the backbone frozen in the first; resumed at step 1, 3 and 4."""
    start = tiny_san.state(without_decoder())
    run = RunDirectory(tmp_path / "halves")
    with pytest.raises(RuntimeError, match="plug"):
        halves = without_decoder()
        train(halves, tiny_san.dataset_at, 2, 3, run, callbacks=[StopAfter(step)], **FROZEN)
    kernel = next(name for name in start if "conv0/kernel" in name)
    assert np.array_equal(start[kernel], tiny_san.state(halves)[kernel]) == (step <= 3)
    model = without_decoder()
    assert train(model, tiny_san.dataset_at, 2, 3, run, **FROZEN).resumed_from == step - 1
    ends = tiny_san.state(model)
    for name, value in tiny_san.state(whole).items():
        np.testing.assert_array_equal(value, ends[name], err_msg=name)
    assert not np.array_equal(start[kernel], ends[kernel])
    assert any("updates" in name and np.all(value == 3) for name, value in ends.items())
