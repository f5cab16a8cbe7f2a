"""Describes the machine, and trains a small SAN for three steps in each precision to see what works."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.san import SAN
from san_tf.resources import core_count
from san_tf.training.optimizers import build_optimizer
from san_tf.training.precision import precision_scope
from san_tf.version import __version__

# Linux's processor flags that matter for the speed of matrix products.
_INSTRUCTIONS = (
    *("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve"),
)
_GIB = 2**30


def gpus() -> list[dict[str, object]]:
    """Return details of each GPU: `device_name` and, for NVIDIA, `compute_capability`, a pair of numbers."""
    devices = tf.config.list_physical_devices("GPU")
    return [dict(tf.config.experimental.get_device_details(device)) for device in devices]


def instructions() -> list[str]:
    """Return the processor's instruction sets for vectors and matrices; empty if Linux lists none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    present = set(flags.partition(":")[2].split())
    return [name for name in _INSTRUCTIONS if name in present]


def has_bfloat16_units() -> bool:
    """Whether the processor has units for bfloat16 matrix products (Intel's AMX)."""
    return "amx_bf16" in instructions()


def findings() -> list[tuple[str, str]]:
    """Return names and values of facts that help when training is slow or fails."""
    build = tf.sysconfig.get_build_info()
    cuda = [f"{name} {build[key]}" for name, key in _BUILT if build.get(key)]
    intra = tf.config.threading.get_intra_op_parallelism_threads()
    lines = [
        ("san_tf", __version__),
        *((name, _version(name)) for name in ("tensorflow", "keras", "numpy")),
        ("Python", f"{platform.python_version()}, {platform.platform()}"),
        ("built for", ", ".join(cuda) or "CPU only (no CUDA in this build)"),
        ("processor", _processor()),
        ("instruction sets", " ".join(instructions()) or "unknown"),
        ("cores", f"{core_count()} for this process, {os.cpu_count()} in total"),
        ("threads", f"{intra or 'as many as cores'} per operation"),
        ("memory", _memory()),
    ]
    for number, details in enumerate(gpus()):
        lines.append((f"GPU {number}", _gpu(number, details)))
    if not gpus():
        lines.append(("GPU", "none found"))
    return lines


_BUILT = (("CUDA", "cuda_version"), ("cuDNN", "cudnn_version"), ("ROCm", "rocm_version"))


def _version(distribution: str) -> str:
    for name in (distribution, f"{distribution}-cpu", f"{distribution}-macos"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[key].split()[0]) * 1024 / _GIB for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return "unknown"
    return f"{total:.1f} GiB, {free:.1f} free"


def _gpu(number: int, details: dict[str, object]) -> str:
    name = str(details.get("device_name", "unknown"))
    capability = details.get("compute_capability")
    if isinstance(capability, tuple):
        name += f", compute capability {capability[0]}.{capability[1]}"
    growth = tf.config.experimental.get_memory_growth(tf.config.list_physical_devices("GPU")[number])
    return f"{name}, memory {'taken as needed' if growth else 'taken all at once'}"


_STEPS = 3
_IMAGE, _IDENTITIES, _IMAGES = (64, 32), 4, 2


class Case(NamedTuple):
    """An arithmetic to try."""

    precision: str
    xla: bool = False

    def __str__(self) -> str:
        return f"{self.precision}{' + XLA' if self.xla else ''}"


class Outcome(NamedTuple):
    """How a case went.

    Attributes:
        losses: loss of each step; the first is that of the initial weights.
        seconds: seconds of each step; the first one compiles.
        problem: why the case failed, in one line; empty if it worked.
    """

    losses: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    problem: str = ""


FLOAT32 = Case("float32")
CASES = (FLOAT32, Case("mixed_float16"), Case("mixed_bfloat16"), Case("float32", xla=True))
# They take a minute to compile, so they are tried only if the devices have 16-bit units.
CASES_OF_GPUS = (Case("mixed_float16", xla=True), Case("mixed_bfloat16", xla=True))


class _Timed(keras.callbacks.Callback):
    """Records loss and time of each step; an epoch has one step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.ends: list[float] = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record loss and time."""
        self.losses.append(float((logs or {})["loss"]))
        self.ends.append(time.perf_counter())


def try_case(case: Case) -> Outcome:
    """Train a small SAN with all four losses for three steps; the same weights and batch in every case."""
    try:
        with precision_scope(case.precision):
            encoder = build_encoder("thin_resnet", (*_IMAGE, 3), _IDENTITIES, weights=None, seed=0)
            shapes = [stage.shape for stage in encoder.output["stages"]]
            decoder = build_decoder(shapes, (16, 8, 8, 4, 4), texture_size=_IMAGE[0], seed=1)
            model = SAN(encoder, decoder)
            model.compile(optimizer=build_optimizer(schedule=1e-3), jit_compile=case.xla)
        timed = _Timed()
        model.fit(_data(), epochs=_STEPS, steps_per_epoch=1, verbose=0, callbacks=[timed], shuffle=False)
    except Exception as error:  # a build of TensorFlow may fail in any way
        return Outcome(problem=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}")
    seconds = tuple(float(value) for value in np.diff(timed.ends))
    if not np.isfinite(timed.losses).all():
        return Outcome(tuple(timed.losses), seconds, "the loss is not a number")
    return Outcome(tuple(timed.losses), seconds)


