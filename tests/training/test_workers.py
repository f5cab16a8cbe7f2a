"""Two processes on this machine train as one does; one that is killed or told to stop ends both in words."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_san import build, dataset_at, state

from san_tf.training.loop import train
from san_tf.training.run_directory import RunDirectory

HERE = Path(__file__).resolve().parent
LOSSES = ("loss", "id_loss", "triplet_loss", "rec_loss", "tr_loss", "accuracy", "spread")
STEPS = 3


def start_workers(folder: Path, epochs: int) -> list[subprocess.Popen]:
    """The chief and one more, on ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as other:
        for listener in (one, other):
            listener.bind(("localhost", 0))
        workers = [f"localhost:{listener.getsockname()[1]}" for listener in (one, other)]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "PYTHONPATH": path, "TF_CONFIG": json.dumps(config)}
        processes.append(
            subprocess.Popen(
                [sys.executable, HERE / "worker_process.py", folder, str(epochs)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
    return processes


def ends(processes: list[subprocess.Popen], timeout: float) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; all are gone afterwards."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, outputs, strict=True)]


def alone(folder: Path, epochs: int) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    """State and rows of `metrics.csv` of one process with the same batches."""
    model, run = build(), RunDirectory(folder)
    train(model, dataset_at, epochs, STEPS, run)
    return state(model), run.metrics.rows()


def assert_same(folder: Path, expected: dict[str, np.ndarray]) -> None:
    """Both workers ended with these weights, statistics and slots; and with the same, bit for bit."""
    workers = [np.load(folder / f"worker{index}.npz") for index in range(2)]
    for name, value in expected.items():
        np.testing.assert_array_equal(workers[0][name], workers[1][name], err_msg=name)
        # Twelve steps change a weight by up to 1e-2.
        np.testing.assert_allclose(workers[0][name], value, atol=1e-4, rtol=1e-4, err_msg=name)


def test_two_workers_train_as_one_process(tmp_path: Path):
    workers = start_workers(tmp_path / "two", epochs=2)
    expected, rows = alone(tmp_path / "one", epochs=2)
    for code, _, errors in ends(workers, timeout=500):
        assert code == 0, errors
    assert_same(tmp_path / "two", expected)
    theirs = RunDirectory(tmp_path / "two").metrics.rows()
    assert [row["step"] for row in theirs] == ["3", "6"]
    for row, own in zip(rows, theirs, strict=True):
        for name in LOSSES:
            assert float(own[name]) == pytest.approx(float(row[name]), abs=1e-4, rel=1e-4), name
    # The chief alone writes: one file of TensorBoard, and checkpoints of whole steps.
    assert len(list((tmp_path / "two" / "tensorboard" / "train").glob("events*"))) == 1
    assert not list((tmp_path / "two").rglob("*.tmp*"))


def wait_for_step(chief: subprocess.Popen, step: int) -> None:
    assert chief.stdout is not None
    for line in chief.stdout:
        if line == f"step {step}\n":
            return
    raise AssertionError("the chief ended before")


@pytest.mark.slow  # starts two workers four times
def test_killed_and_stopped_workers_go_on_to_the_same_weights(tmp_path: Path):
    expected, _ = alone(tmp_path / "one", epochs=4)
    folder = tmp_path / "two"

    # kill -9 of the worker that is not the chief: the chief ends with one sentence that names the checkpoint.
    workers = start_workers(folder, epochs=4)
    wait_for_step(workers[0], 4)
    workers[1].send_signal(signal.SIGKILL)
    (code, _, errors), (killed, _, _) = ends(workers, timeout=120)
    assert (code, killed) == (2, -signal.SIGKILL), errors
    sentence = errors.strip().splitlines()[-1]
    assert re.search(
        r"^Error: Stage train: another worker was lost in step \d+ of 12; the newest checkpoint is "
        r"\S+step_0+[34]\.safetensors\. Start the same command on all workers again, and it resumes from "
        r"there\. \(TensorFlow: ",
        sentence,
    ), errors
    assert "Traceback" not in errors

    # kill -9 of the chief.
    workers = start_workers(folder, epochs=4)
    wait_for_step(workers[0], 6)
    workers[0].send_signal(signal.SIGKILL)
    (killed, _, _), (code, _, errors) = ends(workers, timeout=120)
    assert (code, killed) == (2, -signal.SIGKILL), errors
    assert "another worker was lost" in errors and "Traceback" not in errors

    # Ctrl-C or SIGTERM for one of them stops both after the same step.
    workers = start_workers(folder, epochs=4)
    wait_for_step(workers[0], 8)
    workers[1].send_signal(signal.SIGTERM)
    steps = []
    for code, _, errors in ends(workers, timeout=120):
        assert code == 130, errors
        found = re.search(r"Stage train was stopped after step (\d+) of 12, saved in ", errors)
        assert found, errors
        steps.append(int(found[1]))
    assert steps[0] == steps[1] >= 9
    newest = RunDirectory(folder).checkpoints("train").newest()
    assert newest is not None and newest.step == steps[0]

    workers = start_workers(folder, epochs=4)
    for code, _, errors in ends(workers, timeout=500):
        assert code == 0, errors
    assert np.load(folder / "worker1.npz")["resumed"] == steps[0]
    assert_same(folder, expected)
