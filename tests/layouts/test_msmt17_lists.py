"""MSMT17: its lists."""

from __future__ import annotations

import re

import pytest
from benchmark_copies import build, sentence

from san_tf.data.records import Records


def test_identity_0_is_a_person_and_validation_trains(copy_of):
    train = Records.from_tfds(build("msmt17/v1", copy_of("msmt17")), "train")
    # Lists: 0000_000 and 0000_001 under cameras 1 and 2, 0001_000 under 1; for validation 0001_001 under 15.
    columns = zip(train.filenames, train.pids, train.camids, strict=True)
    assert {name[:8]: (pid, camid) for name, pid, camid in columns} == {
        "0000_000": (1, 0),
        "0000_001": (1, 1),
        "0001_000": (2, 0),
        "0001_001": (2, 14),
    }
    assert train.num_identities == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0000/0000_000_16_0303morning_0015_0.jpg 0", r"list_query\.txt, line 1, is not as MSMT17 has it"),
        ("0000/0000_000_01_0303morning_0015_0.jpg", r"list_query\.txt, line 1, is not as MSMT17 has it"),
        (
            "../../secret/0000_000_01_x.jpg 0",
            r"1 of the 1 images that .*list_query\.txt names are missing, first",
        ),
        ("", r"list_query\.txt is empty; copy the list again"),
    ],
)
def test_mistakes_in_a_list(line, message, copy_of):
    downloads = copy_of("msmt17")
    (downloads / "MSMT17_V1" / "list_query.txt").write_text(line)
    assert re.search(message, sentence("msmt17/v1", downloads))
