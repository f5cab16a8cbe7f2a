"""The exact gallery, by hand: every other engine is held against it."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry, Filter, Hit
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import GalleryInfo, similarities

ENTRIES = [
    Entry("east", "e.jpg", camera=0, time=10.0, pid=1, tags=("day", "door")),
    Entry("north", "n.jpg", camera=1, time=20.0, pid=2, tags=("door",)),
    Entry("west", camera=1, pid=1),
    Entry("northeast", camera=2, time=30.0, tags=("night",)),
]
# Of lengths 2, 1, 3 and 5: only the directions count.
ROWS = np.array([[2, 0], [0, 1], [-3, 0], [3, 4]], np.float64)


@pytest.fixture
def gallery() -> ExactGallery:
    gallery = ExactGallery(GalleryInfo(2))
    gallery.add(ROWS, ENTRIES)
    return gallery


def _keys(hits: list[Hit]) -> list[str]:
    return [hit.entry.key for hit in hits]


def test_scores_are_cosines(gallery):
    # Query (4, 3)/5: with east 0.8, north 0.6, west -0.8, northeast (3*4 + 4*3)/25 = 0.96.
    hits = gallery.search(np.array([[4.0, 3.0]]), top=4)[0]
    assert _keys(hits) == ["northeast", "east", "north", "west"]
    assert [hit.score for hit in hits] == pytest.approx([0.96, 0.8, 0.6, -0.8], abs=1e-6)
    assert hits[1].entry == ENTRIES[0]
    assert _keys(gallery.search(np.array([[4.0, 3.0]]), top=1)[0]) == ["northeast"]


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        (Filter(), ["east", "northeast", "north", "west"]),
        (Filter(cameras=(1,)), ["north", "west"]),
        (Filter(cameras=(0, 2)), ["east", "northeast"]),
        (Filter(excluded_cameras=(0, 2)), ["north", "west"]),
        (Filter(since=20.0), ["northeast", "north"]),  # 20 itself counts, an unknown time does not
        (Filter(until=20.0), ["east"]),  # 20 itself does not
        (Filter(tags=("door",)), ["east", "north"]),
        (Filter(tags=("door", "day")), ["east"]),
        (Filter(cameras=(7,)), []),
    ],
)
def test_filters(gallery, where, keys):
    assert _keys(gallery.search(np.array([[1.0, 0.1]]), where=where)[0]) == keys
    assert [entry.key for entry in gallery.entries(where)] == sorted(keys)


def test_adding_a_key_again_replaces_it(gallery):
    gallery.add(np.array([[0, -1], [0, 5]]), [Entry("east", camera=4), Entry("east", camera=5)])
    assert len(gallery) == 4 and gallery.cameras() == [1, 2, 5] and gallery.tags() == ["door", "night"]
    np.testing.assert_allclose(gallery.embeddings(["east", "west"]), [[0, 1], [-1, 0]])
    assert _keys(gallery.search(np.array([[0, 1]]))[0])[:2] == ["east", "north"]  # equal: by their keys


def test_deleting(gallery):
    assert gallery.delete(["east", "nobody", "east"]) == 1
    assert gallery.delete(where=Filter(cameras=(1,))) == 2
    assert [entry.key for entry in gallery.entries()] == ["northeast"]
    assert _keys(gallery.search(ROWS, top=9)[2]) == ["northeast"]
    assert gallery.delete(where=Filter()) == 1 and len(gallery) == 0
    assert gallery.search(ROWS)[0] == []


def test_pages_of_entries(gallery):
    assert [entry.key for entry in gallery.entries(start=1, limit=2)] == ["north", "northeast"]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda g: g.add(np.ones((1, 3)), [Entry("a")]), "holds embeddings of 2 numbers, and these have 3"),
        (lambda g: g.add(np.ones((2, 2)), [Entry("a")]), "2 embeddings and 1 entries"),
        (lambda g: g.add(np.ones(2), [Entry("a")]), "Embeddings are real numbers"),
        (lambda g: g.add(np.array([[1, 1], [np.nan, 1]]), [Entry("a"), Entry("b")]), "Embedding 1 is not"),
        (lambda g: g.add(np.zeros((1, 2)), [Entry("a")]), "not finite or all 0"),
        (lambda g: g.add(np.ones((1, 2)), [Entry("")]), "has no key"),
        (lambda g: g.add(np.ones((1, 2)), [Entry("a\nb")]), "cannot be kept in a gallery"),
        (lambda g: g.add(np.ones((1, 2)), [Entry("a", camera=-2)]), "camera of a is -2"),
        (lambda g: g.add(np.ones((1, 2)), [Entry("a", time=np.inf)]), "time of a is inf"),
        (lambda g: g.add(np.ones((1, 2)), [Entry("a", pid=-5)]), "identity of a is -5"),
        (lambda g: g.add(np.ones((1, 2)), [Entry("a", tags=("",))]), "not a word"),
        (lambda g: g.search(np.ones((1, 2)), top=0), "at least 1 entry, not 0"),
        (lambda g: g.search(np.ones((1, 1))), "2 numbers, and these have 1"),
        (lambda g: g.delete(), "Name either the keys"),
        (lambda g: g.delete(["a"], Filter()), "Name either the keys"),
        (lambda g: g.embeddings(["nobody"]), "holds no entry nobody"),
    ],
)
def test_mistakes_are_told_and_change_nothing(gallery, call, told):
    with pytest.raises(UserError, match=told):
        call(gallery)
    assert gallery.entries() == sorted(ENTRIES, key=lambda entry: entry.key)


@pytest.mark.parametrize("queries", [0, 1, 3, 4, 9])
def test_similarities_are_products(queries):
    rng = np.random.default_rng(queries)
    rows, asked = (
        rng.normal(size=(50, 7)).astype(np.float32),
        rng.normal(size=(queries, 7)).astype(np.float32),
    )
    naive = [
        [sum(float(a) * float(b) for a, b in zip(one, row, strict=True)) for row in rows] for one in asked
    ]
    found = similarities(asked, rows)
    assert found.dtype == np.float32 and found.shape == (queries, 50)
    np.testing.assert_allclose(found, np.reshape(naive, (queries, 50)), rtol=0, atol=1e-5)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="on one core no threads wait for each other")
def test_searches_at_once_take_the_cpu_time_of_searches_in_turn():
    rows = np.random.default_rng(0).normal(size=(2000, 512)).astype(np.float32)

    def seconds(threads: int, calls: int) -> float:
        def run() -> None:
            for _ in range(calls // threads):
                similarities(rows[:1], rows)

        workers = [threading.Thread(target=run) for _ in range(threads)]
        began = time.process_time()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.process_time() - began

    seconds(1, 8)
    # With a threaded BLAS, it was eight times the time, and ten times that of one thread without it.
    assert seconds(8, 160) < 4 * seconds(1, 160)
