"""Load on the API of a gallery: requests a second and p99 at 1, 8 and 64 clients, and memory.

    python benchmarks/api.py [--entries 10000] [--seconds 10] [--requests 20000]

The server is `san-tf serve-ui` in a process of its own, with the shipped encoder and a gallery of random
embeddings. Each client is a thread with a connection that is kept open, and asks again as soon as it is
answered. Two requests are measured: a search by key, and a search by a picture of 64x128 pixels, which the
encoder embeds first. At last searches by key go on until `--requests` of them were answered; the server
tells its memory by `/metrics` before and after. It also tells the CPU time of each answer, which says more
than the rest if other programs run beside it. Clients share the machine with the server. The script needs
`pip install "san-tf[page,gallery]"`, prints a table and writes `results/api.json`, with the load average of
the machine before the start.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from san_tf.atomic import atomic_file

CLIENTS = (1, 8, 64)
RESULTS = Path(__file__).parent / "results" / "api.json"
Request = tuple[str, bytes, str]


def make_gallery(folder: Path, model: str, entries: int) -> None:
    """Write a gallery of random embeddings for an export."""
    from san_tf.retrieval.entries import Entry
    from san_tf.retrieval.gallery import GalleryInfo
    from san_tf.retrieval.opening import open_gallery
    from san_tf.serving import read_metadata
    from san_tf.serving.fingerprint import fingerprint

    notes = read_metadata(model)
    size, rng = int(notes["embedding_size"]), np.random.default_rng(0)
    info = GalleryInfo(size, str(Path(model).resolve()), fingerprint(model, notes))
    with open_gallery(folder, create=info) as gallery:
        for start in range(0, entries, 5000):
            count = min(5000, entries - start)
            rows = rng.normal(size=(count, size)).astype(np.float32)
            gallery.add(rows, [Entry(f"{n:07}.jpg", camera=n % 6) for n in range(start, start + count)])
        gallery.optimize()


@contextlib.contextmanager
def served(gallery: Path, model: str) -> Iterator[tuple[str, int]]:
    """Serve a gallery, and give host and port."""
    command = [sys.executable, "-m", "san_tf", "serve-ui", "--gallery", str(gallery), "--model", model]
    environment = {name: value for name, value in os.environ.items() if name != "SAN_TF_TOKENS"}
    process = subprocess.Popen(
        [*command, "--port", "0", "--rate", "0"], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if "http://" not in line:
            raise SystemExit(f"The server did not start: {line}")
        host, _, port = line.split("http://")[1].split("/")[0].rpartition(":")
        yield host, int(port)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:  # what was measured stays
            process.kill()
            print("The server did not end within 120 s.", file=sys.stderr)


def ask(connection: http.client.HTTPConnection, request: Request) -> None:
    """Send a request, and read its answer whole."""
    path, body, kind = request
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} was answered {answer.status}: {content[:200]!r}")


def load(
    place: tuple[str, int], request: Request, clients: int, seconds: float, most: float = float("inf")
) -> list[float]:
    """Ask with so many clients at once, and return the seconds of each answer."""
    times: list[float] = []
    failed: list[Exception] = []
    end, lock, left = time.perf_counter() + seconds, threading.Lock(), most

    def run() -> None:
        nonlocal left
        connection = http.client.HTTPConnection(*place, timeout=120)
        while time.perf_counter() < end and not failed:
            with lock:
                if left <= 0:
                    break
                left -= 1
            began = time.perf_counter()
            try:
                ask(connection, request)
            except (
                Exception
            ) as error:  # told by the main thread: a client less would look like a quick server
                failed.append(error)
                break
            times.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"A client failed: {failed[0]}")
    return times


def measured(place: tuple[str, int], name: str) -> float:
    """Return one of the server's metrics."""
    connection = http.client.HTTPConnection(*place, timeout=120)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def memory(place: tuple[str, int]) -> float:
    """Return the server's resident memory, in MB."""
    return measured(place, "process_resident_memory_bytes") / 2**20


def cpu_seconds(place: tuple[str, int]) -> float:
    """Return the CPU seconds that the server has taken."""
    return measured(place, "process_cpu_seconds_total")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=10_000, help="entries of the gallery")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for each number of clients")
    parser.add_argument("--requests", type=int, default=20_000, help="requests of the memory measurement")
    parser.add_argument("--model", default="saved_models/synthetic/1", help="the encoder's export")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    options = parser.parse_args()
    picture = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture, "JPEG", quality=90)
    by_key = json.dumps({"key": "0000001.jpg", "top": 20}).encode()
    requests: dict[str, Request] = {
        "search by key": ("/api/v1/search", by_key, "application/json"),
        "search by picture": ("/api/v1/search/picture?top=20", picture.getvalue(), "image/jpeg"),
    }
    rows: list[dict[str, Any]] = []
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "people.gallery"
        make_gallery(gallery, options.model, options.entries)
        with served(gallery, options.model) as place:
            for name, request in requests.items():
                load(place, request, 8, 2.0)  # the first run compiles
                for clients in CLIENTS:
                    began, taken = time.perf_counter(), cpu_seconds(place)
                    times = np.array(load(place, request, clients, options.seconds))
                    seconds, taken = time.perf_counter() - began, cpu_seconds(place) - taken
                    rows.append(
                        {
                            "request": name,
                            "clients": clients,
                            "requests_per_second": round(len(times) / seconds, 1),
                            "cpu_ms": round(1000 * taken / len(times), 1),
                            "p50_ms": round(1000 * float(np.quantile(times, 0.5)), 1),
                            "p99_ms": round(1000 * float(np.quantile(times, 0.99)), 1),
                        }
                    )
            before = memory(place)
            answered = len(load(place, requests["search by key"], 8, float("inf"), options.requests))
            after = memory(place)
    found = {
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "load_before": round(load_before, 2),
        },
        "entries": options.entries,
        "rows": rows,
        "memory": {"requests": answered, "before_mb": round(before, 1), "after_mb": round(after, 1)},
    }
    table = Table(box=box.SIMPLE_HEAD)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "request" else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = Console()
    console.print(table)
    console.print(
        f"{answered:,} requests: {before:.0f} MB before, {after:.0f} MB after; load {load_before:.1f}"
    )
    with atomic_file(options.out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
