"""Stopping early, in the same epoch whether interrupted or not."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training_model import build, dataset_at, state

from san_tf.checkpoints import read
from san_tf.training.callbacks.guards import measured_since_best
from san_tf.training.loop import TrainingResult, train
from san_tf.training.run_directory import RunDirectory

#           epoch  1    2     3    4    5    6    7    8
MEASURED = (None, 0.3, None, 0.7, 0.7, 0.6, 0.6, 0.9)
"""With patience 2 the seventh epoch is the last: two measurements after the fifth were lower."""


class Measure(keras.callbacks.Callback):
    """Adds an mAP to the epochs that have one, and may pull the plug before an epoch's checkpoint."""

    def __init__(self, crash_in: int | None = None) -> None:
        super().__init__()
        self.crash_in = crash_in

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        assert logs is not None
        if MEASURED[epoch] is not None:
            logs["mAP"] = MEASURED[epoch]
        if epoch == self.crash_in:
            raise RuntimeError("the plug was pulled")


def run_of(
    folder: Path, patience: int = 2, crash_in: int | None = None
) -> tuple[TrainingResult, keras.Model]:
    model = build()
    # When it stops is decided between the epochs; to compile the step takes longer than sixteen of them.
    model.run_eagerly = True
    callbacks = [Measure(crash_in)]
    run = RunDirectory(folder)
    return train(model, dataset_at, 8, 2, run, callbacks=callbacks, best="mAP", patience=patience), model


def test_stops_and_stays_stopped(tmp_path: Path) -> None:
    result, model = run_of(tmp_path)
    assert (result.step, result.stopped_early) == (14, True)
    assert read(RunDirectory(tmp_path).checkpoints("train").best).step == 10  # the last of equal ones
    again, same = run_of(tmp_path)
    assert (again.step, again.resumed_from, again.stopped_early) == (14, 14, True)
    for one, other in zip(state(model), state(same), strict=True):
        np.testing.assert_array_equal(one, other)
    # More patience goes on from there.
    further, _ = run_of(tmp_path, patience=3)
    assert (further.step, further.resumed_from, further.stopped_early) == (16, 14, False)
    assert read(RunDirectory(tmp_path).checkpoints("train").best).step == 16


@pytest.mark.parametrize("crash_in", [1, 4, 5, 6])
def test_a_resumed_training_stops_in_the_same_epoch(tmp_path: Path, crash_in: int) -> None:
    with pytest.raises(RuntimeError, match="plug"):
        run_of(tmp_path, crash_in=crash_in)
    result, _ = run_of(tmp_path)
    assert (result.step, result.resumed_from, result.stopped_early) == (14, 2 * crash_in, True)
    best = read(RunDirectory(tmp_path).checkpoints("train").best)
    assert (best.step, best.extra["mAP"]) == (10, 0.7)


def test_without_patience_all_epochs_are_trained(tmp_path: Path) -> None:
    assert run_of(tmp_path, patience=0)[0].step == 16


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), max_size=9))
def test_measurements_since_the_best(values: list[float]) -> None:
    since = measured_since_best(values)
    if values:
        best = len(values) - 1 - since
        assert values[best] == max(values)
        assert all(value < values[best] for value in values[best + 1 :])
    else:
        assert since == 0
