"""Data sets joined as one: nobody is taken for another, nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.data.record_sets import joined
from san_tf.data.records import Records
from san_tf.errors import UserError


def plain(pids: list[int], camids: list[int], label: str) -> Records:
    """Records whose images are just distinct bytes."""
    images = [f"{label}{index}".encode() for index in range(len(pids))]
    names = [f"{index}.jpg" for index in range(len(pids))]
    return Records.from_columns(images, pids, camids, names, verify=False)


def test_identities_cameras_and_names_by_hand():
    first = plain([2, 5, 0, -1], [0, 3, 1, -1], "a")
    second = plain([1, 2, 2], [0, -1, 2], "b")
    both = joined({"market1501": first, "msmt17/v2": second})
    # The first goes up to identity 5 and camera 3; distractors, junk and unknown cameras stay what they are.
    assert both.pids.tolist() == [2, 5, 0, -1, 6, 7, 7]
    assert both.camids.tolist() == [0, 3, 1, -1, 4, -1, 6]
    assert both.filenames.tolist() == [
        *(f"market1501/{index}.jpg" for index in range(4)),
        *(f"msmt17-v2/{index}.jpg" for index in range(3)),
    ]
    assert both.images.tolist() == [*first.images, *second.images]
    assert both.labels.tolist() == [0, 1, -1, -1, 2, 3, 3]


def test_textures_stay_with_their_images_and_extras_that_all_have():
    first = plain([1, 2], [0, 0], "a").with_textures([b"x", b"y"])
    second = plain([1, 2], [0, 0], "b").with_textures([b"", b"x"])
    third = Records.from_columns([b"c"], [1], [0], ["c.jpg"], extras={"yaw": [3.0]}, verify=False)
    both = joined({"a": first, "b": second, "c": third})
    assert both.textures is not None
    assert both.textures.tolist() == [b"x", b"y", b"", b"x", b""]
    assert both.has_texture.tolist() == [True, True, False, True, False]
    assert dict(both.extras) == {}
    turned = joined({"c": third, "d": third})
    assert turned.extras["yaw"].tolist() == [3.0, 3.0]


def test_one_data_set_stays_as_it_is_and_none_is_an_error():
    alone = plain([3, 4], [0, 1], "a")
    assert joined({"market1501": alone}) is alone
    with pytest.raises(UserError, match="--train"):
        joined({})


ids = st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 4)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(ids, min_size=2, max_size=4))
def test_two_images_share_an_identity_or_camera_only_where_they_did(parts):
    records = {
        f"set{number}": plain(*map(list, zip(*part, strict=True)), label=str(number))
        for number, part in enumerate(parts)
    }
    both = joined(records)
    source = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    before = np.array([pair for part in parts for pair in part])
    for column, (lowest, after) in enumerate(((1, both.pids), (0, both.camids))):
        known = before[:, column] >= lowest
        np.testing.assert_array_equal(after[~known], before[~known, column])
        assert (after[known] >= lowest).all()
        same = (before[known, column][:, None] == before[known, column]) & (
            source[known][:, None] == source[known]
        )
        np.testing.assert_array_equal(after[known][:, None] == after[known], same)
    assert len(set(both.filenames)) == len(both)
