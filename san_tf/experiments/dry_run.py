"""`--dry_run`: prints a recipe's networks, time and memory without writing anything."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.table import Table

from san_tf.command_line import Terminal
from san_tf.data.sampling import pk_steps
from san_tf.errors import UserError
from san_tf.experiments.data_records import pit_records, reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.flags import Options
from san_tf.experiments.networks import texture_generator_of
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.stages.train import methods_of, optimizer_of, san_of
from san_tf.keras_compat import optimizer_variables
from san_tf.training.optimizers import build_optimizer
from san_tf.training.ordered_sums import ordered_sums
from san_tf.training.precision import set_precision
from san_tf.training.run_directory import RunDirectory

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


# Assumed number of identities if the data are not prepared; the classifier is a small part of the cost.
_CLASSES = 1000
# Batches in memory at a time: one in training, one being made, two being finished, two waiting.
_BATCHES_HELD = 6


@dataclass(frozen=True)
class Training:
    """A training of the recipe.

    Attributes:
        name: name of its stage or method.
        model: compiled model.
        rows: number of images per batch.
        textures: side of its textures in texels; None without decoder.
        steps: steps per epoch; None if the data are not prepared.
        epochs: number of epochs.
        data_bytes: bytes of the encoded images in memory.
    """

    name: str
    model: keras.Model
    rows: int
    textures: int | None
    steps: int | None
    epochs: int
    data_bytes: int


def dry_run(name: str, recipe: Recipe, options: Options, stages: Sequence[str]) -> None:
    """Print the networks of a recipe, and estimated time and memory of its trainings.

    Time and peak memory of a step are measured on two small batches of noise and extrapolated linearly to the
    recipe's batch size. The memory includes the encoded images and the batches that the pipeline holds. The
    time is that of the training steps only, on an otherwise idle machine.

    Args:
        name: name of the experiment.
        recipe: recipe of the experiment.
        options: options of the command line; nothing is written to its workdir or data_dir.
        stages: stages of the experiment.

    Raises:
        UserError: a value is impossible for a network, or the pretrained weights are not available.
    """
    console = Terminal(highlight=False)
    set_precision(recipe.model.precision)
    with tempfile.TemporaryDirectory() as nowhere:
        experiment = Experiment(name, recipe, options, RunDirectory(nowhere))
        # Narrow, to fit a terminal.
        table = Table(box=None, padding=(0, 1), header_style="bold")
        table.add_column("training", no_wrap=True)
        for title in ("batch", "steps", "s/step", "images/s", "time", "memory"):
            table.add_column(title, justify="right", no_wrap=True)
        seconds = 0.0
        unknown = False
        with console.status("measuring a few steps ..."):
            for training in _trainings(experiment, stages):
                console.print(describe(training))
                cost = measure_steps(training.model, training.textures, training.rows)
                step = cost.seconds_of(training.rows)
                total = None if training.steps is None else training.steps * training.epochs
                seconds += step * (total or 0)
                unknown |= total is None
                memory = cost.peak_of(training.rows) + training.data_bytes + _batches(training)
                table.add_row(
                    training.name,
                    str(training.rows),
                    "?" if total is None else f"{training.epochs} x {training.steps:,}",
                    f"{step:.3g}",
                    f"{training.rows / step:.3g}",
                    "?" if total is None else _span(step * total),
                    f"{memory / 1e9:.1f} GB",
                )
                keras.backend.clear_session()
        console.print(table)
    if unknown:
        console.print(
            "The data are not prepared, so the number of steps is unknown: run --stage prepare first."
        )
    else:
        console.print(f"All training steps of the recipe: about {_span(seconds)}. Nothing was written.")
    workdir = Path(options.workdir)
    if (workdir / "stages").is_dir():
        run = RunDirectory(workdir)
        done = [stage for stage in stages if run.is_done(stage)]
        console.print(
            f"Done already in {workdir}: {', '.join(done) or 'nothing'}.", markup=False, soft_wrap=True
        )


def describe(training: Training) -> str:
    """Describe the networks of a training.

    Returns:
        For example `SAN: encoder_thin_resnet 128 x 64 x 3 -> embedding 512, 1,031,424 parameters`.
    """
    encoder, decoder = training.model.encoder, training.model.decoder
    height, width, channels = encoder.input.shape[1:]
    outputs = encoder.output if isinstance(encoder.output, dict) else {}
    text = f"[bold]{training.name}[/bold]: {encoder.name} {height} x {width} x {channels}"
    if "embedding" in outputs:
        text += f" -> embedding {outputs['embedding'].shape[-1]}, {outputs['logits'].shape[-1]} identities"
    text += f", {encoder.count_params():,} parameters"
    if decoder is not None:
        text += f"; {decoder.name} -> texture {training.textures} x {training.textures}"
        text += f", {decoder.count_params():,} parameters"
    return text


def _trainings(experiment: Experiment, stages: Sequence[str]) -> Iterator[Training]:
    """Yield one training after the other, so that only one network is in memory."""
    recipe = experiment.recipe
    ready = recipe.generator.textures or recipe.generator.generator_weights
    data, size = recipe.data, recipe.texture_size
    pairs = images = None
    if recipe.needs_pairs:
        pairs = _found(lambda: pit_records(experiment, "train"))
    if "texture-generator" in stages and recipe.with_generator and not ready:
        batch = recipe.generator.generator_batch
        steps = max(1, len(pairs) // batch) if pairs is not None else None
        model = texture_generator_of(recipe, weights=False)
        model.compile(optimizer=build_optimizer(schedule=1e-3, weight_decay=0.0))
        epochs = recipe.generator.generator_epochs
        yield Training("texture generator", model, batch, size, steps, epochs, _encoded(pairs))
    if "train" not in stages:
        return
    images = _found(lambda: reid_records(experiment, "train"))
    steps = recipe.training.steps_per_epoch or None
    if images is not None and steps is None:
        steps = pk_steps(images.pids, data.identities_per_batch, data.images_per_identity)
    for method in methods_of(recipe):
        decoder = method == "SAN"
        classes = _CLASSES if images is None else images.num_identities
        model = san_of(recipe, classes, decoder, weights=False)
        model.compile(optimizer=optimizer_of(recipe, steps or 1000))
        rows = data.identities_per_batch * data.images_per_identity + decoder * data.pit_per_batch
        held = _encoded(images) + (_encoded(pairs) if decoder and data.pit_per_batch else 0)
        yield Training(method, model, rows, size if decoder else None, steps, recipe.training.epochs, held)


def _found(load):  # type: ignore[no-untyped-def]  # records, or None where they are not prepared
    try:
        return load()
    except UserError:
        return None


def _encoded(records) -> int:  # type: ignore[no-untyped-def]
    """Bytes of the encoded images and textures, twice: in the records and in the pipeline."""
    if records is None:
        return 0
    return 2 * sum(len(file) for file in np.concatenate([records.images, records.texture_files]))


def _batches(training: Training) -> int:
    height, width, _ = training.model.encoder.input.shape[1:]
    pixels = height * width + (training.textures or 0) ** 2
    return _BATCHES_HELD * training.rows * pixels * 3 * 4


def _span(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
