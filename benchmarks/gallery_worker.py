"""Worker of `gallery.py` for one engine: `gallery_worker.py TASK URI FOLDER`, prints JSON.

TASK is `build`, `search`, `both` (for galleries in memory), `faiss` (its exact index) or `add` (until
killed).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from san_tf.resources import peak_memory
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.opening import open_gallery

ADDED, TOP = 10_000, 10


def entry(number: int, camera: int) -> Entry:
    """Return the entry of a row: one second after the previous one, every hundredth with a tag."""
    return Entry(f"{number:08}", "", camera, float(number), None, ("rare",) if number % 100 == 0 else ())


def filters(size: int) -> dict[str, Filter]:
    """Return filters that pass all, 1/16, 15/16, the last 1/10 and 1/100 of the entries."""
    return {
        "everything": Filter(),
        "one camera of 16": Filter(cameras=(3,)),
        "all cameras but one": Filter(excluded_cameras=(3,)),
        "the last tenth of the time": Filter(since=0.9 * size),
        "a tag of one in 100": Filter(tags=("rare",)),
    }


def _rows(folder: Path, start: int, stop: int) -> np.ndarray:
    """Return some rows; the file is mapped each time, so that it does not count as this process's memory."""
    return np.array(np.load(folder / "rows.npy", mmap_mode="r")[start:stop])


def _batches(folder: Path) -> Iterator[tuple[np.ndarray, list[Entry]]]:
    cameras = np.load(folder / "cameras.npy")
    for start in range(0, len(cameras), ADDED):
        stop = min(start + ADDED, len(cameras))
        yield _rows(folder, start, stop), [entry(n, int(cameras[n])) for n in range(start, stop)]


def build(gallery: Gallery, folder: Path) -> dict[str, float]:
    """Add all rows and measure it."""
    began, processor, slowest = time.perf_counter(), time.process_time(), 0.0
    for rows, entries in _batches(folder):
        start = time.perf_counter()
        gallery.add(rows, entries)
        slowest = max(slowest, time.perf_counter() - start)
    gallery.optimize()
    return {
        "build_seconds": time.perf_counter() - began,
        "build_processor_seconds": time.process_time() - processor,
        "slowest_add_seconds": slowest,
        "build_peak_GB": peak_memory(),
    }


def _rates(ask: Callable[[np.ndarray], Any], queries: np.ndarray, seconds: float = 2.0) -> dict[str, float]:
    """Measure queries per second: one by one, one by one from two threads, and in batches of 100."""

    def one_at_a_time(first: int) -> int:
        asked, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            ask(queries[(first + asked) % len(queries)][None])
            asked += 1
        return asked

    rates, processor = {}, time.process_time()
    rates["single"] = one_at_a_time(0) / seconds
    rates["single_processor_ms"] = 1000 * (time.process_time() - processor) / (rates["single"] * seconds)
    with ThreadPoolExecutor(2) as pool:
        began = time.perf_counter()
        asked = sum(pool.map(one_at_a_time, (0, len(queries) // 2)))
        rates["single_by_two_clients"] = asked / (time.perf_counter() - began)
    asked, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        ask(queries[:100])
        asked += len(queries[:100])
    return {**rates, "batched": asked / (time.perf_counter() - began)}


def search(gallery: Gallery, folder: Path, filtered: bool = True) -> dict[str, Any]:
    """Measure recall and speed for each filter."""
    queries = np.load(folder / "queries.npy")
    size, found = len(gallery), {}
    began = time.perf_counter()
    gallery.search(queries[:1], TOP)
    first = time.perf_counter() - began
    for number, (name, where) in enumerate(filters(size).items()):
        if number and not filtered:
            break
        truth = np.load(folder / f"truth-{number}.npy")
        answers = [[int(hit.entry.key) for hit in hits] for hits in gallery.search(queries, TOP, where)]
        shared = [len(set(row) & set(wanted)) for row, wanted in zip(answers, truth.tolist(), strict=True)]
        found[name] = {"recall_at_10": float(np.mean(shared)) / TOP}
        found[name] |= _rates(lambda asked, where=where: gallery.search(asked, TOP, where), queries)
    return {"first_query_seconds": first, "search": found, "search_peak_GB": peak_memory()}


def faiss_flat(folder: Path) -> dict[str, Any]:
    """Measure the exact index of FAISS, without entries or filters."""
    import faiss

    size, queries = len(np.load(folder / "cameras.npy")), np.load(folder / "queries.npy")
    index, began = faiss.IndexFlatIP(queries.shape[1]), time.perf_counter()
    for start in range(0, size, ADDED):
        index.add(_rows(folder, start, start + ADDED))
    built = time.perf_counter() - began
    truth = np.load(folder / "truth-0.npy")
    answers = index.search(queries, TOP)[1]
    recall = np.mean([len({*row} & {*wanted}) for row, wanted in zip(answers, truth, strict=True)]) / TOP
    rates = _rates(lambda asked: index.search(asked, TOP), queries)
    found = {"everything": {"recall_at_10": float(recall), **rates}}
    return {"build_seconds": built, "search": found, "search_peak_GB": peak_memory()}


def add_until_killed(uri: str, first: int) -> None:
    """Add batches of 100, and print the number of each batch once it is in the gallery."""
    with open_gallery(uri) as gallery:
        for number in range(first, 10**6):
            rows = np.random.default_rng(number).standard_normal((100, gallery.info.size))
            gallery.add(rows, [Entry(f"{number:06}-{place:02}", camera=number) for place in range(100)])
            print(number, flush=True)


def main() -> None:
    task, uri, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if task == "add":
        add_until_killed(uri, int(sys.argv[3]))
    size = np.load(folder / "queries.npy", mmap_mode="r").shape[1]
    if task == "faiss":
        found = faiss_flat(folder)
    elif task == "both":
        gallery: Gallery = ExactGallery(GalleryInfo(size))
        found = {**build(gallery, folder), **search(gallery, folder, filtered=False)}
    else:
        with open_gallery(uri, create=GalleryInfo(size) if task == "build" else None) as gallery:
            found = build(gallery, folder) if task == "build" else search(gallery, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
