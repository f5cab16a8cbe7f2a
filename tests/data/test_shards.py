"""Shards: together the rows of the whole batch, each once; whole identities for every replica."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from san_tf.data.pipeline import Shard, train_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError


def test_rows_of_a_hand_made_batch():
    # 4 identities x 2 images are rows 0-7, 4 pairs rows 8-11; the second replica has the later halves.
    assert Shard(0, 1, 2).rows([8, 4]).tolist() == [[0, 1, 2, 3, 8, 9]]
    assert Shard(1, 1, 2).rows([8, 4]).tolist() == [[4, 5, 6, 7, 10, 11]]
    assert Shard(0, 2, 2).rows([8]).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_every_row_belongs_to_one_replica(workers: int, here: int, blocks: list[int]):
    replicas = workers * here
    sizes = [replicas * block for block in blocks]
    places = [Shard(worker * here, here, replicas).rows(sizes) for worker in range(workers)]
    assert sorted(np.concatenate(places).ravel().tolist()) == list(range(sum(sizes)))
    assert all((np.diff(rows, axis=1) > 0).all() for rows in places)


def test_a_batch_that_replicas_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"5 rows of a kind cannot be shared equally by 2 replicas"):
        Shard(0, 1, 2).rows([8, 5])


@pytest.mark.parametrize("start", [0, 3])
def test_shards_of_the_pipeline_are_the_rows_of_the_whole_batch(start: int):
    rng = np.random.default_rng(0)

    def picture(size: tuple[int, int]) -> bytes:
        return cv2.imencode(".png", rng.integers(0, 256, (*size, 3), np.uint8))[1].tobytes()

    images = [picture((24, 12)) for _ in range(18)]
    textures = [picture((16, 16)) if n % 3 else b"" for n in range(18)]
    records = Records.from_columns(images, np.repeat(np.arange(1, 7), 3), textures=textures)
    mirror = np.stack(np.meshgrid(np.arange(16), np.arange(16)[::-1], indexing="ij"), axis=-1)

    def batches(shard: Shard | None, count: int) -> list[dict[str, np.ndarray]]:
        dataset = train_dataset(
            records,
            4,
            2,
            (16, 8),
            16,
            mirror,
            pit=records,
            pit_per_batch=2,
            seed=5,
            start_step=start,
            shard=shard,
        )
        return list(dataset.take(count).as_numpy_iterator())

    whole = batches(None, 4)
    assert "row" not in whole[0]
    # One process that reads for both replicas, in turn; and two that read for one each.
    both = batches(Shard(0, 2, 2), 8)
    apart = [batches(Shard(replica, 1, 2), 4) for replica in (0, 1)]
    for step, expected in enumerate(whole):
        for replica in (0, 1):
            for part in (both[2 * step + replica], apart[replica][step]):
                assert part["row"].dtype == np.int32
                for name, values in expected.items():
                    np.testing.assert_array_equal(part[name], values[part["row"]], err_msg=name)
                known = part["label"][part["label"] >= 0]
                assert (known[::2] == known[1::2]).all(), "both images of an identity are here"