def _data() -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    rows, size = _IDENTITIES * _IMAGES, _IMAGE[0]
    batch = {
        "image": rng.standard_normal((rows, *_IMAGE, 3)).astype(np.float32),
        "label": np.repeat(np.arange(_IDENTITIES, dtype=np.int32), _IMAGES),
        "texture": rng.uniform(-1, 1, (rows, size, size, 3)).astype(np.float32),
        "texture_weight": np.ones(rows, np.float32),
    }
    return tf.data.Dataset.from_tensors(batch).repeat()


def step_seconds(outcome: Outcome) -> float:
    """Seconds of the fastest step after the first."""
    return min(outcome.seconds[1:])


def difference(outcome: Outcome, reference: Outcome) -> float:
    """Relative difference of the first loss from that of float32.

    Later losses diverge quickly in so small a network, and float16 skips steps until its loss scale settles.
    """
    return abs(outcome.losses[0] - reference.losses[0]) / abs(reference.losses[0])


def advice(outcomes: dict[Case, Outcome]) -> list[str]:
    """Return sentences about how to train here, by the devices and by what worked."""
    works = {case for case, outcome in outcomes.items() if not outcome.problem}
    lines = []
    capabilities = [details.get("compute_capability", (0, 0)) for details in gpus()]
    units = min(capabilities) if capabilities else (0, 0)  # type: ignore[type-var]
    if not capabilities and not has_bfloat16_units():
        lines.append("Train with --precision float32: this processor has no units for 16-bit matrices.")
    elif not capabilities:
        lines.append(
            "Train with --precision float32; mixed_bfloat16 is worth a try: the processor has units."
        )
    elif units >= (8, 0) and Case("mixed_bfloat16") in works:  # type: ignore[operator]
        lines.append("Train with --precision mixed_bfloat16: the GPU has units for it, without loss scaling.")
    elif units >= (7, 0) and Case("mixed_float16") in works:  # type: ignore[operator]
        lines.append("Train with --precision mixed_float16: the GPU has units for it.")
    else:
        lines.append("Train with --precision float32.")
    plain, compiled = outcomes.get(FLOAT32), outcomes.get(Case("float32", xla=True))
    if plain and compiled and not plain.problem and not compiled.problem:
        gain = step_seconds(plain) / step_seconds(compiled)
        lines.append(
            f"--jit_compile took {compiled.seconds[0]:.0f} s to compile and made this small step {gain:.2f} "
            "times as fast; try it on the network you train before you decide."
        )
    if len(capabilities) > 1:
        lines.append(f"--strategy mirrored trains on all {len(capabilities)} GPUs.")
    return lines


def cases_here() -> tuple[Case, ...]:
    """Return the cases to try on this machine, float32 first."""
    return CASES + CASES_OF_GPUS if gpus() else CASES


def check(console: Console, cases: Sequence[Case]) -> bool:
    """Print the findings and the results of the cases.

    Args:
        console: console to print to.
        cases: cases to try, float32 first.

    Returns:
        Whether float32 works.
    """
    found = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in findings():
        found.add_row(Text(name, "bold"), Text(value))
    console.print(found)
    console.print(
        f"\nA SAN with thin_resnet, {_IMAGE[0]} x {_IMAGE[1]} pixels, {_IDENTITIES} x {_IMAGES} images,"
        " three training steps:"
    )
    outcomes: dict[Case, Outcome] = {}
    for case in cases:
        with console.status(f"{case} ..."):
            outcomes[case] = try_case(case)
    console.print(_table(outcomes))
    for line in advice(outcomes):
        console.print(line)
    return not outcomes[FLOAT32].problem


def _table(outcomes: dict[Case, Outcome]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("arithmetic", "first step, s", "a step, ms", "first loss", "off float32", ""):
        table.add_column(title, justify="left" if title in ("", "arithmetic") else "right")
    reference = outcomes[FLOAT32]
    for case, outcome in outcomes.items():
        if outcome.problem:
            table.add_row(str(case), "", "", "", "", Text(f"fails: {outcome.problem}"))
            continue
        off = "" if case == FLOAT32 or reference.problem else f"{difference(outcome, reference):.1e}"
        table.add_row(
            str(case),
            f"{outcome.seconds[0]:.1f}",
            f"{1000 * step_seconds(outcome):.0f}",
            f"{outcome.losses[0]:.4f}",
            off,
            "works",
        )
    return table
