"""The callbacks one by one, where the loop's own tests do not reach."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import tensorflow as tf
from rich.console import Console
from tiny_training_model import build

from san_tf.checkpoints import CheckpointFolder
from san_tf.errors import UserError
from san_tf.training.callbacks.clock import Clock, DataWait
from san_tf.training.callbacks.guards import FiniteLoss
from san_tf.training.callbacks.interruption import Interruption
from san_tf.training.callbacks.reports import ProgressLine
from san_tf.training.callbacks.saving import SaveCheckpoints


def test_clock_counts_from_the_middle_of_an_epoch() -> None:
    clock = Clock(start_step=13, epochs=4, steps_per_epoch=5, batch_size=8)
    assert (clock.epoch, clock.step, clock.total_steps) == (2, 13, 20)
    clock.on_epoch_begin(2)
    clock.on_train_batch_end(0)
    assert (clock.step, clock.epoch_is_complete) == (14, False)
    assert clock.images_per_second() is None  # the first step compiles and is not a measure
    assert clock.seconds_left() is None
    time.sleep(0.02)
    clock.on_train_batch_end(1)
    assert (clock.step, clock.epoch_is_complete) == (15, True)
    assert 0 < (clock.images_per_second() or 0) <= 8 / 0.02
    clock.on_epoch_begin(3)
    for batch in range(5):
        clock.on_train_batch_end(batch)
    assert (clock.step, clock.epoch, clock.epoch_is_complete) == (20, 3, True)
    assert clock.seconds_left() == 0


def test_clock_estimates_the_rest() -> None:
    clock = Clock(0, epochs=2, steps_per_epoch=10)
    clock.on_epoch_begin(0)
    clock.on_train_batch_end(0)
    began = time.perf_counter()
    time.sleep(0.2)
    clock.on_train_batch_end(1)
    assert clock.seconds_left() == pytest.approx(18 * (time.perf_counter() - began), rel=0.2)
    assert clock.wait_fraction() is None  # nothing measures it


def test_data_wait_adds_up_the_waiting_only() -> None:
    def pause(x: tf.Tensor) -> tf.Tensor:
        time.sleep(0.05)
        return x

    slow = tf.data.Dataset.range(4).map(
        lambda x: tf.ensure_shape(tf.numpy_function(pause, [x], tf.int64), ())
    )
    wait = DataWait()
    measured = wait.measured(slow)
    assert measured.element_spec == slow.element_spec
    assert int(measured.cardinality()) == 4
    found = []
    for value in measured:
        found.append(int(value))
        time.sleep(0.1)
    assert found == [0, 1, 2, 3]
    assert 0.19 < wait.seconds() < 0.4  # the loop lasts 0.6 s
    # With a prefetch the waiting hides behind the computing.
    hidden = DataWait()
    for _ in hidden.measured(slow.prefetch(2)):
        time.sleep(0.1)
    assert hidden.seconds() < 0.7 * wait.seconds()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_any_log_that_is_not_finite_ends_training(tmp_path: Path, value: float) -> None:
    clock = Clock(0, 2, 10)
    clock.on_epoch_begin(0)
    clock.on_train_batch_end(3)
    guard = FiniteLoss(clock, CheckpointFolder(tmp_path), "train")
    guard.on_train_batch_end(3, {"loss": 1.0, "rec_loss": 0.0})
    with pytest.raises(UserError, match=rf"Stage train: rec_loss became {value} at step 4 \(epoch 1 of 2\)"):
        guard.on_train_batch_end(3, {"loss": 1.0, "rec_loss": value})


def saving_callback(clock: Clock, folder: CheckpointFolder, **options: object) -> SaveCheckpoints:
    saving = SaveCheckpoints(clock, folder, "train", **options)  # type: ignore[arg-type]
    saving.set_model(build())
    return saving


def test_saving_by_time_and_by_steps(tmp_path: Path) -> None:
    clock = Clock(0, 2, 10)
    clock.on_epoch_begin(0)
    by_time = saving_callback(clock, CheckpointFolder(tmp_path / "time"), every_seconds=0.2)
    by_steps = saving_callback(clock, CheckpointFolder(tmp_path / "steps", keep=9), every_steps=3)
    for batch in range(10):
        if batch == 5:
            time.sleep(0.25)
        clock.on_train_batch_end(batch)
        by_time.on_train_batch_end(batch, {})
        by_steps.on_train_batch_end(batch, {})
    assert 6 in [int(path.stem[5:]) for path in by_time.checkpoints.paths()]
    assert [int(path.stem[5:]) for path in by_steps.checkpoints.paths()] == [9, 6, 3]
    by_steps.on_epoch_end(0, {})
    newest = by_steps.checkpoints.newest()
    assert newest is not None
    assert (newest.step, newest.extra) == (10, {"stage": "train", "epoch": 1})


def test_the_best_survives_a_restart(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for start, value, best in ((0, 0.5, 1), (1, 0.7, 2), (2, 0.6, 2), (3, 0.7, 4)):
        clock = Clock(start, 9, 1)
        saving = saving_callback(clock, folder, best="mAP")
        clock.on_epoch_begin(start)
        clock.on_train_batch_end(0)
        saving.on_epoch_end(start, {"mAP": value})
        from san_tf.checkpoints import read

        assert read(folder.best).step == best
    saving.on_epoch_end(4, {})  # an epoch without the measurement changes nothing


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    clock = Clock(0, 1, 5)
    before = signal.getsignal(signal.SIGINT)
    interruption = Interruption(clock, saving_callback(clock, CheckpointFolder(tmp_path)), "train")
    with pytest.raises(KeyboardInterrupt, match="immediately, without saving"), interruption:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interruption.asked
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.iterdir())


def test_signal_at_the_end_of_an_epoch_waits_for_its_measurements(tmp_path: Path) -> None:
    clock = Clock(0, 2, 1)
    interruption = Interruption(clock, saving_callback(clock, CheckpointFolder(tmp_path)), "train")
    with interruption:
        clock.on_epoch_begin(0)
        clock.on_train_batch_end(0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        interruption.on_train_batch_end(0)
        assert not list(tmp_path.iterdir())
        with pytest.raises(
            KeyboardInterrupt, match=r"after step 1 of 2, saved in .*; the same command resumes"
        ):
            interruption.on_epoch_end(0)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.safetensors"]


def test_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    clock = Clock(0, 1, 1)
    interruption = Interruption(clock, saving_callback(clock, CheckpointFolder(tmp_path)), "train")
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with interruption:
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_progress_line_names_what_is_known() -> None:
    clock = Clock(0, 3, 4)
    line = ProgressLine(clock, "train", Console(file=io.StringIO()))
    clock.on_epoch_begin(0)
    assert line.line({"accuracy": 0.5, "id_loss": 1.25, "loss": 2.0, "learning_rate": 1e-3}) == (
        "epoch 1/3 step 0/4 · loss 2 accuracy 0.5 id 1.25"
    )
