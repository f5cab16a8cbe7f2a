"""One worker of several: `python worker_process.py RUN [EPOCHS]` with TF_CONFIG; without it, one process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import keras
import numpy as np
from tiny_san import build, dataset_at, state

from san_tf.command_line import run_as_command
from san_tf.keras_distribution import local_value
from san_tf.training.distribution import start
from san_tf.training.loop import train
from san_tf.training.run_directory import RunDirectory

STEPS = 3


class Tell(keras.callbacks.Callback):
    """Says each step, so that a test can kill between two."""

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        print(f"step {local_value(self.model.optimizer.iterations)}", flush=True)


def work() -> None:
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    kind = "multiworker" if "TF_CONFIG" in os.environ else None
    distribution = start(kind, lambda text: print(text, flush=True))
    model = build(distribution)
    result = train(
        model,
        lambda step: dataset_at(step, distribution.shard),
        epochs,
        STEPS,
        RunDirectory(folder),
        save_every_steps=2,
        callbacks=[Tell()],
        distribution=distribution,
    )
    name = f"worker{distribution.cluster.index}" if distribution.cluster else "alone"
    np.savez(folder / f"{name}.npz", resumed=result.resumed_from, **state(model))


if __name__ == "__main__":
    run_as_command(work)
