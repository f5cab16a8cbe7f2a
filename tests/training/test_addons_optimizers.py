"""Optimisers of TensorFlow Addons in the training loop: checkpoints, loss scale and logs like the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_training_model
from tiny_training_model import LossScaleOptimizer, TinyModel, dataset_at, loss_scale, state

from san_tf.training.loop import train
from san_tf.training.optimizers import build_addons_optimizer
from san_tf.training.run_directory import RunDirectory
from san_tf.training.schedules import WarmupCosine

pytest.importorskip("tensorflow_addons")
SCHEDULE = WarmupCosine(0.1, steps=10, warmup_steps=2)


def build(name: str, scaled: bool) -> TinyModel:
    model = tiny_training_model.build()
    optimizer = build_addons_optimizer(name, SCHEDULE, weight_decay=0.01)
    optimizer = LossScaleOptimizer(optimizer, dynamic_growth_steps=3) if scaled else optimizer
    model.compile(optimizer, jit_compile=False)
    return model


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["tfa.LAMB", "tfa.AdamW"])
def test_a_training_in_halves_ends_with_the_same_weights(tmp_path: Path, name: str, scaled: bool) -> None:
    whole = build(name, scaled)
    initial = state(whole)
    run = RunDirectory(tmp_path / "whole")
    train(whole, dataset_at, 2, 5, run)
    halves = RunDirectory(tmp_path / "halves")
    train(build(name, scaled), dataset_at, 1, 5, halves)
    model = build(name, scaled)
    assert train(model, dataset_at, 2, 5, halves).resumed_from == 5
    for before, one, other in zip(initial, state(whole), state(model), strict=True):
        np.testing.assert_array_equal(one, other)
        # The schedule's last rate is 0, but its ninth step moved everything.
        assert not np.array_equal(before, one)
    if scaled:
        assert loss_scale(model.optimizer) > float(model.optimizer.initial_scale)
    rates = [value for _, value in run.metrics.series("train", "learning_rate")]
    assert rates == pytest.approx([float(SCHEDULE(5)), float(SCHEDULE(10))], abs=1e-7)


@pytest.mark.parametrize("name", ["tfa.LAMB", "tfa.AdamW", "tfa.SGDW", "tfa.NovoGrad"])
def test_clipping_reaches_them(name: str) -> None:
    assert build_addons_optimizer(name, 0.1, clipnorm=2.0).global_clipnorm == 2.0
