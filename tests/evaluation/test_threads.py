import threading

import pytest
from threadpoolctl import threadpool_info

from san_tf.evaluation import threads
from san_tf.evaluation.threads import finish_blocks, ranges, run_blocks


@pytest.mark.parametrize("cores", [1, 3])
def test_every_item_is_worked_on_once_and_few_are_taken_ahead(cores, monkeypatch):
    monkeypatch.setattr(threads, "core_count", lambda: cores)
    taken, done = [], []

    def items():
        for item in range(50):
            taken.append(item)
            yield item

    for step, _ in enumerate(run_blocks(done.append, items()), 1):
        assert len(taken) <= step + 2 * cores
    assert sorted(done) == list(range(50))


def test_the_blas_has_one_thread_meanwhile_and_its_own_again_afterwards():
    def blas():
        # An OpenBLAS on OpenMP, as FAISS brings, has a number of threads for each thread that asks.
        libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
        return [library["num_threads"] for library in libraries if library.get("threading_layer") != "openmp"]

    threads._libraries.cache_clear()  # other tests may have loaded a second BLAS since
    before, during = blas(), []
    finish_blocks(lambda item: during.append(blas()), range(3))
    assert before
    assert during == [[1] * len(before)] * 3
    assert blas() == before


def test_what_a_call_raises_ends_all():
    started = []

    def work(item):
        started.append(item)
        if item == 2:
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        finish_blocks(work, range(10_000))
    assert len(started) < 10_000
    assert not any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


def test_ranges_are_even_and_hold_everything():
    assert ranges(10, 4) == [(0, 3), (3, 6), (6, 10)]
    assert ranges(8, 4) == [(0, 4), (4, 8)]
    assert ranges(3, 100) == [(0, 3)]
    for number in range(1, 40):
        pieces = ranges(number, 7)
        assert [item for start, stop in pieces for item in range(start, stop)] == list(range(number))
        assert max(stop - start for start, stop in pieces) <= 7
