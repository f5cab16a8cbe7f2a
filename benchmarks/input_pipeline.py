"""How many images a second the training pipeline makes, against the same work done by Pillow and NumPy.

The yardstick is what a PyTorch data loader does: worker processes that decode, resize, move, flip, normalise
and erase one image at a time. Both sides run in turns, several times, and processor time is
counted, so that other programs on the machine matter little: images/s are those of one core.

    python benchmarks/input_pipeline.py [--images 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

HEIGHT, WIDTH = 256, 128
_images: list[bytes] = []


def make_jpegs(number: int) -> list[bytes]:
    """Return JPEGs of 64x128 pixels and some 3 kB, as Market-1501 has them."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(number):
        image = cv2.resize(
            rng.integers(0, 256, (16, 8, 3), dtype=np.uint8), (64, 128), interpolation=cv2.INTER_CUBIC
        )
        image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        encoded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return encoded


def share_images(images: list[bytes]) -> None:
    _images[:] = images


def load_with_pillow(index: int) -> np.ndarray:
    """One image as PyTorch re-ID toolkits load it."""
    image = Image.open(io.BytesIO(_images[index])).convert("RGB")
    if random.random() < 0.5:
        image = image.resize((144, 288), Image.Resampling.BILINEAR)
        left, top = random.randint(0, 16), random.randint(0, 32)
        image = image.crop((left, top, left + WIDTH, top + HEIGHT))
    else:
        image = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = (np.asarray(image, np.float32) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    if random.random() < 0.5:
        top, left = random.randint(0, 128), random.randint(0, 64)
        pixels[top : top + 90, left : left + 45] = 0.0
    return pixels


def load_batch_with_pillow(indices: np.ndarray) -> float:
    """Load a batch and return its processor time; the way back to the training process is free here."""
    start = time.process_time()
    np.stack([load_with_pillow(index) for index in indices])
    return time.process_time() - start


def rate_of_pillow(pool: multiprocessing.pool.Pool, batches: np.ndarray) -> float:
    return batches.size / sum(pool.imap(load_batch_with_pillow, list(batches)))


def rate_of_pipeline(dataset: Iterable, batches: np.ndarray) -> float:
    # A fresh iterator each turn: one left over would go on filling its buffers beside the others.
    iterator = iter(dataset)
    for _ in range(4):
        next(iterator)
    start = time.process_time()
    for _ in range(len(batches)):
        next(iterator)
    return batches.size / (time.process_time() - start)


def main() -> None:
    """Measure, print a table, and write it to benchmarks/results/input_pipeline.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="how many JPEGs (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of the yardstick (default: %(default)s)"
    )
    arguments = parser.parse_args()
    images = make_jpegs(arguments.images)
    batches = np.random.default_rng(0).permutation(arguments.images)
    batches = batches[: arguments.images // 64 * 64].reshape(-1, 64)

    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.workers, share_images, (images,)) as pool:
        pipelines = pipelines_by_name(images)
        rates: dict[str, list[float]] = {"Pillow and NumPy": [], **{name: [] for name in pipelines}}
        rate_of_pillow(pool, batches)
        for _ in range(arguments.rounds):
            rates["Pillow and NumPy"].append(rate_of_pillow(pool, batches))
            for name, dataset in pipelines.items():
                rates[name].append(rate_of_pipeline(dataset, batches))

    yardstick = float(np.median(rates["Pillow and NumPy"]))
    print(f"{'':34s} images/s a core   ratio")
    results = {}
    for name, values in rates.items():
        median = float(np.median(values))
        results[name] = {"images_per_core_second": round(median), "ratio": round(median / yardstick, 2)}
        print(f"{name:34s} {median:15.0f} {median / yardstick:7.2f}")
    target = Path(__file__).with_name("results") / "input_pipeline.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"cores": os.cpu_count(), "rates": results}, indent=2) + "\n")


def pipelines_by_name(images: list[bytes]) -> dict[str, Iterable]:
    # TensorFlow is imported here, so that the yardstick's worker processes do without it.
    from san_tf.data.augmentation import Augmentation
    from san_tf.data.pipeline import inference_dataset, train_dataset
    from san_tf.data.records import Records

    size = (HEIGHT, WIDTH)
    records = Records.from_columns(images, np.arange(len(images)) // 10 + 1)
    texture = cv2.resize(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), (256, 256))
    texture = cv2.imencode(".jpg", texture)[1].tobytes()
    # Distinct bytes each (a trailing comment after the end marker is ignored), so that they are decoded each
    # time.
    textures = [texture + index.to_bytes(4, "big") for index in range(len(images))]
    mirror_map = np.stack(np.mgrid[:256, :256], axis=-1)[:, ::-1]
    return {
        "san_tf training": train_dataset(records, 16, 4, size),
        "san_tf training, colour jitter": train_dataset(
            records, 16, 4, size, augmentation=Augmentation(jitter=1.0)
        ),
        "san_tf training, 256x256 textures": train_dataset(
            records.with_textures(textures), 16, 4, size, 256, mirror_map
        ),
        "san_tf inference": inference_dataset(records, size).repeat(),
    }


if __name__ == "__main__":
    main()
