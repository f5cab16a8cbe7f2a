"""Speed of the training pipeline in images/s, compared with torchreid's loader with two workers.

    python benchmarks/input_pipeline.py [--peers DIR] [--images 2000] [--rounds 5] [--threads 2]

2,000 JPEGs of 64x128 pixels, as in Market-1501, and 2,000 of 256x128 are decoded, resized to 256x128,
translated at random, flipped, erased, normalised and batched by 64. Each contestant is its own process on the
same cores. They take turns, and ratios are medians over the rounds, in wall-clock and in processor time
(workers included). torchreid takes part if `--peers` names a folder with its sources (`torchreid/`, see the
README beside this file) and PyTorch and torchvision are installed; none of it is part of this repository. It
has no textures, so ours is also measured without them. The script prints a table and writes
`results/input_pipeline.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from san_tf.atomic import atomic_file

HEIGHT, WIDTH, BATCH = 256, 128, 64
SIZES = {"64x128": (128, 64), "256x128": (256, 128)}
PEER = "torchreid, 2 workers"
CONTESTANTS = (
    PEER,
    "san_tf, without textures",
    "san_tf, textures of 200 people",
    "san_tf, a texture an image",
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
        raise LookupError("its sources are missing; see --peers")
    try:
        import torch
    except ImportError as error:
        raise LookupError(str(error)) from error
    torchvision = importlib.util.find_spec("torchvision")
    if torchvision is None or torchvision.origin is None:
        raise LookupError("torchvision is not installed")
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

    threads = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    size = (HEIGHT, WIDTH)
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


def _serve(name: str, size: str, number: int, cores: list[int], peers: Path | None, pipe: Connection) -> None:
    os.sched_setaffinity(0, cores)
    images = make_jpegs(number, SIZES[size])
    try:
        start = (torchreid if name == PEER else san_tf)(images, name, peers)
    except LookupError as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    batches = number // BATCH
    while pipe.recv():
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
        pipe.send({
            "images_per_second": (batches - WARM_UP) * BATCH / wall,
            "processor_ms_per_image": 1e3 * processor / (batches * BATCH),
        })  # fmt: skip


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Contestant:
    """A contestant in its own process.

    Args:
        name: of `CONTESTANTS`.
        size: of `SIZES`.
        number: number of images.
        cores: cores to use.
        peers: folder of the peers' sources.

    Raises:
        LookupError: the contestant is not available, with the reason.
    """

    def __init__(self, name: str, size: str, number: int, cores: list[int], peers: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        arguments = (name, size, number, cores, peers, far_end)
        self._process = context.Process(target=_serve, args=arguments)
        self._process.start()
        far_end.close()  # so that the end of the process is noticed
        reason = self._pipe.recv()
        if reason is not None:
            raise LookupError(reason)

    def run(self) -> dict[str, float]:
        """Read all images once; return images per second and processor time per image."""
        self._pipe.send(True)
        return self._pipe.recv()

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(False)
        self._process.join()


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
            there[name] = Contestant(name, size, number, cores, peers)
        except LookupError as error:
            console.print(f"[dim]{name}: left out, {error}[/dim]")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for turn in track(range(rounds + 1), size, transient=True):
        for name, contestant in there.items():
            found = contestant.run()
            if turn:  # the first one warms up
                runs[name].append(found)
    rows = {}
    for name, found in runs.items():
        there[name].stop()
        row: dict[str, Any] = {
            key: round(float(np.median([run[key] for run in found])), 3) for key in found[0]
        }
        if PEER in runs:
            wall = [a["images_per_second"] / b["images_per_second"]
                    for a, b in zip(found, runs[PEER], strict=True)]  # fmt: skip
            processor = [b["processor_ms_per_image"] / a["processor_ms_per_image"]
                         for a, b in zip(found, runs[PEER], strict=True)]  # fmt: skip
            row["ratio"] = {"median": round(float(np.median(wall)), 2), "range": [min(wall), max(wall)]}
            row["processor_ratio"] = {
                "median": round(float(np.median(processor)), 2), "range": [min(processor), max(processor)]
            }  # fmt: skip
        rows[name] = row
    return rows


def show(rows: dict[str, dict[str, Any]], title: str, console: Console) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for heading in ("", "images/s", "x torchreid (range)", "CPU ms/image", "x torchreid, CPU (range)"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        ratios = [
            "{:.2f} ({:.2f}-{:.2f})".format(row[key]["median"], *row[key]["range"]) if key in row else ""
            for key in ("ratio", "processor_ratio")
        ]
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="number of JPEGs (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="cores (default: %(default)s)")
    parser.add_argument("--core", type=int, default=0, help="the first core (default: %(default)s)")
    parser.add_argument("--peers", type=Path, help="folder with the peers' sources")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    console = Console(width=140)
    cores = list(range(arguments.core, arguments.core + arguments.threads))
    results: dict[str, Any] = {"cores": len(cores), "images": arguments.images}
    for size in SIZES:
        results[size] = contest(size, arguments.images, cores, arguments.rounds, arguments.peers, console)
        show(results[size], f"{arguments.images} JPEGs of {size}, {len(cores)} cores", console)
    with atomic_file(Path(__file__).with_name("results") / "input_pipeline.json") as temporary:
        Path(temporary).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
