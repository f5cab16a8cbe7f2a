"""What names and tables say of a photograph."""

from __future__ import annotations

import pytest

from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.name_reader import NameReader, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12.5", 12.5),
        ("-3", -3.0),
        ("1970-01-02", 86_400.0),
        ("2026-01-01", 1_767_225_600.0),  # 20,454 days after 1970-01-01
        ("2026-01-01T01:00:30", 1_767_225_600.0 + 3630),
        ("2026-01-01T01:00+01:00", 1_767_225_600.0),
        ("2026-01-01T00:00:00Z", 1_767_225_600.0),
        # As cameras write them.
        ("20260101", 1_767_225_600.0),
        ("20260101_010030", 1_767_225_600.0 + 3630),
        ("20260101010030", 1_767_225_600.0 + 3630),
        ("2026-01-01_01-00-30", 1_767_225_600.0 + 3630),
        ("20260101T0100", 1_767_225_600.0 + 3600),
        ("20260101_010030.5", 1_767_225_600.0 + 3630.5),
        ("1767225600", 1_767_225_600.0),
        ("1767225600250", 1_767_225_600.25),  # milliseconds
    ],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["monday", "", "nan", "inf", "2026-13-01", "1,5", "20261301", "1_000", "20260101_250000"]
)
def test_what_is_no_time(text):
    with pytest.raises(UserError, match="is not a time; write 2026-01-31"):
        parse_time(text)


@pytest.mark.parametrize("text", ["1.7e15", "-1e300", "1767225600000000"])
def test_numbers_beyond_the_calendar(text):
    with pytest.raises(UserError, match="is beyond the year 9999; give seconds since 1970"):
        parse_time(text)


@pytest.mark.parametrize(
    ("key", "columns", "wanted"),
    [
        ("a/0002_c1s1_000451_03.jpg", {}, {"camera": 1, "pid": 2}),
        ("-1_c3s2_000001_00.jpg", {}, {"camera": 3, "pid": -1}),
        ("0002_c1s1.jpg", {"pid": "7", "camid": "5"}, {"camera": 5, "pid": 7}),  # a table wins
        ("0002_c1s1.jpg", {"pids": "7", "camids": " "}, {"camera": 1, "pid": 7}),
        (
            "holiday.jpg",
            {"time": "1970-01-02", "tags": "door day"},
            {"time": 86_400.0, "tags": ("door", "day")},
        ),
        ("0002_c1/holiday.jpg", {}, {}),  # the file's name alone
    ],
)
def test_entries_of_market_names(key, columns, wanted):
    assert NameReader().entry(key, "x.jpg", columns) == Entry(key, "x.jpg", **wanted)


def test_a_pattern_of_ones_own():
    reader = NameReader(r"cam(?P<camera>\d+)-(?P<time>\d+)", ("shop",))
    entry = reader.entry("cam12-1700000000.jpg", "", {"tags": "door"})
    assert entry == Entry("cam12-1700000000.jpg", camera=12, time=1.7e9, tags=("shop", "door"))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"camera": "left"}, "camera of a.jpg is 'left'; it must be a whole number"),
        ({"pid": "1.5"}, "pid of a.jpg is '1.5'"),
        ({"time": "noon"}, "'noon' is not a time"),
    ],
)
def test_columns_that_say_nothing(columns, told):
    with pytest.raises(UserError, match=told):
        NameReader().entry("a.jpg", "", columns)


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        (r"(?P<camera>[a-z]+)\d", "crops/left/door1.jpg", "door"),
        (r"(?P<camera>[^/]+)/[^/]+$", "crops/left/door1.jpg", "left"),
        (r"^[^/]+/(?P<camera>.+)/", "crops/hall/2/a.jpg", "hall/2"),
        (r"cam(?P<camera>\d+)/", "crops/cam07/a.jpg", 7),
    ],
)
def test_cameras_with_names_and_from_folders(pattern, path, wanted):
    names: list[str] = []

    def name_camera(name: str) -> int:
        names.append(name)
        return 2**40

    entry = NameReader(pattern).entry("key.jpg", "", {}, path, name_camera)
    assert entry.camera == (wanted if isinstance(wanted, int) else 2**40)
    assert names == ([wanted] if isinstance(wanted, str) else [])


def test_cameras_that_are_none():
    reader = NameReader("(?P<camera>.*)")
    with pytest.raises(UserError, match="numbers from 2\\*\\*40 on are those of names"):
        reader.entry(str(2**40), "", {}, "", lambda name: 0)
    with pytest.raises(UserError, match="a name is printable and not so long"):
        reader.entry("a" * 300, "", {}, "", lambda name: 0)
    with pytest.raises(UserError, match="it must be a whole number"):
        NameReader().entry("a.jpg", "", {"camid": "door"}, "", lambda name: 0)
