"""Inference speed on the CPU: SavedModel, LiteRT, ONNX Runtime and OpenVINO against PyTorch.

    python benchmarks/inference.py [--threads 2] [--rounds 5] [--networks resnet50 thin_resnet]

The networks are ResNet-50 with the head fc512 and last stride 1 at 256 x 128 pixels, and the light
`thin_resnet` at 128 x 64. All contestants have the same random weights; uint8 images go in and embeddings of
length 1 come out, normalisation included. Each contestant is its own process on the same cores. They take
turns, so that other programs slow all alike, and ratios are medians over the rounds. Embeddings in float32
must agree with PyTorch's to 1e-4. The script needs `pip install "san-tf[runtimes]" torch`, prints tables and
writes `results/inference.json`.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
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
from inference_networks import NETWORKS, make_images, prepare, pytorch_network
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

PYTORCH = ("PyTorch eager", "PyTorch channels last", "PyTorch compiled")
RUNTIMES = {
    f"{name} {weights}": f"encoder{'' if weights == 'float32' else '.' + weights}{suffix}"
    for name, suffix in (("LiteRT", ".tflite"), ("ONNX Runtime", ".onnx"), ("OpenVINO", ".xml"))
    for weights in ("float32", "float16", "int8")
}
SAVED = {
    "SavedModel": "float32",
    "SavedModel, oneDNN told that weights are fixed": "float32",
    "SavedModel float16": "float16",
}
CONTESTANTS = (*PYTORCH, *SAVED, *RUNTIMES)
TOLERANCE = 1e-4
PACKAGES = ("tensorflow", "keras", "torch", "ai-edge-litert", "onnxruntime", "openvino", "tf2onnx", "nncf")
# Seconds before each run: thread pools spin for a moment after work, which would slow the next contestant.
PAUSE = 0.02
# Seconds of calls before each run, and about as long is measured.
WARM_UP = 0.2


def begin(name: str, network: str, folder: Path, threads: int) -> Callable[[int], dict[str, Any]]:
    """Return what embeds a batch: `seconds`, `processor_seconds`, `embedding` and `peak_GB` so far.

    It has answered once, for one image.

    Args:
        name: of `CONTESTANTS`.
        network: of `NETWORKS`.
        folder: folder written by `prepare`.
        threads: threads of the library.
    """
    images = make_images(network, 32)
    embed = _build(name, network, folder, threads)

    def answer(batch: int) -> dict[str, Any]:
        given = images[:batch] if batch <= len(images) else make_images(network, batch)
        time.sleep(PAUSE)
        # Other contestants have used the processor's caches since the last turn, which a call of a
        # millisecond would pay for: it took two to six times as long.
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < WARM_UP:
            embedding, calls = embed(given), calls + 1
        taken, _ = timed(lambda: [embed(given) for _ in range(calls)])
        each = {key: seconds / calls for key, seconds in taken.items()}
        return {**each, "peak_GB": memory() / 1000, "embedding": embedding}

    answer(1)
    return answer


def _build(name: str, network: str, folder: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    # Imported here, so that each process loads only the library it measures.
    if name in RUNTIMES:
        from san_tf.serving.runtime_sessions import open_session

        return open_session(folder / "runtimes" / RUNTIMES[name], threads)
    if name in SAVED:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        if "fixed" in name:
            os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "1"
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        loaded = tf.saved_model.load(str(folder / SAVED[name] / "1"))
        served = loaded.signatures["serving_default"]
        # The default argument keeps the variables alive.
        return lambda images, loaded=loaded: served(images=tf.constant(images))["embedding"].numpy()
    import torch

    torch.set_num_threads(threads)
    model = pytorch_network(network, folder)
    if name != PYTORCH[0]:
        model = model.to(memory_format=torch.channels_last)
    if name == PYTORCH[2]:
        model = torch.compile(model, dynamic=False)

    def embed(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return embed


def contest(
    names: list[str], network: str, batches: list[int], cores: list[int], rounds: int, folder: Path
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the contestants in turns; yield each batch size with the rows by name.

    Args:
        names: of the contestants; the first is the reference.
        network: of `NETWORKS`.
        batches: batch sizes.
        cores: cores to use.
        rounds: number of rounds; four times as many for small batches.
        folder: folder for the exported networks.
    """
    context = multiprocessing.get_context("spawn")
    preparation = context.Process(target=prepare, args=(network, folder))
    preparation.start()
    preparation.join()
    if preparation.exitcode:
        raise SystemExit(f"{network} could not be prepared; see above.")
    there = {
        name: Contestant(begin, name, network, folder, len(cores), cores=cores)
        for name in track(names, f"{network}: start", transient=True)
    }
    for batch in batches:
        rows: dict[str, Any] = {name: {"answers": []} for name in names}
        reference = None
        for name, contestant in there.items():
            contestant.ask(batch)  # the first run compiles
            found = contestant.ask(batch)["embedding"]
            reference = found if reference is None else reference
            rows[name]["difference"] = float(np.abs(found - reference).max())
            exact = not name.endswith(("float16", "int8"))
            if exact and not rows[name]["difference"] <= TOLERANCE:
                raise SystemExit(f"{name} differs from {names[0]} by {rows[name]['difference']:.1e}.")
        turns = rounds if batch > 4 else 4 * rounds
        for _ in track(range(turns), f"{network}, batch {batch}", transient=True):
            for name, contestant in there.items():
                rows[name]["answers"].append(contestant.ask(batch))
        _summarise(rows, batch)
        for name, row in rows.items():
            row["start_seconds"] = there[name].seconds_to_start
        yield batch, rows
    for contestant in there.values():
        contestant.stop()


