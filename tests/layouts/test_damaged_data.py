"""Prepared data that are damaged on the disk: one sentence that names the file, and a data set made anew."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from benchmark_copies import DATASETS

from san_tf.data.builders import DamagedDataError, find_builder, set_aside
from san_tf.data.records import Records
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark

COPY = DATASETS / "veri776" / "dummy_data"
INFO = "dataset_info.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("whole")
    prepare_benchmark(
        open_benchmark("veri776", data, check_counts=False), DATASETS / "veri776" / "dummy_data"
    )
    return data


@pytest.fixture
def data(whole, tmp_path) -> Path:
    """A folder of data sets in which VeRi-776 is prepared."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def cut(content: bytes) -> bytes:
    return content[:-10]


def without_the_last_record(content: bytes) -> bytes:
    position, starts = 0, []
    while position < len(content):
        starts.append(position)
        position += 16 + struct.unpack_from("<Q", content, position)[0]
    return content[: starts[-1]]


def with_another_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def empty(content: bytes) -> bytes:
    return b""


def missing(content: bytes) -> None:
    return None


def damaged(data: Path, name: str, change) -> Path:
    """Change a file of the data set, and return it."""
    (file,) = (data / "veri776").rglob(name)
    content = change(file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    return file


def load(data: Path, split: str = "train") -> Records:
    return Records.from_tfds(open_benchmark("veri776", data, check_counts=False), split)


@pytest.mark.parametrize("change", [cut, without_the_last_record, with_another_byte, empty, missing])
def test_records(change, data, whole, capsys):
    file = damaged(data, "veri776-train*", change)
    with pytest.raises(DamagedDataError) as told:
        load(data)
    assert str(told.value).startswith(f"{file} is ") and str(told.value).isprintable()
    assert str(told.value).endswith("; the stage `prepare` (--stage prepare) builds the data set again.")
    assert len(load(data, "query")) == 2  # which is whole
    prepare_benchmark(
        open_benchmark("veri776", data, check_counts=False), DATASETS / "veri776" / "dummy_data"
    )
    assert f"  {file} is " in capsys.readouterr().out
    assert file.read_bytes() == (whole / file.relative_to(data)).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        empty,
        cut,
        missing,
        lambda content: b"\xff" + content,
        lambda content: b"[]",
        lambda content: content.replace(b'"1.0.0"', b'"2.0.0"'),
        lambda content: content.replace(b'"4"', b'"5"'),
        lambda content: content.replace(b'"4"', b'"four"'),
        lambda content: content.replace(b'"train"', b'"brain"'),
    ],
)
def test_information(change, data):
    file = damaged(data, INFO, change)
    with pytest.raises(ValueError, match=r"\.$") as told:
        load(data)
    message = str(told.value)
    assert str(file.parent) in message or "has no split 'train'" in message
    assert message.isprintable()


def test_information_is_made_anew_as_prepare_does_it(data, whole):
    place = damaged(data, INFO, cut).parent
    with set_aside(place):
        builder = open_benchmark("veri776", data, check_counts=False)
        prepare_benchmark(builder, COPY)
    assert sorted(path.name for path in place.parent.iterdir()) == ["1.0.0"]
    assert list(load(data).filenames) == list(load(whole).filenames)


def test_what_is_set_aside_comes_back_if_nothing_replaces_it(data):
    (file,) = (data / "veri776").rglob(INFO)
    with pytest.raises(RuntimeError), set_aside(file.parent):
        raise RuntimeError
    assert len(load(data)) == 4


def test_the_place_of_a_data_set_that_cannot_be_opened(tmp_path, monkeypatch):
    """Also where no folder of data sets is named."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    builder = find_builder("veri776", "standard", tmp_path)
    place = Path(builder.data_dir)
    place.mkdir(parents=True)
    (place / INFO).write_text("{")
    with pytest.raises(DamagedDataError, match=f"{place / INFO} is damaged") as told:
        find_builder("veri776", "standard", tmp_path)
    assert told.value.place == place
