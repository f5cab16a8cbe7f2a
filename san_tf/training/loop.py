"""The training loop: Keras's `fit` with resume, checkpoints, logs, progress and a clean end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from san_tf.checkpoints import CheckpointFolder
from san_tf.errors import UserError
from san_tf.keras_distribution import average_moving_statistics
from san_tf.training.callbacks.clock import Clock, DataWait
from san_tf.training.callbacks.guards import CollapseWatch, EarlyStopping, FiniteLoss, OffendingBatch
from san_tf.training.callbacks.interruption import Interruption
from san_tf.training.callbacks.reports import MetricsLog, ProgressLine
from san_tf.training.callbacks.saving import RUNNING, SaveCheckpoints
from san_tf.training.distribution import Distribution, lost_workers
from san_tf.training.ordered_sums import ordered_sums
from san_tf.training.run_directory import RunDirectory


def distributed_fit(
    model: keras.Model,
    distribution: Distribution,
    dataset: tf.data.Dataset,
    first_epoch: int,
    last_epoch: int,
    steps: int,
    callbacks: Sequence[keras.callbacks.Callback],
    interruption: Interruption,
) -> None:
    """Train from one epoch to another on several replicas.

    Logs hold the values of the whole batch and are equal on all workers. All workers stop together, after a
    signal or `model.stop_training`.

    Args:
        model: built and compiled under the distribution's scope, with its optimizer's slots created; its
            `train_step` sums gradients and losses itself, see `san_tf.models.replicas`.
        distribution: a distribution with a strategy.
        dataset: infinite data set of this worker, with one element for each of its replicas in turn.
        first_epoch: first epoch, from 0.
        last_epoch: end of the epochs, exclusive.
        steps: steps per epoch.
        callbacks: this worker's callbacks, as for `fit`.
        interruption: one of the callbacks; its signal stops all workers.

    Raises:
        UserError: XLA, accumulated gradients or averaged weights are requested, or a callback raises it.
        tf.errors.OpError: for example, another worker was lost.
    """
    strategy = distribution.strategy
    if strategy is None:
        raise ValueError("A distribution without strategy trains with `fit`.")
    _check(model)
    # With a data set known to be infinite, workers need not ask each other before every batch if it exists.
    endless = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    batches = iter(strategy.distribute_datasets_from_function(lambda _: endless))

    def replica_step(batch: dict, asked: tf.Tensor) -> tuple[dict, tf.Tensor]:
        logs = model.train_step(batch)
        average_moving_statistics(model)
        replica = tf.distribute.get_replica_context()
        return logs, replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(asked))

    # No autograph, as in Keras: it is slow, and there are no Python branches or loops to convert.
    @tf.function(autograph=False)
    def step(asked: tf.Tensor) -> tuple[dict, tf.Tensor]:
        return strategy.run(replica_step, args=(next(batches), asked))

    around = keras.callbacks.CallbackList(
        list(callbacks), add_history=False, model=model, epochs=last_epoch, steps=steps, verbose=0
    )
    model.stop_training = False
    around.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in range(first_epoch, last_epoch):
        model.reset_metrics()
        around.on_epoch_begin(epoch)
        for number in range(steps):
            around.on_train_batch_begin(number)
            results, asked = step(tf.constant(float(interruption.asked)))
            interruption.agreed = bool(_local(strategy, asked) > 0)
            logs = {name: float(_local(strategy, value)) for name, value in results.items()}
            around.on_train_batch_end(number, logs)
        around.on_epoch_end(epoch, logs)
        if distribution.sums([float(model.stop_training)])[0] > 0:
            break
    around.on_train_end(logs)


def _check(model: keras.Model) -> None:
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    # Keras does both in branches of the graph, where replicas cannot communicate.
    for name in ("gradient_accumulation_steps", "use_ema"):
        if getattr(optimizer, name, None):
            raise UserError(
                f"The optimizer's {name} does not work together with --strategy; leave one of the two out."
            )
    if getattr(model, "jit_compile", False) is True:
        raise UserError("XLA (jit_compile) does not work together with --strategy; leave one of the two out.")


def _local(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """The result of this worker's first replica; all replicas return the same."""
    return strategy.experimental_local_results(value)[0]


