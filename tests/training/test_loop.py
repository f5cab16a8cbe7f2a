"""The loop: resume bit for bit, stop on NaN and on signals, log each epoch once, show progress."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tiny_training_model import TinyModel, build, dataset_at, loss_scale, state

from san_tf.errors import UserError
from san_tf.training.loop import train
from san_tf.training.ordered_sums import ordered_sums
from san_tf.training.run_directory import RunDirectory


class StopAt(keras.callbacks.Callback):
    """Pull the plug after so many batches of this run, as a crash would."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("the plug was pulled")


def assert_same(left: TinyModel, right: TinyModel) -> None:
    for one, other in zip(state(left), state(right), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyModel, RunDirectory]:
    run = RunDirectory(tmp_path_factory.mktemp("undisturbed"))
    model = build()
    result = train(model, dataset_at, 3, 6, run)
    assert (result.step, result.resumed_from) == (18, 0)
    return model, run


def test_trains_as_a_bare_fit_does(undisturbed: tuple[TinyModel, RunDirectory]) -> None:
    bare = build()
    with ordered_sums():
        bare.fit(dataset_at(0), epochs=3, steps_per_epoch=6, verbose=0)
    assert_same(undisturbed[0], bare)


@pytest.mark.parametrize("batches", [3, 8, 12, 17])
def test_interrupted_training_ends_with_the_same_weights(
    undisturbed: tuple[TinyModel, RunDirectory], tmp_path: Path, batches: int
) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(RuntimeError, match="plug"):
        train(build(), dataset_at, 3, 6, run, save_every_steps=4, callbacks=[StopAt(batches)])
    model = build()
    result = train(model, dataset_at, 3, 6, run, save_every_steps=4)
    expected = max([s for s in (0, 4, 6, 8, 12, 16) if s < batches])
    assert result.resumed_from == expected
    assert_same(undisturbed[0], model)
    rows = run.metrics.rows("train")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "6"), ("2", "12"), ("3", "18")]
    # The interrupted epoch's row too is of all its steps.
    theirs = undisturbed[1].metrics.rows("train")
    assert [row["loss"] for row in rows] == [row["loss"] for row in theirs]


def test_loss_scale_and_its_counter_are_resumed(tmp_path: Path) -> None:
    whole = build(scaled=True)
    train(whole, dataset_at, 2, 5, RunDirectory(tmp_path / "whole"))
    run = RunDirectory(tmp_path / "halves")
    train(build(scaled=True), dataset_at, 1, 5, run)
    model = build(scaled=True)
    train(model, dataset_at, 2, 5, run)
    assert loss_scale(model.optimizer) > float(model.optimizer.initial_scale)
    assert_same(whole, model)


def test_finished_training_is_not_repeated(undisturbed: tuple[TinyModel, RunDirectory]) -> None:
    def never(step: int) -> tf.data.Dataset:
        raise AssertionError("no data is needed")

    model = build()
    assert train(model, never, 3, 6, undisturbed[1]).resumed_from == 18
    assert_same(undisturbed[0], model)


