"""What the benchmarks share: contestants in their own processes, timing, memory, ratios, flags and results.

A contestant loads only the library that it measures, works on the same cores as the others, and answers one
question at a time. So contestants can take turns, and other programs slow all alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.atomic import atomic_file

RESULTS = Path(__file__).with_name("results")
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Answer = Callable[[Any], Any]


class MissingError(SystemExit):
    """A contestant is not available, with the reason; a benchmark that needs it ends with that sentence."""


class Contestant:
    """A contestant in its own process.

    Args:
        prepare: function of a module, called in the process; returns the function that answers questions.
        arguments: of `prepare`.
        cores: cores to use; by default all.
        has_workers: whether the contestant starts processes of its own.

    Raises:
        MissingError: the contestant is not available, with the reason.

    Attributes:
        seconds_to_start: from the start of the process until it was prepared.
    """

    def __init__(
        self,
        prepare: Callable[..., Answer],
        *arguments: Any,
        cores: Sequence[int] = (),
        has_workers: bool = False,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        began = time.perf_counter()
        self._process = context.Process(
            target=_serve, args=(prepare, arguments, cores, far_end), daemon=not has_workers
        )
        self._process.start()
        far_end.close()  # so that the end of the process is noticed
        reason = self._pipe.recv()
        if reason is not None:
            raise MissingError(reason)
        self.seconds_to_start = time.perf_counter() - began

    def ask(self, question: Any) -> Any:
        """Return the contestant's answer to anything but None."""
        self._pipe.send(question)
        return self._pipe.recv()

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(prepare: Callable[..., Answer], arguments: Any, cores: Sequence[int], pipe: Connection) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        answer = prepare(*arguments)
    except (ImportError, FileNotFoundError, MissingError) as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    while (question := pipe.recv()) is not None:
        pipe.send(answer(question))


def timed(job: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Run a job; return `seconds` and `processor_seconds` of this process, and the job's result."""
    wall, processor = time.perf_counter(), time.process_time()
    found = job()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {"seconds": wall, "processor_seconds": processor}, found


def memory(field: str = "VmHWM") -> float:
    """Return a memory figure of this process in MB, from Linux, by default the peak; NaN elsewhere."""
    if not STATUS.exists():
        return float("nan")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


def forget_peak() -> None:
    """Make the peak of this process start again at what it has now, on Linux."""
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")


def median_ratio(reference: Sequence[float], own: Sequence[float]) -> dict[str, Any]:
    """Return the median and the range of reference / own over the rounds."""
    ratios = [theirs / ours for theirs, ours in zip(reference, own, strict=True)]
    return {"median": float(np.median(ratios)), "range": [min(ratios), max(ratios)]}


def with_range(ratio: dict[str, Any]) -> str:
    """Return a `median_ratio` as a cell of a table."""
    low, high = ratio["range"]
    return f"{ratio['median']:.2f} ({low:.2f}-{high:.2f})"


def new_parser(description: str | None, *, rounds: int = 5, cores: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the flags that benchmarks share.

    Args:
        description: docstring of the script, printed as it is.
        rounds: default of `--rounds`; 0 leaves the flag out.
        cores: whether there are `--threads` and `--core`, for `chosen_cores`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help="runs of each (default: %(default)s)")
    if cores:
        parser.add_argument(
            "--threads", type=int, default=2, help="cores, and threads (default: %(default)s)"
        )
        parser.add_argument("--core", type=int, default=0, help="the first core (default: %(default)s)")
    return parser


def chosen_cores(arguments: argparse.Namespace) -> list[int]:
    """Return the cores of `--threads` and `--core`."""
    return list(range(arguments.core, arguments.core + arguments.threads))


def processor_name() -> str:
    """Return the processor's model, and whether it has AVX-512."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    width = "AVX-512" if any("avx512f" in line for line in lines) else "no AVX-512"
    return f"{models[0] if models else platform.processor()}, {width}"


def write_results(name: str, results: dict[str, Any]) -> None:
    """Write `results/<name>.json`, completely or not at all."""
    with atomic_file(RESULTS / f"{name}.json") as temporary:
        Path(temporary).write_text(json.dumps(results, indent=2) + "\n")