_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """How a training went.

    Attributes:
        step: training steps done in all.
        resumed_from: the step at which this run began, 0 for a new training.
        seconds: wall time of this run.
        stopped_early: whether training ended early because the score stopped improving.
    """

    step: int
    resumed_from: int
    seconds: float
    stopped_early: bool = False


def train(
    model: keras.Model,
    dataset_at: Callable[[int], tf.data.Dataset],
    epochs: int,
    steps_per_epoch: int,
    run: RunDirectory,
    stage: str = "train",
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    save_every_seconds: float | None = 300.0,
    save_every_steps: int | None = None,
    keep: int = 2,
    best: str | None = None,
    patience: int = 0,
    warmup_epochs: float = 0.0,
    freeze_epochs: int = 0,
    filenames: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    console: Console | None = None,
    distribution: Distribution = Distribution(),  # noqa: B008  # immutable
) -> TrainingResult:
    """Train a compiled model, starting from the newest checkpoint of the stage if there is one.

    On a CPU the same training gives the same weights, bit for bit, if the data set and the model's
    randomness depend only on the step; see `ordered_sums`. An interrupted training that is started again does
    exactly the remaining steps. The log of the interrupted epoch covers all its steps.

    Args:
        model: built and compiled; its `train_step` takes the elements of the data set.
        dataset_at: takes a training step and returns the batches from that step on, infinite or enough for
            the remaining steps. Batches are dicts with `image` (B, H, W, 3), or anything `train_step` takes.
        epochs: total number of epochs, including those already done.
        steps_per_epoch: batches per epoch.
        run: run directory for checkpoints and logs.
        stage: names the checkpoints, the rows of `metrics.csv`, the TensorBoard run and the progress line.
        callbacks: additional callbacks; values that their `on_epoch_end` adds to `logs` are logged too.
        save_every_seconds: also save within an epoch after this many seconds; None never.
        save_every_steps: also save within an epoch after this many steps; None never.
        keep: number of checkpoints to keep.
        best: name of a log (for example `mAP`); the weights with its highest value are kept as
            `best.safetensors`.
        patience: stop when `best` has not reached its highest value in this many measurements; 0 never.
        warmup_epochs: epochs in which a `SAN` may still guess identities; see `CollapseWatch`.
        freeze_epochs: epochs at the start in which a `SAN`'s backbone is frozen, see `SAN.freeze_backbone`.
        filenames: names of the images that `record` (B,) of the batches counts. If the loss becomes NaN, the
            images of that batch are listed in `diverged/`.
        extra: stored in each checkpoint, for example recipe and seed; anything JSON can hold.
        console: console of the progress line; standard output if None.
        distribution: the devices and workers that train together. Only the chief reads and writes checkpoints
            and logs. A signal to one worker stops all of them after the same step.

    Returns:
        Steps and seconds.

    Raises:
        UserError: the loss or a weight became NaN or infinite, the newest checkpoint holds another
            architecture, the disk is full, or another worker was lost.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after saving; the message says how to resume.
        ValueError: the data set ends too early.

    Example:
        >>> train(model, lambda step: train_dataset(records, start_step=step), 30, 100, run)
    """
    if epochs < 1 or steps_per_epoch < 1:
        raise UserError(
            f"Training needs at least one epoch of one step; received {epochs} x {steps_per_epoch}."
        )
    if steps_per_epoch % (model.steps_per_execution or 1):
        raise ValueError(
            f"steps_per_epoch must be a multiple of the model's steps_per_execution, "
            f"{model.steps_per_execution}. Received: steps_per_epoch={steps_per_epoch}"
        )
    began = time.monotonic()
    checkpoints = run.checkpoints(stage, keep)
    distribution.make_slots(model)
    restored = checkpoints.restore_newest(model, model.optimizer) if distribution.is_chief else None
    start = int(distribution.of_chief([0 if restored is None else restored.step])[0])
    distribution.spread_model(model)
    if distribution.is_chief:
        run.metrics.drop(stage, after_step=start)
    stopping = EarlyStopping(run, stage, best or "", patience)
    # Only the chief's table counts: that of another machine may differ.
    if start >= epochs * steps_per_epoch or distribution.of_chief([stopping.is_due])[0]:
        left_out = start < epochs * steps_per_epoch
        return TrainingResult(start, start, time.monotonic() - began, left_out)
    if start:
        _logger.info("Stage %s resumes at step %d.", stage, start)

    dataset = dataset_at(start)
    # A strategy prefetches to its devices on its own threads, so measuring the wait here would be wrong.
    wait = DataWait() if distribution.strategy is None else None
    images = _batch_size(dataset)
    running = None if restored is None else restored.extra.get(RUNNING)
    before = float((running or {}).get("seconds", 0.0))
    clock = Clock(start, epochs, steps_per_epoch, images and images * distribution.replicas, wait, before)
    saving = SaveCheckpoints(
        clock,
        checkpoints,
        stage,
        save_every_seconds,
        save_every_steps,
        best,
        extra,
        distribution.is_chief,
        running,
        distribution.spread,
    )
    with contextlib.ExitStack() as stack:
        watch = CollapseWatch(clock, stage, warmup_epochs)
        progress = stack.enter_context(ProgressLine(clock, stage, console, watch))
        watch.console = progress.console
        interruption = stack.enter_context(Interruption(clock, saving, stage))
        log = MetricsLog(clock, run, stage)
        stack.callback(log.close)
        stack.enter_context(ordered_sums())
        chief = distribution.is_chief
        offending = OffendingBatch(dataset_at, filenames, run, stage) if chief else None
        finite = FiniteLoss(clock, checkpoints, stage, offending)
        chiefs = [*callbacks, watch, progress, log, stopping] if chief else []
        every = [clock, finite, *chiefs, saving, interruption]

        def fit(dataset: tf.data.Dataset, first_epoch: int, last_epoch: int, steps: int) -> None:
            if freeze_epochs:
                model.freeze_backbone(first_epoch < freeze_epochs)
            if distribution.strategy is not None:
                with lost_workers(distribution.workers, lambda: _gone(stage, clock, checkpoints)):
                    distributed_fit(
                        model, distribution, dataset, first_epoch, last_epoch, steps, every, interruption
                    )
                return
            _check_length(dataset, (last_epoch - first_epoch) * steps)
            model.fit(
                dataset if wait is None else wait.measured(dataset),
                initial_epoch=first_epoch,
                epochs=last_epoch,
                steps_per_epoch=steps,
                callbacks=every,
                verbose=0,
                shuffle=False,
            )

        epoch, done = divmod(start, steps_per_epoch)
        if done:
            # All epochs of one `fit` have the same length, so the rest of an interrupted epoch needs its own.
            fit(dataset, epoch, epoch + 1, steps_per_epoch - done)
            epoch += 1
        # A frozen backbone has a step of its own, which is traced in a `fit` of its own.
        for end in sorted({min(freeze_epochs, epochs), epochs}):
            if epoch < end and not distribution.of_chief([stopping.is_due])[0]:
                at = epoch * steps_per_epoch
                fit(dataset if at == start else dataset_at(at), epoch, end, steps_per_epoch)
                epoch = epochs if model.stop_training else end
    left_out = clock.step < clock.total_steps
    return TrainingResult(clock.step, start, time.monotonic() - began, left_out)


def _gone(stage: str, clock: Clock, checkpoints: CheckpointFolder) -> str:
    newest = checkpoints.newest()
    kept = f"the newest checkpoint is {newest.path}" if newest else "no checkpoint had been written yet"
    return (
        f"Stage {stage}: another worker was lost in step {clock.step + 1} of {clock.total_steps}; {kept}. "
        "Start the same command on all workers again, and it resumes from there."
    )


def _batch_size(dataset: tf.data.Dataset) -> int | None:
    spec = dataset.element_spec
    first = spec["image"] if isinstance(spec, dict) and "image" in spec else tf.nest.flatten(spec)[0]
    shape = first.shape
    return int(shape[0]) if shape.rank and shape[0] is not None else None


def _check_length(dataset: tf.data.Dataset, steps: int) -> None:
    length = int(dataset.cardinality().numpy())
    if 0 <= length < steps:
        raise ValueError(f"The data set must yield the {steps} remaining batches. Received: {length} batches")
