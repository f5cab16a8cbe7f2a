"""A training that fails names the images it failed on, at no cost to one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_training_model import build, dataset_at

from san_tf.errors import UserError
from san_tf.training.callbacks.guards import OffendingBatch
from san_tf.training.loop import train
from san_tf.training.run_directory import RunDirectory

NAMES = [f"{number:04d}_c1.jpg" for number in range(100)]


def named(start: int, poison_step: int | None = None) -> tf.data.Dataset:
    """Step s shows the records 4s to 4s + 3."""
    numbers = tf.data.Dataset.counter(start).map(lambda step: 4 * step + tf.range(4, dtype=tf.int64))
    batches = tf.data.Dataset.zip((dataset_at(start, poison_step), numbers))
    return batches.map(lambda batch, record: {**batch, "record": record})


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_the_batch_of_a_nan_loss_is_named(tmp_path: Path, steps_per_execution: int) -> None:
    model = build()
    model.compile(optimizer=model.optimizer, steps_per_execution=steps_per_execution, jit_compile=False)
    with pytest.raises(UserError) as caught:
        train(
            model,
            lambda start: named(start, 7),
            3,
            6,
            RunDirectory(tmp_path),
            "train/san",
            filenames=NAMES,
            save_every_steps=2,
        )
    # Steps are counted from 1, and three at a time are seen at the end of the third.
    step = 8 if steps_per_execution == 1 else 9
    path = tmp_path / "diverged" / "train" / "san" / f"step_{step:08d}.json"
    assert f"{path} names the images of the batch" in str(caught.value)
    found = json.loads(path.read_text())
    assert (found["stage"], found["step"], found["what"]) == ("train/san", step, "loss became nan")
    poisoned = [row for row in found["rows"] if row["image"] == "not finite"]
    assert [row["filename"] for row in poisoned] == NAMES[28:32]
    assert [row["label"] for row in poisoned] == [7 % 3, 0, 1, 2]
    assert {row["step"] for row in poisoned} == {8}
    assert len(found["rows"]) == 4 * steps_per_execution
    assert "step_00000006.safetensors" in str(caught.value)  # the last good checkpoint


def test_rows_without_names_and_batches_without_rows(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    path = OffendingBatch(dataset_at, None, run, "train").write(3, "loss became inf")
    assert path is not None
    rows = json.loads(path.read_text())["rows"]
    images = next(iter(dataset_at(2)))["image"].numpy()
    assert [row["image"]["max"] for row in rows] == pytest.approx(images.max((1, 2, 3)).tolist(), abs=1e-4)
    tuples = OffendingBatch(lambda start: tf.data.Dataset.from_tensors((np.zeros(2),)), None, run, "train")
    assert tuples.write(1, "loss became nan") is None