def test_logs(undisturbed: tuple[TinyModel, RunDirectory]) -> None:
    _, run = undisturbed
    row = run.metrics.rows("train")[1]
    assert {"loss", "learning_rate", "images_per_second", "data_wait", "seconds"} <= set(row)
    assert float(row["learning_rate"]) == pytest.approx(0.01)
    assert float(row["images_per_second"]) > 0
    assert 0 <= float(row["data_wait"]) <= 1
    events = list(run.tensorboard("train").glob("events*"))
    assert len(events) == 1
    found = {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(events[0]))
        for value in event.summary.value
    }
    for expected in run.metrics.rows("train"):
        assert found[int(expected["step"]), "loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)


@pytest.mark.parametrize("poison_step", [0, 3, 8, 11])
def test_nan_loss_stops_within_the_step(tmp_path: Path, poison_step: int) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(UserError) as caught:
        train(
            build(), lambda s: dataset_at(s, poison_step), 3, 6, run, "texture-generator", save_every_steps=4
        )
    message = str(caught.value)
    assert message.startswith(f"Stage texture-generator: loss became nan at step {poison_step + 1} (epoch ")
    assert "Lower the learning rate" in message
    good = run.checkpoints("texture-generator").newest()
    if poison_step < 4:
        assert good is None
        assert "no checkpoint" in message
    else:
        assert good is not None
        assert good.step == {8: 8, 11: 8}[poison_step]
        assert str(good.path) in message
        restored = build()
        run.checkpoints("texture-generator").restore_newest(restored, restored.optimizer)
        assert all(np.isfinite(array).all() for array in state(restored))


def test_nan_weights_with_a_finite_loss_are_not_saved(tmp_path: Path) -> None:
    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if batch == 5 and int(self.model.optimizer.iterations) > 6:
                self.model.head.bias.assign([0.0, np.inf, 0.0])

    run = RunDirectory(tmp_path)
    with pytest.raises(UserError, match=r"tiny/head/bias became NaN or infinite at step 12 \(epoch 2 of 3\)"):
        train(build(), dataset_at, 3, 6, run, callbacks=[Poison()])
    newest = run.checkpoints("train").newest()
    assert newest is not None
    assert newest.step == 6


def test_other_architecture_is_one_sentence(undisturbed: tuple[TinyModel, RunDirectory]) -> None:
    with pytest.raises(
        UserError, match=r"step_00000018\.safetensors holds another architecture.*hidden/kernel is"
    ):
        train(build(width=9), dataset_at, 4, 6, undisturbed[1])


def test_best_is_kept_by_a_value_that_a_callback_adds(tmp_path: Path) -> None:
    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            assert logs is not None
            logs["mAP"] = [0.5, 0.7, 0.6][epoch]

    run = RunDirectory(tmp_path)
    train(build(), dataset_at, 3, 2, run, callbacks=[Evaluate()], best="mAP")
    from san_tf.checkpoints import read

    assert read(run.checkpoints("train").best).step == 4
    assert run.metrics.series("train", "mAP") == [(2, 0.5), (4, 0.7), (6, 0.6)]


def test_too_short_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must yield the 18 remaining batches\. Received: 17"):
        train(build(), lambda step: dataset_at(step).take(17), 3, 6, RunDirectory(tmp_path))


def test_lines_without_a_terminal(tmp_path: Path) -> None:
    text = io.StringIO()
    train(build(), dataset_at, 2, 6, RunDirectory(tmp_path), console=Console(file=text))
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"train epoch 2/2 step 6/6 · \S+ images/s · wait \d+ % · 0:00:00 left · loss \d.*", lines[1]
    )


def test_live_line_on_a_terminal(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    train(build(), dataset_at, 2, 6, RunDirectory(tmp_path), console=console)
    assert "epoch 2/2 step 6/6" in text.getvalue()
    assert text.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_a_narrow_terminal_keeps_the_stage_and_the_bar(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=60, color_system=None)
    train(build(), dataset_at, 2, 6, RunDirectory(tmp_path), console=console)
    drawn = [line for line in re.split(r"\r|\n|\x1b\[2K", text.getvalue()) if "epoch 2/2" in line]
    assert drawn
    for line in drawn:
        assert (
            re.match("train [━╸╺ ]{16} epoch 2/2", line) and line.rstrip().endswith("…") and len(line) <= 60
        )


def test_data_wait_is_measured(tmp_path: Path) -> None:
    def slow(start: int) -> tf.data.Dataset:
        def sleep(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            def pause(x: np.ndarray) -> np.ndarray:
                time.sleep(0.05)
                return x

            image = tf.numpy_function(pause, [batch["image"]], tf.float32)
            return {"image": tf.ensure_shape(image, (4, 2, 2, 3)), "label": batch["label"]}

        return dataset_at(start).map(sleep)

    def quick(start: int) -> tf.data.Dataset:
        return dataset_at(start).take(12).cache().prefetch(12)

    class Compute(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            time.sleep(0.02)

    shares = []
    for name, data in (("slow", slow), ("quick", quick)):
        run = RunDirectory(tmp_path / name)
        train(build(), data, 2, 6, run, callbacks=[Compute()])
        shares.append(run.metrics.series("train", "data_wait")[1][1])
    assert shares[0] > 0.4
    assert shares[1] < 0.2


SIGNALLED = """
import sys, time, keras
from tiny_training_model import build, dataset_at
from san_tf.training.loop import train
from san_tf.training.run_directory import RunDirectory

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)
        time.sleep(0.1)

try:
    train(build(), dataset_at, 3, 6, RunDirectory(sys.argv[1]), callbacks=[Slow()])
except KeyboardInterrupt as interrupt:
    print(interrupt)
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_go_on(
    undisturbed: tuple[TinyModel, RunDirectory], tmp_path: Path, number: signal.Signals
) -> None:
    here = Path(__file__).resolve()
    path = os.pathsep.join([str(here.parent), str(here.parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "step\n":
            break
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    message = re.search(
        r"Stage train was stopped after step (\d+) of 18, saved in \S+; the same command", output
    )
    assert message is not None, output
    model = build()
    result = train(model, dataset_at, 3, 6, RunDirectory(tmp_path))
    assert result.resumed_from == int(message[1]) < 18
    assert_same(undisturbed[0], model)


def test_signal_handlers_are_put_back(undisturbed: tuple[TinyModel, RunDirectory], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError):
        train(build(), lambda step: dataset_at(step, 0), 1, 2, RunDirectory(tmp_path))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
