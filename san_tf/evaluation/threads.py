"""Runs a function on many blocks, one thread per core."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from san_tf.resources import core_count

Item = TypeVar("Item")


@functools.cache
def _libraries() -> ThreadpoolController:
    # The search takes milliseconds, and NumPy has loaded its BLAS already.
    return ThreadpoolController()


def run_blocks(function: Callable[[Item], object], items: Iterable[Item]) -> Iterator[None]:
    """Call a function with each item, on all cores, and yield after each finished call.

    Matrix products and compiled loops release the GIL, so threads run in parallel. The BLAS is limited to one
    thread meanwhile: each core goes on with its product while it is in the cache, and none waits for others.

    Args:
        function: called in threads; its exceptions are raised here.
        items: read as needed, a few ahead.

    Example:
        >>> for _ in run_blocks(fill, ranges): bar.advance()
    """
    threads = core_count()
    items = iter(items)
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        try:
            running = {pool.submit(function, item) for item in itertools.islice(items, 2 * threads)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield
                running |= {pool.submit(function, item) for item in itertools.islice(items, len(done))}
        finally:
            pool.shutdown(cancel_futures=True)


def finish_blocks(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a function with each item, on all cores, and wait for all calls."""
    for _ in run_blocks(function, items):
        pass


def ranges(number: int, size: int) -> list[tuple[int, int]]:
    """Cut `number` into even ranges of at most `size`, as `(start, stop)` pairs."""
    pieces = max(1, -(-number // size))
    edges = [number * piece // pieces for piece in range(pieces + 1)]
    return list(itertools.pairwise(edges))
