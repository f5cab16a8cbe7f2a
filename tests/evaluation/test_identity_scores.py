"""IDF1 by hand, by trying every assignment, and against motmetrics where it is installed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.evaluation import identity_scores

BOX, SHIFTED, ELSEWHERE = (10.0, 10.0, 20.0, 40.0), (10.0, 22.0, 20.0, 40.0), (90.0, 10.0, 20.0, 40.0)


def test_by_hand():
    # Person 1 has two identities: 5 for two frames, 6 for one. One box is too far off, one is nobody.
    truth = {1: {1: BOX}, 2: {1: BOX}, 3: {1: BOX}, 4: {2: BOX}}
    found = {1: {5: BOX}, 2: {5: SHIFTED}, 3: {6: BOX}, 4: {6: ELSEWHERE}, 5: {7: BOX}}
    # SHIFTED overlaps by 28 / 52 rows = 0.54.
    scores = identity_scores(truth, found)
    assert scores == (2 * 2 / (4 + 5), 2 / 5, 2 / 4, 2, 4, 5)
    assert identity_scores(truth, found, overlap=0.55).matched == 1
    assert identity_scores(truth, truth).idf1 == 1.0
    assert identity_scores(truth, {}) == (0.0, 0.0, 0.0, 0, 4, 0)
    with pytest.raises(UserError, match="Neither"):
        identity_scores({}, {1: {}})
    with pytest.raises(UserError, match="overlap must be"):
        identity_scores(truth, found, overlap=0)


def _some(seed: int):
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for frame in range(12):
        people = [pid for pid in range(1, 5) if rng.random() < 0.7]
        truth[frame] = {pid: (50.0 * pid, 10.0, 20.0, 40.0) for pid in people}
        found[frame] = {}
        for pid in people:
            if rng.random() < 0.85:
                name = 10 + (pid if rng.random() < 0.7 else int(rng.integers(1, 5)))
                found[frame][name] = (50.0 * pid + rng.uniform(-9, 9), 10.0, 20.0, 40.0)
    return truth, found


def _overlap(one, other) -> float:
    wide = max(0.0, min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1]))
    return wide * high / (one[2] * one[3] + other[2] * other[3] - wide * high)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_assignments(seed):
    truth, found = _some(seed)
    names = sorted({name for boxes in found.values() for name in boxes})
    best = 0
    for chosen in itertools.permutations([*names, None, None, None, None], 4):
        given = dict(zip(range(1, 5), chosen, strict=True))
        hits = 0
        for frame, boxes in truth.items():
            for pid, box in boxes.items():
                other = found[frame].get(given[pid])
                hits += other is not None and _overlap(box, other) >= 0.5
        best = max(best, hits)
    assert identity_scores(truth, found).matched == best


@pytest.mark.parametrize("seed", range(4))
def test_against_motmetrics(seed):
    motmetrics = pytest.importorskip("motmetrics")
    truth, found = _some(seed)
    counted = motmetrics.MOTAccumulator(auto_id=True)
    for frame in truth:
        ours, theirs = truth[frame], found[frame]
        distances = [[1 - _overlap(one, other) for other in theirs.values()] for one in ours.values()]
        distances = np.array(distances).reshape(len(ours), len(theirs))
        distances[distances > 0.5] = np.nan
        counted.update(list(ours), list(theirs), distances)
    wanted = motmetrics.metrics.create().compute(counted, metrics=["idf1", "idp", "idr"])
    scores = identity_scores(truth, found)
    np.testing.assert_allclose(wanted.to_numpy()[0], scores[:3], atol=1e-9)
