"""Measures time and memory of a training step on this machine, with small batches."""

from __future__ import annotations

import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from san_tf.keras_compat import optimizer_variables
from san_tf.training.ordered_sums import ordered_sums

_ROUNDS = 3


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step as a linear function of the batch size, measured at two sizes.

    Attributes:
        rows: the two batch sizes.
        seconds: time of a step at each size: the fastest of three, after a first one that compiles.
        peak_bytes: peak memory at each size: GPU memory if there is a GPU, else resident memory.
    """

    rows: tuple[int, int]
    seconds: tuple[float, float]
    peak_bytes: tuple[int, int]

    def seconds_of(self, rows: int) -> float:
        """Seconds of a step with a batch of `rows`.

        Measurements on a busy machine are noisy. So the constant part is limited to between 0 and half of
        the larger measured step.
        """
        row = self.seconds[1] / self.rows[1]
        slope = (self.seconds[1] - self.seconds[0]) / (self.rows[1] - self.rows[0])
        return self.seconds[1] + min(max(slope, row / 2), row) * (rows - self.rows[1])

    def peak_of(self, rows: int) -> float:
        """Peak memory in bytes of a step with a batch of `rows`, without the input pipeline."""
        slope = max(0, self.peak_bytes[1] - self.peak_bytes[0]) / (self.rows[1] - self.rows[0])
        return self.peak_bytes[1] + slope * (rows - self.rows[1])


def measure_steps(model: keras.Model, texture_size: int | None, rows: int) -> StepCost:
    """Train a compiled model for a few steps on noise, and measure the steps.

    Args:
        model: SAN or SANPG; its weights are changed.
        texture_size: T of its textures; None without decoder.
        rows: size of the training batches; a quarter of it, limited to 8 to 16 rows, is measured.
    """
    larger = min(max(8, min(16, rows // 4 // 2 * 2)), max(rows, 4))
    sizes = (max(2, larger // 2), larger)
    height, width = model.encoder.input.shape[1:3]

    def batch(number: int) -> dict[str, tf.Tensor]:
        generator = np.random.default_rng(number)
        made = {
            "image": tf.constant(generator.normal(size=(number, height, width, 3)), tf.float32),
            "label": tf.range(number) // 2,
        }
        if texture_size:
            texture = generator.uniform(-1, 1, (number, texture_size, texture_size, 3))
            made |= {"texture": tf.constant(texture, tf.float32), "texture_weight": tf.ones(number)}
        return made

    seconds, peaks = [], []
    # Create the optimizer's variables first: a training step that creates them is traced twice.
    optimizer_variables(model.optimizer, model.trainable_variables)
    with ordered_sums():
        # Trace once for both sizes.
        step = tf.function(model.train_step, autograph=False, reduce_retracing=True)
        spec = {
            name: tf.TensorSpec((None, *value.shape[1:]), value.dtype) for name, value in batch(2).items()
        }
        concrete = step.get_concrete_function(spec)
        for number in sizes:
            data = batch(number)
            _forget_peak()
            concrete(data)
            times = []
            for _ in range(_ROUNDS):
                began = time.perf_counter()
                float(concrete(data)["loss"])
                times.append(time.perf_counter() - began)
            seconds.append(min(times))
            peaks.append(_peak())
    return StepCost(sizes, (seconds[0], seconds[1]), (peaks[0], peaks[1]))


def _forget_peak() -> None:
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
        return
    try:
        # On Linux this resets the peak to the present size.
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def _peak() -> int:
    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
