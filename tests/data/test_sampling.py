import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.data.sampling import pk_batches, pk_steps, shuffled_stream
from san_tf.errors import UserError


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 23), min_size=1, max_size=12),
    p=st.integers(1, 5),
    k=st.integers(1, 5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_batches_hold_p_identities_with_k_images_each(counts, p, k, seed, epoch):
    pids = np.random.default_rng(seed).permutation(np.repeat(np.arange(1, len(counts) + 1) * 7, counts))
    pids = np.concatenate([[0, -1, 0], pids])  # distractors and junk never show up
    if len(counts) < p:
        with pytest.raises(UserError, match=f"hold {len(counts)}"):
            pk_batches(pids, p, k, seed, epoch)
        return
    batches = pk_batches(pids, p, k, seed, epoch)
    assert batches.shape == (pk_steps(pids, p, k), p * k)
    assert len(batches) >= 1
    for batch in batches:
        identities = pids[batch].reshape(p, k)
        assert (identities == identities[:, :1]).all()
        assert (identities > 0).all()
        assert len(np.unique(identities[:, 0])) == p
        for group in batch.reshape(p, k):
            available = (pids == pids[group[0]]).sum()
            assert len(np.unique(group)) == min(k, available)
    seen, times = np.unique(batches, return_counts=True)
    enough = np.array([(pids == pids[index]).sum() >= k for index in seen])
    assert (times[enough] == 1).all()


def test_epoch_is_as_long_as_groups_allow():
    # 10 identities of 9 images: 2 groups of 4 each, 20 groups, 5 batches of 4.
    assert pk_steps(np.repeat(np.arange(1, 11), 9), 4, 4) == 5
    # One identity of 100 images fills 25 groups, but only one place a batch: the other two end the epoch.
    assert pk_steps(np.repeat([1, 2, 3], [100, 4, 4]), 2, 4) == 2


def test_plan_depends_on_seed_and_epoch_alone():
    pids = np.repeat(np.arange(1, 21), 8)
    first = pk_batches(pids, 4, 4, seed=1, epoch=5)
    pk_batches(pids, 4, 4, seed=9, epoch=9)
    np.testing.assert_array_equal(first, pk_batches(pids, 4, 4, seed=1, epoch=5))
    assert not np.array_equal(first, pk_batches(pids, 4, 4, seed=1, epoch=6))
    assert not np.array_equal(first, pk_batches(pids, 4, 4, seed=2, epoch=5))


def test_identity_with_fewer_images_repeats_all_of_them():
    batch = pk_batches(np.array([1, 1, 1, 2, 2, 2, 2]), 2, 4, seed=0, epoch=0)[0]
    small = next(group for group in batch.reshape(2, 4) if group[0] < 3)
    assert sorted(np.bincount(small, minlength=3)) == [1, 1, 2]


@pytest.mark.parametrize(("p", "k"), [(0, 4), (4, 0), (-1, 2)])
def test_batch_without_images_is_refused(p, k):
    with pytest.raises(UserError, match="at least one"):
        pk_steps(np.array([1, 2]), p, k)


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 40), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_stream_is_one_sequence_of_permutations(number, start, count, seed):
    whole = shuffled_stream(number, 0, number * 12, seed)
    for one_pass in whole.reshape(12, number):
        np.testing.assert_array_equal(np.sort(one_pass), np.arange(number))
    expected = shuffled_stream(number, 0, start + count, seed)[start:]
    np.testing.assert_array_equal(shuffled_stream(number, start, count, seed), expected)
