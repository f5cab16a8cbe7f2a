"""Accuracy of an encoder in other runtimes and precisions: mAP on people not seen in training.

    python benchmarks/runtime_accuracy.py --data_dir DATA [--model saved_models/synthetic/1]

The script converts the export to LiteRT, ONNX Runtime and OpenVINO in float32, float16 and int8. It embeds
the query and gallery images of a data set with each file (`synthetic_reid/ablation`: 600 and 1,950 images)
and ranks them by Market-1501's protocol. int8 is calibrated on evenly spread training images. The script
needs `pip install "san-tf[runtimes]"`, prints a table and writes `results/runtime_accuracy.json`.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from contestants import new_parser, write_results
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from san_tf.data.builders import find_builder
from san_tf.data.images import decode_image
from san_tf.data.records import Records
from san_tf.evaluation.ranking import evaluate_ranking
from san_tf.serving.runtime_sessions import SUFFIXES, WEIGHTS, open_session
from san_tf.serving.runtimes import NOTES_FILE, export_runtimes, read_source

BATCH = 50


def pixels(records: Records) -> list[np.ndarray]:
    """Return the images, decoded as in training."""
    return [decode_image(tf.constant(content)).numpy() for content in records.images]


def embeddings(session: Callable[[np.ndarray], np.ndarray], images: list[np.ndarray]) -> np.ndarray:
    """Return embeddings `(N, D)`, computed in batches of images of one size."""
    rows: list[np.ndarray] = [np.empty(0)] * len(images)
    sizes: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(number)
    for numbers in sizes.values():
        for start in range(0, len(numbers), BATCH):
            chosen = numbers[start : start + BATCH]
            for number, row in zip(chosen, session(np.stack([images[n] for n in chosen])), strict=True):
                rows[number] = row
    return np.stack(rows)


def main() -> None:
    """Measure, print, and write results/runtime_accuracy.json."""
    parser = new_parser(__doc__, rounds=0)
    parser.add_argument("--data_dir", required=True, help="folder of the prepared data set")
    parser.add_argument("--dataset", default="synthetic_reid/ablation", help="(default: %(default)s)")
    parser.add_argument("--model", default="saved_models/synthetic/1", help="(default: %(default)s)")
    parser.add_argument(
        "--calibrate_on", type=int, default=200, help="calibration images (default: %(default)s)"
    )
    arguments = parser.parse_args()

    builder = find_builder(*arguments.dataset.split("/"), arguments.data_dir)
    query, gallery, train = (Records.from_tfds(builder, split) for split in ("query", "gallery", "train"))
    every = max(1, len(train) // arguments.calibrate_on)
    spread = np.arange(0, len(train), every)[: arguments.calibrate_on]
    calibration = pixels(train.select(spread))
    images = pixels(query), pixels(gallery)
    source = read_source(arguments.model)

    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        out = export_runtimes(arguments.model, Path(folder) / "files", tuple(SUFFIXES), WEIGHTS, calibration)
        notes = json.loads((out / NOTES_FILE).read_text())["runtimes"]
        sessions: dict[str, Callable[[np.ndarray], np.ndarray]] = {"SavedModel": source.embed}
        sessions |= {name: open_session(out / name) for name in notes["files"]}
        reference: list[np.ndarray] = []
        for name, session in track(sessions.items(), "runtimes", transient=True):
            features = [embeddings(session, part) for part in images]
            reference = reference or features
            result = evaluate_ranking(
                features[0], query.pids, query.camids, features[1], gallery.pids, gallery.camids
            )
            cosines = np.concatenate(
                [np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                 for a, b in zip(features, reference, strict=True)]
            )  # fmt: skip
            parts = [out / name, *([(out / name).with_suffix(".bin")] if name.endswith(".xml") else [])]
            rows[name] = {
                "mAP": 100 * float(result.mAP),
                "rank1": 100 * float(result.rank1),
                "smallest_cosine": float(cosines.min()),
                "megabytes": sum(p.stat().st_size for p in parts if p.is_file()) / 1e6 or None,
            }

    table = Table(title=f"{arguments.model} on {arguments.dataset}", box=box.MARKDOWN, title_justify="left")
    for heading in ("", "MB", "mAP", "against the SavedModel", "rank-1", "smallest cosine"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in rows.items():
        size = "" if row["megabytes"] is None else f"{row['megabytes']:.1f}"
        table.add_row(
            name, size, f"{row['mAP']:.2f}", f"{row['mAP'] - rows['SavedModel']['mAP']:+.2f}",
            f"{row['rank1']:.2f}", f"{row['smallest_cosine']:.4f}",
        )  # fmt: skip
    Console(width=110).print(table)
    results = {
        "python": platform.python_version(),
        "packages": notes["packages"],
        "dataset": arguments.dataset,
        "calibration_images": len(calibration),
        "rows": rows,
    }
    write_results("runtime_accuracy", results)


if __name__ == "__main__":
    main()
