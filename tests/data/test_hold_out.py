import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.data.record_sets import hold_out
from san_tf.data.records import Records
from san_tf.errors import UserError


def records_of(pids, camids):
    names = [
        f"{pid}_c{camid}_{number:04d}.jpg"
        for number, (pid, camid) in enumerate(zip(pids, camids, strict=True))
    ]
    return Records.from_columns([b"x"] * len(names), pids, camids, names, verify=False)


def test_by_hand():
    # Identity 1: cameras 0, 0, 1; identity 2: camera 0 alone, never drawn; identity 3: cameras 1, 2, 2.
    records = records_of([1, 1, 1, 2, 2, 3, 3, 3, 0], [0, 0, 1, 0, 0, 1, 2, 2, 0])
    split = hold_out(records, 1, seed=0)
    chosen = int(split.query.identities[0])
    assert chosen in (1, 3)
    # One query for each of the two cameras; the third image, of the camera with two, is the gallery.
    assert split.query.camids.tolist() == ([0, 1] if chosen == 1 else [1, 2])
    assert split.gallery.filenames.tolist() == (["1_c0_0001.jpg"] if chosen == 1 else ["3_c2_0007.jpg"])
    assert set(split.train.pids.tolist()) == {0, 1, 2, 3} - {chosen}


@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=st.integers(0, 5))
def test_splits_are_disjoint_complete_and_independent_of_order(data, seed):
    number = data.draw(st.integers(20, 60))
    rng = np.random.default_rng(number)
    pids, camids = rng.integers(-1, 8, number), rng.integers(0, 3, number)
    records = records_of(pids.tolist(), camids.tolist())
    seen = {pid: set(camids[pids == pid].tolist()) for pid in range(1, 8)}
    eligible = [pid for pid, cameras in seen.items() if len(cameras) > 1]
    if len(eligible) < 2:
        return
    split = hold_out(records, len(eligible) - 1, seed)
    names = [part.filenames.tolist() for part in split]
    assert sorted(name for part in names for name in part) == sorted(records.filenames.tolist())
    assert not np.intersect1d(split.train.identities, split.query.identities).size
    assert set(split.query.pids.tolist()) <= set(eligible)
    # Every identity and camera has exactly one query.
    keys = list(zip(split.query.pids.tolist(), split.query.camids.tolist(), strict=True))
    assert len(keys) == len(set(keys)) == sum(len(seen[pid]) for pid in set(split.query.pids.tolist()))
    again = hold_out(records.select(rng.permutation(number)), len(eligible) - 1, seed)
    assert [sorted(part.filenames.tolist()) for part in again] == [sorted(part) for part in names]


@pytest.mark.parametrize(
    ("identities", "message"), [(0, "at least 1"), (2, "only 1 of the 2"), (3, "only 1 of the 2")]
)
def test_too_many_or_none(identities, message):
    records = records_of([1, 1, 2, 2], [0, 1, 0, 0])
    with pytest.raises(UserError, match=message):
        hold_out(records, identities)
