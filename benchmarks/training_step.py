"""Speed and memory of SAN's training step with its decoder, compared with PyTorch.

    python benchmarks/training_step.py [--threads 2] [--rounds 5] [--memory_batch 64] [--all]

The step is ResNet-50 with last stride 1, 256 x 128 pixels, batch 16 and all four losses. PyTorch works as
the public code does. Each contestant is its own process on the same cores, warmed up. They take turns, so
that other programs slow all alike, and ratios are medians over the rounds. Then the peak memory of each is
measured alone with a larger batch, and our step is profiled on one core. The script needs PyTorch
(`pip install torch`), prints a table and writes `results/training_step.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from san_tf.atomic import atomic_file

STATUS = Path("/proc/self/status")
OURS, PUBLIC = "san_tf, one joint backward pass", "PyTorch, as the public code"
CONTESTANTS = (OURS, PUBLIC)
# These separate the gain of the joint pass from differences of the libraries.
MORE = (
    "PyTorch, as the public code, channels last",
    "PyTorch, one joint backward pass",
    "PyTorch, one joint backward pass, channels last",
)
CLASSES = 751
Row = dict[str, Any]


class Contestant:
    """A contestant in its own process.

    Args:
        name: of `CONTESTANTS` or `MORE`.
        batch: images per step.
        cores: cores to use, one thread each.
    """

    def __init__(self, name: str, batch: int, cores: list[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, batch, cores, far_end), daemon=True)
        self._process.start()
        far_end.close()  # so that the end of the process is noticed

    def ask(self, question: str) -> Any:
        """Run `step` (seconds and loss), or return `parameters`, `gflop`, `product`, `profile` or `peak`."""
        self._pipe.send(question)
        return self._pipe.recv()

    def stop(self) -> None:
        """End the process."""
        self._pipe.send("stop")
        self._process.join()


def _serve(name: str, size: int, cores: list[int], pipe: Connection) -> None:
    os.sched_setaffinity(0, cores)
    step = _build(name, size, len(cores))
    answers = {
        "parameters": lambda: step.parameters,
        "gflop": lambda: step.gflop(),
        "product": lambda: step.product_rate(),
        "profile": lambda: step.profile(),
        "peak": _peak_gigabytes,
    }
    while (question := pipe.recv()) != "stop":
        if question in answers:
            pipe.send(answers[question]())
            continue
        wall, processor = time.perf_counter(), time.process_time()
        loss = step()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        pipe.send({"seconds": wall, "processor_seconds": processor, "loss": loss})


def _build(name: str, size: int, threads: int) -> Any:
    # Imported here, so that each process loads only the library it measures.
    batch = make_batch(size)
    if name == OURS:
        from training_step_tensorflow import TensorFlowStep

        return TensorFlowStep(batch, CLASSES, threads)
    from training_step_pytorch import PyTorchStep

    return PyTorchStep(batch, CLASSES, threads, joint="joint" in name, channels_last="channels last" in name)


def make_batch(size: int) -> dict[str, np.ndarray]:
    """Return a batch of noise, four images per identity; its content does not affect the time."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.standard_normal((size, 256, 128, 3), np.float32),
        "label": np.repeat(np.arange(size // 4), 4).astype(np.int32),
        "texture": rng.uniform(-1, 1, (size, 256, 256, 3)).astype(np.float32),
        "texture_weight": np.ones(size, np.float32),
    }


def _peak_gigabytes() -> float:
    """Return this process's peak memory in GB, from Linux; NaN elsewhere."""
    if not STATUS.exists():
        return float("nan")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e6


def contest(names: tuple[str, ...], size: int, cores: list[int], rounds: int) -> dict[str, Row]:
    """Run the contestants in turns.

    Args:
        names: of `CONTESTANTS` or `MORE`; `PUBLIC` must be among them.
        size: images per step.
        cores: cores to use.
        rounds: number of rounds.
    """
    there = {name: Contestant(name, size, cores) for name in names}
    rows: dict[str, Row] = {}
    for name, contestant in there.items():
        for _ in range(2):  # compile, and let allocators settle
            contestant.ask("step")
        rows[name] = {"parameters": contestant.ask("parameters"), "steps": [], "products": []}
    for _ in track(range(rounds), f"batch {size}, {len(cores)} cores", transient=True):
        for name, contestant in there.items():
            rows[name]["steps"].append(contestant.ask("step"))
    for name, contestant in there.items():
        rows[name]["peak_GB"] = contestant.ask("peak")  # before the matrix products take memory
    for _ in range(3):
        for name, contestant in there.items():
            rows[name]["products"].append(contestant.ask("product"))
    for name, contestant in there.items():
        rows[name]["gflop"] = contestant.ask("gflop")
        contestant.stop()
    base = rows[PUBLIC]["steps"]
    for row in rows.values():
        for key in ("seconds", "processor_seconds"):
            row[key] = float(np.median([step[key] for step in row["steps"]]))
            ratios = [theirs[key] / own[key] for theirs, own in zip(base, row["steps"], strict=True)]
            row[f"{key}_ratio"] = {"median": float(np.median(ratios)), "range": [min(ratios), max(ratios)]}
        row["images_per_second"] = size / row["seconds"]
        row["gflop_per_second"] = row["gflop"] / row["seconds"]
        row["product_gflop_per_second"] = max(row.pop("products"))
        row["steps"] = [round(step["seconds"], 3) for step in row["steps"]]
    return rows


def measure_memory(names: tuple[str, ...], size: int, cores: list[int]) -> dict[str, Row]:
    """Run two steps of each contestant alone; return peak memory and the second step's seconds.

    Args:
        names: of the contestants.
        size: images per step.
        cores: cores to use.
    """
    rows = {}
    for name in track(names, f"memory at batch {size}", transient=True):
        contestant = Contestant(name, size, cores)
        contestant.ask("step")
        seconds = contestant.ask("step")["seconds"]
        rows[name] = {
            "seconds": seconds,
            "images_per_second": size / seconds,
            "peak_GB": contestant.ask("peak"),
        }
        contestant.stop()
    return rows


def profile(size: int, core: int) -> dict[str, float]:
    """Return the seconds of our step by kind of operation, on one core."""
    contestant = Contestant(OURS, size, [core])
    for _ in range(2):
        contestant.ask("step")
    seconds = contestant.ask("profile")
    contestant.stop()
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def show(rows: dict[str, Row], title: str, console: Console) -> None:
    """Print the results."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for heading in ("", "s", "CPU s", "images/s", "x public (range)", "x public, CPU", "GFLOP", "GFLOP/s",
                    "product's", "peak GB"):  # fmt: skip
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        low, high = row["seconds_ratio"]["range"]
        table.add_row(
            name, f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}",
            f"{row['images_per_second']:.2f}",
            f"{row['seconds_ratio']['median']:.2f} ({low:.2f}-{high:.2f})",
            f"{row['processor_seconds_ratio']['median']:.2f}", f"{row['gflop']:.0f}",
            f"{row['gflop_per_second']:.0f}", f"{row['product_gflop_per_second']:.0f}",
            f"{row['peak_GB']:.2f}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    """Measure, print, and write results/training_step.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16, help="images per step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="cores, and threads (default: %(default)s)")
    parser.add_argument("--core", type=int, default=0, help="the first core (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument(
        "--memory_batch", type=int, default=64, help="images per step to measure memory; 0 to skip it"
    )
    parser.add_argument("--all", action="store_true", help="also other PyTorch variants (14 GB of memory)")
    parser.add_argument("--no_profile", action="store_true", help="skip the profile")
    arguments = parser.parse_args()
    names = CONTESTANTS + MORE if arguments.all else CONTESTANTS
    cores = list(range(arguments.core, arguments.core + arguments.threads))
    console = Console(width=140)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    results: dict[str, Any] = {
        "machine": {"processor": _processor(), "cores": len(cores), "python": platform.python_version()},
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "torch")},
        "batch": arguments.batch,
    }
    results["step"] = contest(names, arguments.batch, cores, arguments.rounds)
    show(results["step"], f"a step of {arguments.batch} images on {len(cores)} cores", console)
    if arguments.memory_batch:
        results["memory_batch"] = arguments.memory_batch
        results["memory"] = measure_memory(CONTESTANTS, arguments.memory_batch, cores)
        for name, row in results["memory"].items():
            console.print(
                f"batch {arguments.memory_batch}, {name}: peak {row['peak_GB']:.2f} GB, "
                f"{row['images_per_second']:.2f} images/s"
            )
    if not arguments.no_profile:
        results["profile_seconds"] = profile(arguments.batch, cores[0])
        total = sum(results["profile_seconds"].values())
        console.print(f"our step of {arguments.batch} images on one core, {total:.2f} s, by operation:")
        for kind, seconds in results["profile_seconds"].items():
            console.print(f"  {100 * seconds / total:5.1f} %  {kind}")
    with atomic_file(Path(__file__).with_name("results") / "training_step.json") as temporary:
        Path(temporary).write_text(json.dumps(results, indent=2) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    width = "AVX-512" if any("avx512f" in line for line in lines) else "no AVX-512"
    return f"{models[0] if models else platform.processor()}, {width}"


if __name__ == "__main__":
    main()
