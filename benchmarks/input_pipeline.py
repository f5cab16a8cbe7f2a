"""Speed of the training pipeline in images/s, compared with torchreid's loader with two workers.

    python benchmarks/input_pipeline.py [--peers DIR] [--images 2000] [--rounds 5] [--threads 2]

2,000 JPEGs of 64x128 pixels, as in Market-1501, and 2,000 of 256x128 are decoded, resized to 256x128,
translated at random, flipped, erased, normalised and batched by 64. Each contestant is its own process on the
same cores. They take turns, and ratios are medians over the rounds, in wall-clock and in processor time
(workers included). torchreid takes part if `--peers` names a folder with its sources (`torchreid/`, see the
README beside this file) and PyTorch and torchvision are installed; none of it is part of this repository. It
has no textures, so ours is also measured without them. One texture per image is too much for the memory, so
these are decoded once into a file, which the first round writes (`san_tf.data.textures.stored_textures`; for
comparison they are decoded each time). The script prints a table and writes `results/input_pipeline.json`.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import resource
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from contestants import (
    Contestant,
    MissingError,
    chosen_cores,
    median_ratio,
    new_parser,
    with_range,
    write_results,
)
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

HEIGHT, WIDTH, BATCH = 256, 128, 64
SIZES = {"64x128": (128, 64), "256x128": (256, 128)}
PEER = "torchreid, 2 workers"
CONTESTANTS = (
    PEER,
    "san_tf, without textures",
    "san_tf, textures of 200 people",
    "san_tf, a texture an image",
    "san_tf, a texture an image, decoded each time",
    "san_tf, without textures, colour jitter",
    "san_tf, inference",
)
# Batches before the clock starts, so that filled buffers are not counted.
WARM_UP = 4


def make_jpegs(number: int, size: tuple[int, int] = SIZES["64x128"]) -> list[bytes]:
    """Return JPEGs of height and width `size`; 128x64 pixels take some 3 kB, as in Market-1501."""
    rng = np.random.default_rng(0)
    height, width = size
    encoded = []
    for _ in range(number):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        encoded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return encoded


def make_textures(number: int, people: int) -> list[bytes]:
    """Return `number` encoded 256x256 textures of `people` different ones."""
    rng = np.random.default_rng(1)
    texture = cv2.resize(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), (256, 256))
    content = cv2.imencode(".jpg", texture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    # Distinct bytes after the end marker, which decoders ignore.
    return [content + (index % people).to_bytes(4, "big") for index in range(number)]


def torchreid(images: list[bytes], name: str, peers: Path | None) -> Callable[[], Iterator[Any]]:
    """Return torchreid's loader, made as its own data manager makes it.

    Args:
        images: JPEG files.
        name: not used.
        peers: folder of the peers' sources.
    """
    if peers is None or not (peers / "torchreid" / "torchreid" / "data" / "transforms.py").exists():
        raise MissingError("its sources are missing; see --peers")
    try:
        import torch
    except ImportError as error:
        raise MissingError(str(error)) from error
    torchvision = importlib.util.find_spec("torchvision")
    if torchvision is None or torchvision.origin is None:
        raise MissingError("torchvision is not installed")
    # Packages without their `__init__`, which would import much more: torchvision's imports a compiled part
    # that fits only one build of PyTorch, and that transforms do not need.
    _bare_package("torchvision", Path(torchvision.origin).parent)
    for package in ("", ".utils", ".data", ".data.datasets"):
        folder = peers / "torchreid" / "torchreid" / package.replace(".", "/").strip("/")
        _bare_package(f"torchreid{package}", folder)
    from torchreid.utils import tools

    for function in ("read_image", "download_url", "mkdir_if_missing"):
        setattr(sys.modules["torchreid.utils"], function, getattr(tools, function))
    from torchreid.data.datasets.dataset import ImageDataset
    from torchreid.data.transforms import build_transforms

    folder = Path(tempfile.mkdtemp(prefix="input_pipeline_"))
    rows = []
    for index, content in enumerate(images):
        path = folder / f"{index:06d}.jpg"
        path.write_bytes(content)
        rows.append((str(path), index // 10, 0))
    transform, _ = build_transforms(HEIGHT, WIDTH, ["random_flip", "random_crop", "random_erase"])
    dataset = ImageDataset(rows, rows[:1], rows[:1], transform=transform, mode="train", verbose=False)
    loader = torch.utils.data.DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        num_workers=2,
        pin_memory=False,
        drop_last=True,
        multiprocessing_context="fork",  # only for PyTorch's workers; contestants are spawned
    )
    return lambda: iter(loader)


def _bare_package(name: str, folder: Path) -> None:
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def san_tf(images: list[bytes], name: str, peers: Path | None) -> Callable[[], Iterator[Any]]:
    """Return one of our pipelines.

    Args:
        images: JPEG files.
        name: of `CONTESTANTS`.
        peers: not used.
    """
    import tensorflow as tf

    from san_tf.data.augmentation import Augmentation
    from san_tf.data.pipeline import inference_dataset, train_dataset
    from san_tf.data.records import Records
    from san_tf.data.textures import STORE_VARIABLE

    threads = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    size = (HEIGHT, WIDTH)
    store = "" if "each time" in name else tempfile.mkdtemp(prefix="input_pipeline_")
    if store:
        atexit.register(shutil.rmtree, store, ignore_errors=True)
    os.environ[STORE_VARIABLE] = store
    records = Records.from_columns(images, np.arange(len(images)) // 10 + 1)
    mirror_map = np.stack(np.mgrid[:256, :256], axis=-1)[:, ::-1]
    if "inference" in name:
        dataset = inference_dataset(records, size).repeat()
    elif "texture" in name and "without" not in name:
        people = 200 if "people" in name else len(images)
        records = records.with_textures(make_textures(len(images), people))
        dataset = train_dataset(records, 16, 4, size, 256, mirror_map)
    else:
        augmentation = Augmentation(jitter=1.0 if "jitter" in name else 0.0)
        dataset = train_dataset(records, 16, 4, size, augmentation=augmentation)
    # A fresh iterator each turn: an old one would go on filling its buffers while others run.
    return lambda: iter(dataset)


def prepare(name: str, size: str, number: int, peers: Path | None) -> Callable[[str], dict[str, float]]:
    """Return what reads all images once: images per second and processor time per image.

    Args:
        name: of `CONTESTANTS`.
        size: of `SIZES`.
        number: number of images.
        peers: folder of the peers' sources.
    """
    images = make_jpegs(number, SIZES[size])
    start = (torchreid if name == PEER else san_tf)(images, name, peers)
    batches = number // BATCH

    def run(_: str) -> dict[str, float]:
        processor = _processor_seconds()
        iterator = start()
        for _ in range(WARM_UP):
            next(iterator)
        wall = time.perf_counter()
        for _ in range(batches - WARM_UP):
            next(iterator)
        wall = time.perf_counter() - wall
        del iterator  # ends the workers, whose time is counted only then
        processor = _processor_seconds() - processor
        return {
            "images_per_second": (batches - WARM_UP) * BATCH / wall,
            "processor_ms_per_image": 1e3 * processor / (batches * BATCH),
        }

    return run


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def contest(
    size: str, number: int, cores: list[int], rounds: int, peers: Path | None, console: Console
) -> dict[str, dict[str, Any]]:
    """Run all contestants in turns; missing ones are reported and left out.

    Args:
        size: of `SIZES`.
        number: number of images.
        cores: cores to use.
        rounds: number of rounds.
        peers: folder of the peers' sources.
        console: where to print.
    """
    there: dict[str, Contestant] = {}
    for name in CONTESTANTS:
        try:
            there[name] = Contestant(prepare, name, size, number, peers, cores=cores, has_workers=True)
        except MissingError as error:
            console.print(f"[dim]{name}: left out, {error}[/dim]")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for turn in track(range(rounds + 1), size, transient=True):
        for name, contestant in there.items():
            found = contestant.ask("run")
            if turn:  # the first one warms up
                runs[name].append(found)
    rows = {}
    for name, found in runs.items():
        there[name].stop()
        row: dict[str, Any] = {
            key: round(float(np.median([run[key] for run in found])), 3) for key in found[0]
        }
        if PEER in runs:
            # Images per second: more is better; processor time per image: less is better.
            peer = runs[PEER]
            row["ratio"] = _rounded(
                median_ratio(*([run["images_per_second"] for run in runs_] for runs_ in (found, peer)))
            )
            row["processor_ratio"] = _rounded(
                median_ratio(*([run["processor_ms_per_image"] for run in runs_] for runs_ in (peer, found)))
            )
        rows[name] = row
    return rows


def _rounded(ratio: dict[str, Any]) -> dict[str, Any]:
    return {**ratio, "median": round(ratio["median"], 2)}


def show(rows: dict[str, dict[str, Any]], title: str, console: Console) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for heading in ("", "images/s", "x torchreid (range)", "CPU ms/image", "x torchreid, CPU (range)"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        ratios = [with_range(row[key]) if key in row else "" for key in ("ratio", "processor_ratio")]
        table.add_row(
            name,
            f"{row['images_per_second']:.0f}",
            ratios[0],
            f"{row['processor_ms_per_image']:.2f}",
            ratios[1],
        )
    console.print(table)


def main() -> None:
    """Measure, print, and write results/input_pipeline.json."""
    parser = new_parser(__doc__, cores=True)
    parser.add_argument("--images", type=int, default=2000, help="number of JPEGs (default: %(default)s)")
    parser.add_argument("--peers", type=Path, help="folder with the peers' sources")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    console = Console(width=140)
    cores = chosen_cores(arguments)
    results: dict[str, Any] = {"cores": len(cores), "images": arguments.images}
    for size in SIZES:
        results[size] = contest(size, arguments.images, cores, arguments.rounds, arguments.peers, console)
        show(results[size], f"{arguments.images} JPEGs of {size}, {len(cores)} cores", console)
    write_results("input_pipeline", results)


if __name__ == "__main__":
    main()