def _summarise(rows: dict[str, Any], batch: int) -> None:
    answers = {name: row.pop("answers") for name, row in rows.items()}
    for name, row in rows.items():
        for key in ("seconds", "processor_seconds"):
            row[key] = float(np.median([answer[key] for answer in answers[name]]))
        row["images_per_second"] = batch / row["seconds"]
        row["peak_GB"] = answers[name][-1]["peak_GB"]
    for key in ("seconds", "processor_seconds"):
        fastest = min((name for name in rows if name in PYTORCH), key=lambda name: rows[name][key])
        for name, row in rows.items():
            theirs, own = ([answer[key] for answer in answers[one]] for one in (fastest, name))
            row[f"{key}_ratio"] = {"to": fastest, **median_ratio(theirs, own)}


def show(rows: dict[str, Any], title: str, console: Console) -> None:
    """Print the results, the fastest first."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for heading in ("", "images/s", "ms", "CPU ms", "x fastest PyTorch (range)", "by CPU time", "peak GB",
                    "start s", "differs by"):  # fmt: skip
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in sorted(rows.items(), key=lambda item: item[1]["seconds"]):
        table.add_row(
            name, f"{row['images_per_second']:.1f}", f"{1e3 * row['seconds']:.1f}",
            f"{1e3 * row['processor_seconds']:.1f}",
            with_range(row["seconds_ratio"]),
            f"{row['processor_seconds_ratio']['median']:.2f}", f"{row['peak_GB']:.2f}",
            f"{row['start_seconds']:.1f}", f"{row['difference']:.0e}",
        )  # fmt: skip
    console.print(table)


def best(rows: dict[str, Any], ending: str = "") -> str:
    """Return the fastest contestant with the same embeddings, or with a name that ends in `ending`."""
    chosen = {name: row for name, row in rows.items() if name.endswith(ending) and (
        ending or row["difference"] <= TOLERANCE)}  # fmt: skip
    return min(chosen, key=lambda name: chosen[name]["seconds"])


def main() -> None:
    """Measure, print, and write results/inference.json."""
    parser = new_parser(__doc__, cores=True)
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS], metavar="NAME")
    arguments = parser.parse_args()
    if PYTORCH[0] not in arguments.only:
        parser.error(f"--only must include {PYTORCH[0]}, the reference of the others")
    cores = chosen_cores(arguments)
    console = Console(width=160)
    results: dict[str, Any] = {
        "machine": {"processor": processor_name(), "cores": len(cores), "python": platform.python_version()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "load_average": os.getloadavg()[0],
        "networks": {},
    }
    names = [name for name in CONTESTANTS if name in arguments.only]
    for network in arguments.networks:
        results["networks"][network] = {}
        with tempfile.TemporaryDirectory() as folder:
            options = (arguments.batches, cores, arguments.rounds, Path(folder))
            for batch, rows in contest(names, network, *options):
                results["networks"][network][str(batch)] = rows
                show(rows, f"{network}, batch {batch}, {len(cores)} cores", console)
                console.print(f"Fastest with the same embeddings: {best(rows)}.")
                if any(name.endswith("int8") for name in rows):
                    console.print(f"Fastest of int8: {best(rows, 'int8')}.")
    results["load_average_afterwards"] = os.getloadavg()[0]
    write_results("inference", results)


if __name__ == "__main__":
    main()
