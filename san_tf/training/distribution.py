"""Distributed training: one device, several devices of one machine, or several machines.

Call `start` before TensorFlow's devices start: it sets memory growth and, with several workers, the server.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import keras
import numpy as np
import tensorflow as tf

from san_tf.data.pipeline import Shard
from san_tf.errors import UserError
from san_tf.keras_compat import model_variables, optimizer_variables
from san_tf.keras_distribution import assign_local, local_value
from san_tf.training.cluster import Cluster, check_port, read_cluster

Kind = Literal["mirrored", "multiworker"]
KINDS = ("mirrored", "multiworker")
Model = TypeVar("Model", bound=keras.Model)


@dataclass(frozen=True)
class Distribution:
    """The devices and workers that train together.

    Attributes:
        strategy: TensorFlow's strategy; None for one device.
        cluster: the workers, if there are several processes.

    Example:
        >>> distribution = start("mirrored")
        >>> with distribution.scope():
        ...     model = build()
        ...     model.compile(optimizer=build_optimizer())
        >>> train(model, dataset_at, 30, 100, run, distribution=distribution)
    """

    strategy: tf.distribute.Strategy | None = None
    cluster: Cluster | None = None

    @property
    def replicas(self) -> int:
        """Number of training devices on all workers."""
        return 1 if self.strategy is None else int(self.strategy.num_replicas_in_sync)

    @property
    def workers(self) -> int:
        """Number of training processes."""
        return 1 if self.cluster is None else len(self.cluster.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints, logs and results."""
        return self.cluster is None or self.cluster.is_chief

    @property
    def shard(self) -> Shard | None:
        """The part of every batch that this process reads; None for the whole batch."""
        if self.replicas == 1:
            return None
        here = self.replicas // self.workers
        return Shard((self.cluster.index if self.cluster else 0) * here, here, self.replicas)

    def __str__(self) -> str:
        here = self.replicas // self.workers
        devices = f"{here} device{'s' if here > 1 else ''}"
        if self.cluster is None:
            return devices
        return f"worker {self.cluster.index} of {self.workers}, {devices} each"

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """Scope in which to create models, their optimizers and their metrics."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def check(self, jit_compile: bool = False, **divisible: int) -> None:
        """Check, before training starts, that this distribution supports it.

        Args:
            jit_compile: whether the recipe uses XLA.
            divisible: numbers that the replicas must divide, by the name of their flag.

        Raises:
            UserError: XLA under a strategy, or a number that the replicas do not divide.
        """
        if self.strategy is None:
            return
        if jit_compile:
            raise UserError(
                "--jit_compile does not work together with --strategy: TensorFlow cannot compile a step that "
                "talks to other replicas; leave one of the two out."
            )
        for name, value in divisible.items():
            if value % self.replicas:
                raise UserError(
                    f"{name} is {value}, which {self.replicas} replicas cannot share equally; choose a "
                    f"multiple of {self.replicas}."
                )

    def local_copy(self, model: Model, build: Callable[[], Model]) -> Model:
        """Copy a model to this process alone, so that it works without the other workers.

        Args:
            model: model trained under `scope`.
            build: builds a model of the same architecture.

        Returns:
            The copy; on one device, the model itself.
        """
        if self.strategy is None:
            return model
        copy = build()
        for ours, theirs in zip(copy.variables, model.variables, strict=True):
            ours.assign(local_value(theirs))
        return copy

    def alone(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function of tensors, such as a model's call, so that one process can call it alone.

        Reading a variable that Keras 2 aggregates waits for all workers, except in a replica.

        Args:
            function: takes tensors and returns a structure of tensors, without sums over replicas.

        Returns:
            Function with the same arguments; it returns the result of this process's first replica.
        """
        strategy = self.strategy
        if strategy is None:
            return function

        def answer(*tensors: tf.Tensor) -> Any:
            answers = strategy.run(function, args=tensors)
            return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], answers)

        return answer

    def sums(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Add up numbers over all workers; each waits here for the others.

        Args:
            values: `(n,)`, with the same n on every worker.

        Returns:
            `(n,)` float64.

        Raises:
            UserError: a worker was lost.
        """
        local = np.asarray(values, np.float64)
        return local if self.workers == 1 else self._sum_of_workers(local)

    def wait(self) -> None:
        """Wait until every worker has called this.

        Raises:
            UserError: a worker was lost.
        """
        self.sums([0.0])

    def of_chief(self, values: Sequence[float]) -> np.ndarray:
        """The chief's numbers, `(n,)` float64; see `sums`."""
        return self.sums(values if self.is_chief else np.zeros(len(values)))

    def spread(self, variables: Sequence[keras.Variable]) -> None:
        """Copy the chief's values to every worker; only the chief reads checkpoints.

        Raises:
            UserError: a worker was lost.
        """
        if self.workers == 1:
            return
        groups: dict[str, list[keras.Variable]] = {}
        for variable in variables:
            groups.setdefault(local_value(variable).dtype.str, []).append(variable)
        for dtype, group in groups.items():
            values = [local_value(variable) for variable in group]
            flat = np.concatenate([value.ravel() for value in values])
            # Random states are unsigned, which sums do not support. The other workers add zeros.
            flat = flat.astype(np.int64) if flat.dtype.kind in "iub" else flat
            total = self._sum_of_workers(flat if self.is_chief else np.zeros_like(flat)).astype(dtype)
            parts = np.split(total, np.cumsum([value.size for value in values])[:-1])
            for variable, value, part in zip(group, values, parts, strict=True):
                assign_local(variable, part.reshape(value.shape))

    def make_slots(self, model: keras.Model) -> None:
        """Create the optimizer's variables in the only place where a strategy allows it.

        It also helps on one device: a training step that creates variables is traced twice.
        """
        with self.scope():
            optimizer_variables(model.optimizer, model.trainable_variables)

    def spread_model(self, model: keras.Model) -> None:
        """Copy the chief's state of a compiled model and its optimizer to every worker."""
        if self.workers > 1:
            slots = optimizer_variables(model.optimizer, model.trainable_variables)
            self.spread([variable for _, variable in [*model_variables(model), *slots]])

    def _sum_of_workers(self, value: np.ndarray) -> np.ndarray:
        """Sum an array over the workers; each counts once, whatever its number of replicas."""
        with lost_workers(self.workers):
            return np.asarray(self._sum(tf.constant(value)))

    @functools.cached_property
    def _sum(self) -> Callable[[tf.Tensor], tf.Tensor]:
        strategy, here = self.strategy, self.replicas // self.workers

        def add(part: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            counts = tf.equal(tf.convert_to_tensor(replica.replica_id_in_sync_group) % here, 0)
            mine = tf.where(counts, part, tf.zeros_like(part))
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine)

        # Cached, because each new function would be traced again.
        @tf.function(autograph=False, reduce_retracing=True)
        def everywhere(part: tf.Tensor) -> tf.Tensor:
            return strategy.experimental_local_results(strategy.run(add, args=(part,)))[0]  # type: ignore[union-attr]

        return everywhere


def start(kind: Kind | None = None, say: Callable[[str], None] = lambda text: None) -> Distribution:
    """Start TensorFlow's devices and, with several workers, this worker's server.

    Call it before anything else of TensorFlow.

    Args:
        kind: "mirrored": all devices of this process; "multiworker": those of all processes in TF_CONFIG;
            None: one device.
        say: called with a sentence for the user, such as what this worker waits for.

    Returns:
        The distribution.

    Raises:
        UserError: TF_CONFIG is missing or wrong, or the port is in use.
        RuntimeError: TensorFlow's devices were started before.
    """
    grow_memory()
    if kind is None:
        return Distribution()
    if kind == "mirrored":
        # Without a GPU, the logical CPUs from `tf.config.set_logical_device_configuration`.
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) == 1:
            say("This machine has one device, so it trains alone.")
            return Distribution()
        return Distribution(tf.distribute.MirroredStrategy([device.name for device in devices]))
    if kind != "multiworker":
        raise UserError(f"There is no strategy {kind!r}; choose one of {', '.join(KINDS)}.")
    cluster = read_cluster()
    check_port(cluster)
    # Waiting for a killed worker then fails, instead of retrying forever.
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    if len(cluster.addresses) > 1:
        addresses = ", ".join(cluster.addresses)
        say(f"Worker {cluster.index} of {len(cluster.addresses)} waits for the others: {addresses}")
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            communication_options=tf.distribute.experimental.CommunicationOptions(
                implementation=_implementation()
            )
        )
    except LOST as error:
        raise UserError(
            f"The {len(cluster.addresses)} workers of TF_CONFIG did not connect to each other"
            f" ({reason_of(str(error.message))}); start all of them, with the same cluster."
        ) from error
    return Distribution(strategy, cluster)


