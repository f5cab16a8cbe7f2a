"""The same work on many blocks, one thread a core: matrix products and compiled loops release the GIL."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from san_tf.cores import core_count

Item = TypeVar("Item")


@functools.cache
def _libraries() -> ThreadpoolController:
    # Looking for them takes milliseconds, and NumPy's BLAS has been there from the start.
    return ThreadpoolController()


def run_blocks(function: Callable[[Item], object], items: Iterable[Item]) -> Iterator[None]:
    """Call a function with each item, on all cores, and yield after each call that has ended.

    The BLAS is held to one thread meanwhile: one core multiplies a block and goes on with it while it is
    still in its cache, and no core waits for the others after each product.

    Args:
        function: called in threads; what it raises, this raises.
        items: read as they are needed, a few ahead.

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
    """Do the same without a step after each call."""
    for _ in run_blocks(function, items):
        pass


def ranges(number: int, size: int) -> list[tuple[int, int]]:
    """Cut `number` into ranges of at most `size`, as even as possible: `(start, stop)` pairs."""
    pieces = max(1, -(-number // size))
    edges = [number * piece // pieces for piece in range(pieces + 1)]
    return list(itertools.pairwise(edges))
