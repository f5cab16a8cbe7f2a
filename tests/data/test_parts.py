"""Parts of an interrupted build: used again where they are whole and of the same things, else made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.data.parts import Item, Parts
from san_tf.errors import UserError


def _item(index: int, of: str = "") -> Item:
    if index % 7 == 3:
        return f"{index}.jpg is damaged"
    # Zeros at the end are what an array of byte strings would lose.
    return {
        "image": bytes([index % 256]) * index + b"\0",
        "pid": index - 1,
        "name": f"é{index}{of}",
        "yaw": index / 3,
    }


class _Maker:
    """Makes items and notes which; breaks off at `until` as a kill would."""

    def __init__(self, until: int | None = None, of: str = "") -> None:
        self.made: list[int] = []
        self.until, self.of = until, of
        self.closed = False

    def __call__(self, indices: Sequence[int]) -> Iterator[Item]:
        try:
            for index in indices:
                if index == self.until:
                    raise InterruptedError
                self.made.append(index)
                yield _item(index, self.of)
        finally:
            self.closed = True


def _stamps(number: int) -> list[str]:
    return [f"stamp {index}" for index in range(number)]


def _run(parts: Parts, maker: _Maker, stamps: Sequence[str], size: int = 4) -> list[Item]:
    return list(parts.items("train", stamps, maker, size))


@settings(max_examples=25, deadline=None)
@given(number=st.integers(0, 30), until=st.integers(0, 30), size=st.integers(1, 9))
def test_what_was_kept_is_not_made_again_and_the_items_are_the_same(tmp_path_factory, number, until, size):
    parts = Parts(tmp_path_factory.mktemp("parts"))
    first = _Maker(until)
    if until < number:
        with pytest.raises(InterruptedError):
            _run(parts, first, _stamps(number), size)
    else:
        _run(parts, first, _stamps(number), size)
    second = _Maker()
    assert _run(parts, second, _stamps(number), size) == [_item(index) for index in range(number)]
    # Whole parts that lie before the interruption: the rest is all that is left to do.
    kept = number if until >= number else until // size * size
    assert second.made == list(range(kept, number))
    third = _Maker()
    _run(parts, third, _stamps(number), size)
    assert third.made == []


def test_types_come_back_as_they_went_in(tmp_path):
    parts = Parts(tmp_path)
    _run(parts, _Maker(), _stamps(3))
    for item in _run(parts, _Maker(), _stamps(3)):
        assert {name: type(value) for name, value in item.items()} == {  # type: ignore[union-attr]
            "image": bytes, "pid": int, "name": str, "yaw": float
        }  # fmt: skip


def test_a_part_of_problems_alone_and_one_without(tmp_path):
    parts = Parts(tmp_path)

    def make(indices: Sequence[int]) -> Iterator[Item]:
        yield from (f"{index} is empty" if index < 4 else {"pid": index} for index in indices)

    expected = [*(f"{index} is empty" for index in range(4)), *({"pid": index} for index in range(4, 8))]
    for _ in range(2):
        assert list(parts.items("query", _stamps(8), make, size=4)) == expected


def test_only_the_part_whose_sources_changed_is_made_anew(tmp_path):
    parts = Parts(tmp_path)
    _run(parts, _Maker(), _stamps(12))
    stamps = _stamps(12)
    stamps[5] = "copied again"
    maker = _Maker(of=" anew")
    items = _run(parts, maker, stamps)
    assert maker.made == [4, 5, 6, 7]
    assert items[4] == _item(4, " anew") and items[3] == _item(3) and items[8] == _item(8)


def test_another_version_of_the_package_makes_everything_anew(tmp_path, monkeypatch):
    _run(Parts(tmp_path), _Maker(), _stamps(5))
    monkeypatch.setattr("san_tf.data.parts.__version__", "99")
    maker = _Maker()
    _run(Parts(tmp_path), maker, _stamps(5))
    assert maker.made == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty", "text", "folder"])
def test_a_damaged_part_is_made_anew(tmp_path, harm):
    parts = Parts(tmp_path)
    _run(parts, _Maker(), _stamps(12))
    victim = sorted(tmp_path.glob("train-*.npz"))[1]
    content = bytearray(victim.read_bytes())
    if harm == "flipped":
        content[content.index(b"bytes/image") + 170] ^= 1  # behind two headers: an image's byte
    if harm == "folder":
        victim.unlink()
        victim.mkdir()
        with pytest.raises(UserError, match="there is a folder where a file is needed"):
            _run(parts, _Maker(), _stamps(12))
        return
    victim.write_bytes(
        {"truncated": content[:-100], "flipped": content, "empty": b"", "text": b"hello"}[harm]
    )
    maker = _Maker()
    assert _run(parts, maker, _stamps(12)) == [_item(index) for index in range(12)]
    assert maker.made == [4, 5, 6, 7]


def test_pickled_objects_are_not_loaded(tmp_path):
    parts = Parts(tmp_path)
    _run(parts, _Maker(), _stamps(4))
    (file,) = tmp_path.glob("*.npz")
    with np.load(file) as arrays:
        stored = dict(arrays)
    stored["values/pid"] = np.array([{"an": "object"}] * 3, dtype=object)
    np.savez(file, **stored)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        _run(parts, _Maker(), _stamps(4))


def test_the_maker_is_closed_when_the_reader_stops(tmp_path):
    maker = _Maker()
    items = Parts(tmp_path).items("train", _stamps(9), maker, 4)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert maker.closed


def test_a_maker_that_ends_too_early_is_found_out(tmp_path):
    with pytest.raises(RuntimeError, match="item 5 was not made"):
        list(
            Parts(tmp_path).items(
                "train", _stamps(9), lambda indices: (_item(index) for index in indices[:5]), 4
            )
        )


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is a file where a folder is needed"):
        _run(Parts(tmp_path / "file"), _Maker(), _stamps(4))
