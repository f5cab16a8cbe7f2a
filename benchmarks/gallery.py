"""Galleries with a million embeddings: recall, speed, memory, disk, and kill -9 while adding.

    python benchmarks/gallery.py [--size 1000000] [--kills 20] [--engines embedded exact ...] [--folder DIR]

Engines run one after another, each in its own processes. The ground truth compares every query with every
embedding. Milvus in a file holds only `--milvus_size` embeddings, because it is slower. The script prints
tables and writes `results/gallery.json`; earlier results that are not measured again stay in the file. It
needs 8 GB of disk and 4 GB of memory.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from contestants import RESULTS, new_parser, write_results
from evaluation import machine
from gallery_data import nearest, write
from gallery_worker import entry, filters
from rich import box
from rich.console import Console
from rich.table import Table

from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.opening import open_gallery

STORED = RESULTS / "gallery.json"
WORKER = Path(__file__).with_name("gallery_worker.py")
ENGINES = ("embedded", "milvus-lite", "exact", "faiss-flat")


def work(task: str, uri: str, folder: Path, threads: int) -> dict[str, Any]:
    """Run the worker and return its results."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    command = [sys.executable, str(WORKER), task, uri, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | limits)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prepare(folder: Path, size: int, queries: int, dimensions: int) -> dict[str, Any]:
    """Write the embeddings and the ground truth of every search."""
    cosines = write(folder, size, queries, dimensions)
    cameras = np.load(folder / "cameras.npy")
    entries = [entry(number, int(camera)) for number, camera in enumerate(cameras)]
    masks = [np.array([where.passes(item) for item in entries]) for where in filters(size).values()]
    for number, found in enumerate(nearest(folder, masks)):
        np.save(folder / f"truth-{number}.npy", found)
    return {"size": size, "dimensions": dimensions, "queries": queries, "cosines": cosines}


def measure(engine: str, folder: Path) -> dict[str, Any]:
    """Build, and search with one and with two threads of the libraries."""
    if engine in ("exact", "faiss-flat"):
        task = "both" if engine == "exact" else "faiss"
        return {f"{threads}_threads": work(task, "", folder, threads) for threads in (1, 2)}
    place = folder / ("people.gallery" if engine == "embedded" else "people.db")
    uri = str(place) if engine == "embedded" else f"milvus:{place}"
    found: dict[str, Any] = {"build": work("build", uri, folder, 2)}
    files = [path for path in [place, *place.rglob("*")] if path.is_file()]
    found["disk_GB"] = sum(path.stat().st_size for path in files) / 1e9
    for threads in (1, 2):
        found[f"{threads}_threads"] = work("search", uri, folder, threads)
    shutil.rmtree(place, ignore_errors=True)
    return found


def kill(engine: str, times: int, dimensions: int) -> dict[str, int]:
    """Kill a process that adds, many times; count lost entries that it had acknowledged."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{folder}/people.gallery" if engine == "embedded" else f"milvus:{folder}/people.db"
        open_gallery(uri, create=GalleryInfo(dimensions)).close()
        acknowledged: set[int] = set()
        pause, last, lost, halves = random.Random(0), -1, 0, 0
        for _ in range(times):
            command = [sys.executable, str(WORKER), "add", uri, str(last + 1)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if process.stdout is None:
                raise SystemExit("The adding process has no output.")
            acknowledged.add(int(process.stdout.readline()))
            timer = threading.Timer(pause.uniform(0, 1), os.kill, (process.pid, signal.SIGKILL))
            timer.start()
            acknowledged |= {int(line) for line in process.stdout if line.endswith("\n")}
            process.wait()
            with open_gallery(uri) as gallery:
                there: dict[int, int] = {}
                for item in gallery.entries():
                    there[item.camera] = there.get(item.camera, 0) + 1
                lost = sum(100 - there.get(number, 0) for number in acknowledged)
                halves += sum(count != 100 for number, count in there.items() if number not in acknowledged)
                last = max(there)
                check = sorted(acknowledged)[-1]
                rows = np.random.default_rng(check).standard_normal((100, dimensions))
                hits = gallery.search(rows, 1)
                lost += sum(found[0].entry.camera != check or found[0].score < 0.999 for found in hits)
    return {"kills": times, "entries_acknowledged": 100 * len(acknowledged), "lost": lost, "halves": halves}


def show(results: dict[str, Any], console: Console) -> None:
    """Print the results."""
    for engine, found in results["engines"].items():
        build = found.get("build", found.get("2_threads", {}))
        size = found["data"]["size"]
        processor = build.get("build_processor_seconds", float("nan"))
        peak, searching = build.get("build_peak_GB", float("nan")), found["2_threads"]["search_peak_GB"]
        console.print(
            f"[bold]{engine}[/bold]: {size:,} x {found['data']['dimensions']}, built in "
            f"{build['build_seconds']:.0f} s ({processor:.0f} s processor time) in {peak:.2f} GB, "
            f"{found.get('disk_GB', 0):.2f} GB on disk; searched in {searching:.2f} GB; 1 thread, 2 threads:"
        )
        table = Table(box=box.MARKDOWN)
        for heading in ("", "recall@10", "q/s", "2 clients", "batched", "q/s", "2 clients", "batched"):
            table.add_column(heading, justify="right" if heading else "left")
        for name in found["2_threads"]["search"]:
            cells = [f"{found['2_threads']['search'][name]['recall_at_10']:.4f}"]
            for threads in (1, 2):
                row = found[f"{threads}_threads"]["search"][name]
                cells += [f"{row[key]:.0f}" for key in ("single", "single_by_two_clients", "batched")]
            table.add_row(name, *cells)
        console.print(table)
        if "kills" in found:
            console.print(f"kill -9 while adding: {found['kills']}")


def main() -> None:
    parser = new_parser(__doc__, rounds=0)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--milvus_size", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--folder", help="temporary folder with 12 GB free (default: the system's)")
    arguments = parser.parse_args()
    console = Console(width=120)
    results: dict[str, Any] = json.loads(STORED.read_text()) if STORED.exists() else {"engines": {}}
    names = ("faiss-cpu", "pymilvus", "milvus-lite")
    results["machine"] = machine() | {name: importlib.metadata.version(name) for name in names}
    sizes = {
        engine: arguments.milvus_size if engine == "milvus-lite" else arguments.size for engine in ENGINES
    }
    for size in sorted({sizes[engine] for engine in arguments.engines}, reverse=True):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            with console.status(f"Making {size:,} embeddings"):
                data = prepare(Path(folder), size, arguments.queries, arguments.dimensions)
            for engine in arguments.engines:
                if sizes[engine] != size:
                    continue
                with console.status(engine):
                    results["engines"][engine] = {"data": data, **measure(engine, Path(folder))}
                    if engine in ("embedded", "milvus-lite") and arguments.kills:
                        results["engines"][engine]["kills"] = kill(
                            engine, arguments.kills, arguments.dimensions
                        )
    show(results, console)
    write_results("gallery", results)


if __name__ == "__main__":
    main()