def _implementation() -> tf.distribute.experimental.CommunicationImplementation:
    """Communication between devices: NCCL for GPUs, the ring for CPUs."""
    kinds = tf.distribute.experimental.CommunicationImplementation
    return kinds.AUTO if tf.config.list_physical_devices("GPU") else kinds.RING


def grow_memory() -> None:
    """Let GPUs take memory as needed, so that other programs can use the rest.

    Without a GPU, or after the devices have started, this does nothing.
    """
    for device in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError:
            return  # already started with another setting


# Errors that a worker gets when another is lost: cut connections, aborted collective operations.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


class WorkerLost(UserError):
    """Another worker was lost, so this one cannot continue."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} ({reason})")
        self.reason = reason


@contextlib.contextmanager
def lost_workers(workers: int, where: str | Callable[[], str] = "Another worker was lost.") -> Iterator[None]:
    """Turn TensorFlow's errors about a lost worker into one sentence.

    Args:
        workers: number of workers; with one, errors are not changed.
        where: the sentence, or a function that returns it; of nested blocks, the outer one's is used.

    Raises:
        WorkerLost: a worker was lost.
    """
    try:
        yield
    except (WorkerLost, *LOST) as error:
        if workers == 1:
            raise
        reason = error.reason if isinstance(error, WorkerLost) else reason_of(str(error.message))
        raise WorkerLost(where if isinstance(where, str) else where(), reason) from error


def reason_of(message: str) -> str:
    """Return the line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search("abort|reset|refus|navail|eartbeat|clos|timed? ?out", line)
    ]
    return f"TensorFlow: {(telling or lines or ['no reason'])[0][:160]}"
