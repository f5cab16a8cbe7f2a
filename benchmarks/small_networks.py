"""Speed and memory of the training step of networks that a CPU can train, with and without oneDNN.

    python benchmarks/small_networks.py [--threads 2] [--rounds 7] [--backbones thin_resnet ...]

A step is 64 images of 128 x 64 pixels, head `bnneck`, identity and triplet loss, no decoder, 443 identities.
`import san_tf` turns oneDNN's convolutions on; TensorFlow alone does so only on processors with AVX-512. Each
contestant is its own process on the same cores, warmed up, and they take turns, so that other programs slow
all alike. Ratios are medians over the rounds. The script prints a table and writes
`results/small_networks.json`.
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

BACKBONES = ("thin_resnet", "efficientnet_lite0", "osnet_x0_25")
BATCH, SIZE, IDENTITIES = 64, (128, 64), 443
OFF, ON = "without oneDNN", "with oneDNN"


def prepare(backbone: str, onednn: bool, threads: int) -> Callable[[str], Any]:
    """Return what answers `step` (wall-clock and processor seconds) and `peak` (MB).

    Args:
        backbone: of `san_tf.models.BACKBONES`.
        onednn: whether TensorFlow uses oneDNN's convolutions.
        threads: threads inside an operation.
    """
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(onednn))  # TensorFlow reads it when it is imported
    import tensorflow as tf

    from san_tf.models.encoder import build_encoder
    from san_tf.models.san import SAN
    from san_tf.training.optimizers import build_optimizer

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    encoder = build_encoder(backbone, (*SIZE, 3), IDENTITIES, head="bnneck", weights=None, seed=0)
    model = SAN(encoder)
    model.compile(optimizer=build_optimizer())
    rng = np.random.default_rng(0)
    image = rng.standard_normal((BATCH, *SIZE, 3), np.float32)
    label = np.repeat(np.arange(BATCH // 4), 4).astype(np.int32)
    batches = iter(tf.data.Dataset.from_tensors({"image": image, "label": label}).repeat())
    model.make_train_function()
    answers: dict[str, Callable[[], Any]] = {
        "step": lambda: timed(lambda: float(model.train_function(batches)["loss"]))[0],
        "peak": memory,
    }
    return lambda question: answers[question]()


def contest(backbone: str, cores: list[int], rounds: int) -> dict[str, Any]:
    """Run both contestants in turns.

    Args:
        backbone: of `san_tf.models.BACKBONES`.
        cores: cores to use.
        rounds: number of rounds, of three steps each.
    """
    there = {name: Contestant(prepare, backbone, name == ON, len(cores), cores=cores) for name in (OFF, ON)}
    for contestant in there.values():
        for _ in range(3):  # compile, and let allocators settle
            contestant.ask("step")
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for _ in track(range(rounds), backbone, transient=True):
        for name, contestant in there.items():
            steps[name] += [contestant.ask("step") for _ in range(3)]
    rows: dict[str, Any] = {}
    for name, contestant in there.items():
        seconds = {key: [step[key] for step in steps[name]] for key in ("seconds", "processor_seconds")}
        rows[name] = {key: float(np.median(values)) for key, values in seconds.items()}
        rows[name]["images_per_second"] = BATCH / rows[name]["seconds"]
        rows[name]["peak_MB"] = contestant.ask("peak")
        contestant.stop()
    for key in ("seconds", "processor_seconds"):
        off, on = ([step[key] for step in steps[name]] for name in (OFF, ON))
        rows[f"{key}_ratio"] = median_ratio(off, on)
    return rows


def main() -> None:
    """Measure, print, and write results/small_networks.json."""
    parser = new_parser(__doc__, rounds=7, cores=True)
    parser.add_argument(
        "--backbones", nargs="+", default=BACKBONES, metavar="NAME", help=f"(default: {' '.join(BACKBONES)})"
    )
    arguments = parser.parse_args()
    cores = chosen_cores(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    results: dict[str, Any] = {
        "machine": {"processor": processor_name(), "cores": len(cores), "python": platform.python_version()},
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
        "batch": BATCH,
        "image_size": SIZE,
    }
    table = Table(box=box.MARKDOWN)
    for heading in (
        "",
        "images/s without",
        "with",
        "x faster (range)",
        "x processor time (range)",
        "peak MB",
    ):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for backbone in arguments.backbones:
        rows = results[backbone] = contest(backbone, cores, arguments.rounds)
        table.add_row(
            backbone,
            f"{rows[OFF]['images_per_second']:.0f}",
            f"{rows[ON]['images_per_second']:.0f}",
            with_range(rows["seconds_ratio"]),
            with_range(rows["processor_seconds_ratio"]),
            f"{rows[OFF]['peak_MB']:.0f} / {rows[ON]['peak_MB']:.0f}",
        )
    Console(width=140).print(table)
    write_results("small_networks", results)


if __name__ == "__main__":
    main()
