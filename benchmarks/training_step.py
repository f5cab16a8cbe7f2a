"""Speed and memory of SAN's training step with its decoder, compared with PyTorch.

    python benchmarks/training_step.py [--threads 2] [--rounds 5] [--memory_batch 64] [--all]

The step is ResNet-50 with last stride 1, 256 x 128 pixels, batch 16 and all four losses. PyTorch works as
the public code does. Each contestant is its own process on the same cores, warmed up. They take turns, so
that other programs slow all alike, and ratios are medians over the rounds. Then the peak memory of each is
measured alone with a larger batch, and our step is profiled on one core. The script needs PyTorch
(`pip install torch`), prints a table and writes `results/training_step.json`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from contestants import (
    Contestant,
    chosen_cores,
    median_ratio,
    memory,
    new_parser,
    processor_name,
    timed,
    with_range,
    write_results,
)
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

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


def prepare(name: str, size: int, threads: int) -> Callable[[str], Any]:
    """Return what answers `step` (seconds and loss), `parameters`, `gflop`, `product`, `profile` and `peak`.

    Args:
        name: of `CONTESTANTS` or `MORE`.
        size: images per step.
        threads: threads of the library.
    """
    step = _build(name, size, threads)

    def run() -> dict[str, float]:
        taken, loss = timed(step)
        return {**taken, "loss": loss}

    answers: dict[str, Callable[[], Any]] = {
        "step": run,
        "parameters": lambda: step.parameters,
        "gflop": lambda: step.gflop(),
        "product": lambda: step.product_rate(),
        "profile": lambda: step.profile(),
        "peak": lambda: memory() / 1000,  # GB
    }
    return lambda question: answers[question]()


def _contestant(name: str, size: int, cores: list[int]) -> Contestant:
    return Contestant(prepare, name, size, len(cores), cores=cores)


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


def contest(names: tuple[str, ...], size: int, cores: list[int], rounds: int) -> dict[str, Row]:
    """Run the contestants in turns.

    Args:
        names: of `CONTESTANTS` or `MORE`; `PUBLIC` must be among them.
        size: images per step.
        cores: cores to use.
        rounds: number of rounds.
    """
    there = {name: _contestant(name, size, cores) for name in names}
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
            theirs, own = ([step[key] for step in steps] for steps in (base, row["steps"]))
            row[f"{key}_ratio"] = median_ratio(theirs, own)
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
        contestant = _contestant(name, size, cores)
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
    contestant = _contestant(OURS, size, [core])
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
        table.add_row(
            name, f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}",
            f"{row['images_per_second']:.2f}",
            with_range(row["seconds_ratio"]),
            f"{row['processor_seconds_ratio']['median']:.2f}", f"{row['gflop']:.0f}",
            f"{row['gflop_per_second']:.0f}", f"{row['product_gflop_per_second']:.0f}",
            f"{row['peak_GB']:.2f}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    """Measure, print, and write results/training_step.json."""
    parser = new_parser(__doc__, cores=True)
    parser.add_argument("--batch", type=int, default=16, help="images per step (default: %(default)s)")
    parser.add_argument(
        "--memory_batch", type=int, default=64, help="images per step to measure memory; 0 to skip it"
    )
    parser.add_argument("--all", action="store_true", help="also other PyTorch variants (14 GB of memory)")
    parser.add_argument("--no_profile", action="store_true", help="skip the profile")
    arguments = parser.parse_args()
    names = CONTESTANTS + MORE if arguments.all else CONTESTANTS
    cores = chosen_cores(arguments)
    console = Console(width=140)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    results: dict[str, Any] = {
        "machine": {"processor": processor_name(), "cores": len(cores), "python": platform.python_version()},
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
    write_results("training_step", results)


if __name__ == "__main__":
    main()
