"""Embeds twenty boxes of a frame: one call of `FrameEncoder` against a call for each box.

    python benchmarks/frames.py [--threads 2] [--rounds 9] [--model saved_models/synthetic/1]

The frame has 1080 x 1920 pixels of noise. The boxes have twenty sizes, from 60 x 24 to 440 x 176 pixels. The
contestants are an export and its files for other runtimes. Each is a process of its own, which tells how long
loading took and how much memory it has, and takes turns between one call with all boxes and a call for each.
Times are medians. The script needs `pip install "san-tf[runtimes]"`, prints a table and writes
`results/frames.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from contestants import memory
from rich import box
from rich.console import Console
from rich.table import Table

from san_tf.atomic import atomic_file

FILES = {
    "SavedModel": "",
    "ONNX Runtime": "encoder.onnx",
    "LiteRT": "encoder.tflite",
    "OpenVINO": "encoder.xml",
}
RESULTS = Path(__file__).parent / "results" / "frames.json"


def boxes() -> np.ndarray:
    """Twenty boxes, xyxy, of different sizes."""
    heights = np.linspace(60, 440, 20).round()
    lefts, tops = np.linspace(0, 1700, 20).round(), np.linspace(0, 600, 20).round()
    return np.stack([lefts, tops, lefts + (0.4 * heights).round(), tops + heights], axis=1)


def measure(model: str, threads: int, rounds: int) -> dict[str, Any]:
    """Load one model and time it, in this process."""
    began = time.process_time()
    import san_tf

    if Path(model).is_dir():
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        encode = san_tf.FrameEncoder(model)
    else:
        from san_tf.serving.runtime_sessions import open_session

        encode = san_tf.FrameEncoder(open_session(model, threads))
    loaded = time.process_time() - began
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    people = boxes()
    found = encode(frame, people)
    singly = np.concatenate([encode(frame, person[None]).embeddings for person in people])
    if found.refused.any() or not np.allclose(found.embeddings, singly, atol=1e-5):
        raise SystemExit(f"{model}: one call and twenty calls disagree.")
    ways = {
        "one call": lambda: encode(frame, people),
        "twenty calls": lambda: [encode(frame, person[None]) for person in people],
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            times[way].append((time.perf_counter() - wall, time.process_time() - processor))
    medians = {
        way: {
            "wall_ms": round(1000 * statistics.median(wall for wall, _ in each), 1),
            "processor_ms": round(1000 * statistics.median(processor for _, processor in each), 1),
        }
        for way, each in times.items()
    }
    pairs = zip(times["one call"], times["twenty calls"], strict=True)
    return {
        "load_processor_s": round(loaded, 2),
        "memory_mb": round(memory()),
        "tensorflow_imported": "tensorflow" in sys.modules,
        **medians,
        "ratio_of_wall_time": round(statistics.median(many[0] / one[0] for one, many in pairs), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of each model")
    parser.add_argument("--rounds", type=int, default=9, help="rounds, of which the median counts")
    parser.add_argument("--model", default="saved_models/synthetic/1", help="folder of an export's version")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # in the process of one contestant
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.threads, given.rounds)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        from san_tf.serving.runtimes import export_runtimes

        files = export_runtimes(given.model, Path(folder) / "files")
        for name, file in FILES.items():
            command = [sys.executable, __file__, "--only", str(files / file) if file else given.model]
            command += ["--threads", str(given.threads), "--rounds", str(given.rounds)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
            results[name] = json.loads(done.stdout.splitlines()[-1])
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "load, s", "memory, MB", "one call, ms", "twenty calls, ms", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in results.items():
        calls = [
            f"{row[way]['wall_ms']} ({row[way]['processor_ms']})" for way in ("one call", "twenty calls")
        ]
        facts = [str(row[fact]) for fact in ("load_processor_s", "memory_mb")]
        table.add_row(name, *facts, *calls, str(row["ratio_of_wall_time"]))
    Console().print(table, "Milliseconds of wall-clock time, in brackets of processor time.")
    notes = {name: getattr(given, name) for name in ("model", "threads", "rounds")}
    with atomic_file(RESULTS) as temporary:
        text = json.dumps({**notes, "python": platform.python_version(), "results": results}, indent=2)
        temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
