"""Every engine gives what comparing everything gives, whatever was added and deleted before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.evaluation.ranking import evaluate_ranking
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import Gallery, GalleryInfo

SIZE = 6
KEYS = st.integers(0, 40)
TAGS = st.frozensets(st.sampled_from(["door", "day", 'it\'s-"odd"%']))
FILTERS = st.builds(
    Filter,
    cameras=st.lists(st.integers(-1, 3), max_size=2).map(tuple),
    excluded_cameras=st.lists(st.integers(-1, 3), max_size=1).map(tuple),
    since=st.none() | st.integers(0, 9).map(float),
    until=st.none() | st.integers(0, 9).map(float),
    tags=TAGS.map(tuple),
    pids=st.lists(st.integers(-1, 3), max_size=2).map(tuple),
)
ENTRIES = st.builds(
    Entry,
    key=KEYS.map(lambda number: f"k{number}"),
    image=st.sampled_from(["", "a/b c.jpg"]),
    camera=st.integers(-1, 3),
    time=st.none() | st.integers(0, 9).map(float),
    pid=st.none() | st.integers(-1, 3),
    tags=TAGS.map(tuple),
)
STEPS = st.one_of(
    st.tuples(st.just("add"), st.lists(ENTRIES, min_size=1, max_size=25), st.integers(0, 2**32)),
    st.tuples(st.just("delete"), st.lists(KEYS, max_size=9)),
    st.tuples(st.just("delete where"), FILTERS),
    st.tuples(st.just("search"), FILTERS, st.integers(1, 12)),
)


def _rows(seed: int, number: int) -> np.ndarray:
    # Few directions: some embeddings are the same, and have to stand in the order of their keys.
    return np.random.default_rng(seed).integers(-2, 3, (number, SIZE)) + np.eye(number, SIZE) * 0.5 + 0.1


def brute_force(kept: dict[str, tuple[np.ndarray, Entry]], query: np.ndarray, top: int, where: Filter):
    """Scores and keys, by the definition of the cosine."""
    scored = [
        (float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)), entry.key)
        for row, entry in kept.values()
        if where.passes(entry)
    ]
    return sorted(scored, reverse=True)[:top]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=3, max_size=8))
def test_any_history(empty, steps):
    gallery: Gallery = empty(SIZE)
    gallery.delete(where=Filter(), for_good=False)
    kept: dict[str, tuple[np.ndarray, Entry]] = {}
    for kind, *given_ in [*steps, ("search", Filter(), 5)]:
        if kind == "add":
            entries, seed = given_
            rows = _rows(seed, len(entries))
            gallery.add(rows, entries)
            kept |= {entry.key: (row, entry) for row, entry in zip(rows, entries, strict=True)}
        elif kind == "delete":
            keys = [f"k{number}" for number in given_[0]]
            assert gallery.delete(keys, for_good=False) == len(kept.keys() & set(keys))
            kept = {key: value for key, value in kept.items() if key not in keys}
        elif kind == "delete where":
            gone = [key for key, (_, entry) in kept.items() if given_[0].passes(entry)]
            assert gallery.delete(where=given_[0], for_good=False) == len(gone)
            kept = {key: value for key, value in kept.items() if key not in gone}
        else:
            where, top = given_
            query = _rows(7, 1)[0]
            hits = gallery.search(query[None], top, where)[0]
            wanted = brute_force(kept, query, top, where)
            assert [hit.score for hit in hits] == pytest.approx([score for score, _ in wanted], abs=1e-6)
            for hit in hits:  # equal scores may stand in another order than rounding gives them here
                entry = kept[hit.entry.key][1]
                assert hit.entry == Entry(**{**vars(entry), "tags": tuple(sorted(entry.tags))})
            order = [(-hit.score, hit.entry.key) for hit in hits]
            assert order == sorted(order) and len(set(order)) == len(order)
            keys = sorted(key for key, (_, entry) in kept.items() if where.passes(entry))
            assert [entry.key for entry in gallery.entries(where)] == keys
        assert len(gallery) == len(kept)
        assert gallery.cameras() == sorted({entry.camera for _, entry in kept.values()} - {-1})
        assert gallery.tags() == sorted({tag for _, entry in kept.values() for tag in entry.tags})
    some = sorted(kept)[:3]
    wanted_rows = [kept[key][0] / np.linalg.norm(kept[key][0]) for key in some]
    np.testing.assert_allclose(gallery.embeddings(some), np.reshape(wanted_rows, (-1, SIZE)), atol=1e-6)
    gallery.close()


def test_hits_are_those_of_the_exact_gallery(empty):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 32))
    rows = np.repeat(centres, 10, axis=0) + 0.15 * rng.standard_normal((600, 32))
    entries = [Entry(f"{n:04}", camera=n % 5, time=float(n % 7), tags=(f"t{n % 3}",)) for n in range(600)]
    gallery, exact = empty(32), ExactGallery(GalleryInfo(32))
    for each in (gallery, exact):
        for start in range(0, 600, 50):
            each.add(rows[start : start + 50], entries[start : start + 50])
        each.delete(where=Filter(cameras=(4,), since=5.0), for_good=False)
        each.add(-rows[:30], entries[:30])
    queries = centres[20:40] + 0.15 * rng.standard_normal((20, 32))
    for where in (Filter(), Filter(cameras=(1,)), Filter(tags=("t0",), until=3.0), Filter(cameras=(9,))):
        assert gallery.search(queries, 8, where) == exact.search(queries, 8, where)
    assert gallery.entries(Filter(tags=("t1",)), 5, 7) == exact.entries(Filter(tags=("t1",)), 5, 7)
    gallery.close()


def test_a_search_scores_as_the_evaluation_does(empty):
    rng = np.random.default_rng(1)
    people = rng.standard_normal((12, 16))
    pids, camids = np.repeat(np.arange(12), 5), np.tile(np.arange(5), 12)
    rows, queries = (people[ids] + 1.2 * rng.standard_normal((60, 16)) for ids in (pids, pids))
    gallery = empty(16)
    gallery.add(rows, [Entry(f"{n:02}", camera=int(camids[n]), pid=int(pids[n])) for n in range(60)])
    wanted = evaluate_ranking(queries, pids, camids, rows, pids, camids, metric="cosine")
    first, precisions = [], []
    for pid, camera, hits in zip(pids, camids, gallery.search(queries, 60), strict=True):
        kept = [hit.entry for hit in hits if (hit.entry.pid, hit.entry.camera) != (pid, camera)]
        ranks = np.flatnonzero([entry.pid == pid for entry in kept]) + 1  # of four right ones among 59
        assert len(kept) == 59 and len(ranks) == 4
        first.append(ranks[0] == 1)
        precisions.append(np.mean([(number + 1) / rank for number, rank in enumerate(ranks)]))
    assert 0.2 < wanted.rank1 < 1 and wanted.rank1 == np.mean(first)
    assert wanted.mAP == pytest.approx(np.mean(precisions), abs=1e-12)
    gallery.close()


def test_equal_scores_are_in_the_order_of_keys(empty):
    # 120 pictures of the same content among others, added in another order than that of their keys.
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((150, 16))
    rows[30:] = rows[30]
    keys = [f"{number:03}" for number in rng.permutation(150)]
    gallery = empty(16)
    for start in range(0, 150, 50):
        some = slice(start, start + 50)
        gallery.add(rows[some], [Entry(key, camera=int(key) % 2) for key in keys[some]])
    equal = sorted(keys[30:])
    for top in (1, 20, 119, 120, 150):
        found = [hit.entry.key for hit in gallery.search(rows[30:31], top)[0]]
        assert found[:120] == equal[:top] and len(found) == top
    odd = [key for key in equal if int(key) % 2]
    hits = gallery.search(np.stack([rows[30], rows[0]]), 10, Filter(cameras=(1,)))
    assert [hit.entry.key for hit in hits[0]] == odd[:10]
    # Every one of them can be had by its key.
    assert [entry.key for entry in gallery.get(equal[::-1])] == equal[::-1]
    with pytest.raises(UserError, match="holds no entry nobody"):
        gallery.get(["000", "nobody"])
    assert gallery.known(["000", "\udcff"]) == {"000"} and gallery.delete(["\udcff"]) == 0
    gallery.close()


def test_a_search_that_asks_for_everything_gets_it(empty):
    rows = np.random.default_rng(4).standard_normal((400, 12))
    gallery = empty(12)
    for start in range(0, 400, 100):
        entries = [Entry(f"{n:03}", camera=n % 2) for n in range(start, start + 100)]
        gallery.add(rows[start : start + 100], entries)
    for top, where, number in ((390, Filter(), 390), (10**9, Filter(), 400), (400, Filter((1,)), 200)):
        assert len(gallery.search(rows[:2], top, where)[1]) == number
    gallery.close()


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (Filter(cameras=(10**30,)), r"There is no camera a number above 1e\+20"),
        (Filter(excluded_cameras=(-2,)), "There is no camera -2"),
        (Filter(since=float("nan")), "The time nan of the filter is not finite"),
        (Filter(until=float("inf")), "The time inf of the filter is not finite"),
        (Filter(tags=("\udcff",)), "There is no tag"),
    ],
)
def test_filters_that_are_none(empty, where, told):
    gallery = empty(4)
    for ask in (lambda: gallery.search(np.ones((1, 4)), 1, where), lambda: gallery.entries(where)):
        with pytest.raises(UserError, match=told):
            ask()
    with pytest.raises(UserError, match=told):
        gallery.delete(where=where)
    gallery.close()
