"""Time and memory of a build of Market-1501's size: 36,036 drawn JPEGs in its layout.

Each build runs in its own process, as a user would start it, including TensorFlow's start. Wall-clock time
needs a quiet machine; processor time does not.

    python benchmarks/builders.py [--kinds folder zip tar tgz beam] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

FOLDER = "Market-1501-v15.09.15"
KINDS = ("folder", "zip", "tar", "tgz", "beam")
BUILD = """
import resource, sys
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark
builder = open_benchmark("market1501", sys.argv[2])
prepare_benchmark(builder, sys.argv[1], beam_runner=sys.argv[3] or None)
print({split: info.num_examples for split, info in builder.info.splits.items()})
"""


def names() -> Iterator[tuple[str, int]]:
    """Yield the name and number of each image, with the published counts of images and identities."""
    number = 0
    for folder, images, first, people in (
        ("bounding_box_train", 12_936, 2, 751),
        ("query", 3_368, 1, 750),
        ("bounding_box_test", 13_115, 1, 750),
    ):
        for i in range(images):
            pid = first + 2 * (i % people)
            yield f"{folder}/{pid:04d}_c{i % 6 + 1}s1_{i:06d}_00.jpg", number
            number += 1
    for pid, images in (("0000", 2_798), ("-1", 3_819)):
        for i in range(images):
            yield f"bounding_box_test/{pid}_c{i % 6 + 1}s1_{i:06d}_00.jpg", number
            number += 1


def draw(root: Path) -> int:
    """Write the images, 64x128 pixels and some 3 kB each; return their size in bytes."""
    rng = np.random.default_rng(0)
    total = 0
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    for name, number in names():
        if number % 8 == 0:
            coarse = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
            image = cv2.resize(coarse, (64, 128), interpolation=cv2.INTER_CUBIC).astype(np.int16)
            image = np.clip(image + rng.normal(0, 3, image.shape).astype(np.int16), 0, 255).astype(np.uint8)
        content = cv2.imencode(".jpg", np.roll(image, number % 8, axis=1), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        total += (root / name).write_bytes(content.tobytes())
    return total


def pack(root: Path, kind: str, target: Path) -> None:
    target.mkdir()
    if kind in ("folder", "beam"):
        (target / FOLDER).symlink_to(root)
    elif kind == "zip":
        with zipfile.ZipFile(target / f"{FOLDER}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.rglob("*.jpg")):
                archive.write(path, f"{FOLDER}/{path.relative_to(root)}")
    else:
        with tarfile.open(target / f"{FOLDER}.{kind}", "w:gz" if kind == "tgz" else "w") as archive:
            archive.add(root, FOLDER)


def build(kind: str, copy: Path, data: Path) -> dict[str, float]:
    """Build in a separate process and return its time and memory.

    Args:
        kind: of `KINDS`.
        copy: folder with the copy of the data set.
        data: folder to build in.
    """
    command = [sys.executable, "-c", BUILD, str(copy), str(data), "DirectRunner" if kind == "beam" else ""]
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    with tempfile.TemporaryFile() as messages:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=messages, stderr=messages, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # unlike Popen, it returns the usage of this process
        seconds = time.perf_counter() - start
        if status:
            messages.seek(0)
            sys.exit(messages.read().decode(errors="replace")[-2000:])
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["folder", "zip", "tar", "tgz"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        total = draw(place / "images")
        print(f"{sum(1 for _ in names()):,} images, {total / 1e6:.0f} MB; {os.cpu_count()} cores")
        results = {}
        for kind in arguments.kinds:
            pack(place / "images", kind, place / kind)
            results[kind] = build(kind, place / kind, place / f"data_{kind}")
            print(f"{kind:8}", results[kind], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "builds": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
