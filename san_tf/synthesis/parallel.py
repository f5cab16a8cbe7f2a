"""Rendering on all cores with worker processes that talk over pipes.

Workers are plain child processes, not `multiprocessing`. They do not fork a process that holds TensorFlow's
threads, and they do not import the caller's main module again. When the parent is killed, their pipe closes
and they end.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from san_tf.errors import UserError
from san_tf.resources import core_count
from san_tf.synthesis.crop_plans import CropSpec

# A worker gets whole people, until they make at least this many crops.
CHUNK = 12


def _start_worker() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    # Each worker uses one core, so BLAS and OpenCV must not start threads.
    environment = dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    command = [sys.executable, "-m", "san_tf.synthesis.parallel"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _feed(
    tasks: queue.SimpleQueue[Any], results: queue.SimpleQueue[Any], worker: subprocess.Popen[bytes]
) -> None:
    """Hand chunks to one worker and pass its answers on, until the tasks end or the pipe breaks."""
    while True:
        task = tasks.get()
        if task is None:
            return
        number, specs = task
        try:
            pickle.dump(specs, worker.stdin)  # type: ignore[arg-type]
            worker.stdin.flush()  # type: ignore[union-attr]
            results.put((number, pickle.load(worker.stdout)))  # type: ignore[arg-type]
        except (OSError, EOFError, pickle.UnpicklingError):
            results.put(
                (
                    number,
                    RuntimeError("A rendering process ended, perhaps for lack of memory; start again."),
                )
            )
            return


def render_parallel(
    specs: Sequence[CropSpec], processes: int | None = None, progress: str | None = None
) -> Iterator[Any]:
    """Draw crops on all cores; yield them in the order of `specs`.

    Args:
        specs: what to draw; it is faster if the specs of one identity follow each other.
        processes: number of worker processes, all cores by default; 0 draws in this process.
        progress: text beside a progress bar, None for no bar.

    Yields:
        A `crops.Crop` for each spec; its bytes do not depend on `processes`.

    Raises:
        UserError: as `render_crop`.
        RuntimeError: a worker ended unexpectedly.
    """
    bar = contextlib.nullcontext() if progress is None else _progress_bar()
    with bar as shown:
        task = shown.add_task(progress or "", total=len(specs)) if shown else None
        for crop in _render(specs, core_count() if processes is None else processes):
            yield crop
            if shown and task is not None:
                shown.advance(task)


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images,"))
    return Progress(*columns, TimeRemainingColumn(), TextColumn("left"))


def _render(specs: Sequence[CropSpec], processes: int) -> Iterator[Any]:
    from san_tf.synthesis.crops import render_crop

    if processes == 0 or len(specs) <= CHUNK:
        yield from map(render_crop, specs)
        return
    if specs:
        # Compile the kernels to the cache on disk once, before all workers would do so.
        render_crop(specs[0])
    chunks = _chunks(specs)
    processes = min(processes, len(chunks))
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workers = [_start_worker() for _ in range(processes)]
    try:
        for worker in workers:
            threading.Thread(target=_feed, args=(tasks, results, worker), daemon=True).start()
        # Workers stay a few chunks ahead of the consumer, not the whole data set.
        ahead, waiting, wanted = 4 * processes, {}, 0
        for number in range(min(ahead, len(chunks))):
            tasks.put((number, chunks[number]))
        while wanted < len(chunks):
            while wanted not in waiting:
                number, answer = results.get()
                if isinstance(answer, BaseException):
                    raise answer
                waiting[number] = answer
            yield from waiting.pop(wanted)
            if wanted + ahead < len(chunks):
                tasks.put((wanted + ahead, chunks[wanted + ahead]))
            wanted += 1
    finally:
        for worker in workers:
            tasks.put(None)
            worker.kill()
            worker.wait()


def _chunks(specs: Sequence[CropSpec]) -> list[list[CropSpec]]:
    """Cut a plan into pieces of about `CHUNK` crops, between identities: dressing a person is slow."""
    chunks: list[list[CropSpec]] = [[]]
    for spec in specs:
        last = chunks[-1]
        if len(last) >= 4 * CHUNK or (len(last) >= CHUNK and spec.identity != last[-1].identity):
            chunks.append([])
        chunks[-1].append(spec)
    return chunks


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the parent closes the pipe."""
    from san_tf.synthesis.crops import render_crop

    while True:
        try:
            specs = pickle.load(requests)
        except EOFError:
            return
        answer: Any
        try:
            answer = [render_crop(spec) for spec in specs]
        except UserError as error:
            answer = error
        except Exception as error:
            answer = RuntimeError(f"Rendering {specs[0].filename} and its neighbours failed: {error!r}")
        pickle.dump(answer, answers)
        answers.flush()


def main() -> None:
    """Run as a worker: read specs from standard input, write crops to standard output."""
    import cv2

    # The parent handles Ctrl-C; this process ends when the parent closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a library prints must not mix with the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
