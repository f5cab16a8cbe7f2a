"""Builds that were interrupted, or stopped at a damaged image, and are started again."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from benchmark_copies import COPIES, build, pack, written

import san_tf.layouts.benchmark_builder
from san_tf.data import parts
from san_tf.errors import UserError
from san_tf.file_lock import file_lock
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark


@pytest.fixture
def checked(monkeypatch):
    """Names of the images that were looked at, in order; parts are of two images."""
    names: list[str] = []
    look = san_tf.layouts.benchmark_builder.checked_images

    def looked(files, samples):
        for item in look(files, samples):
            names.append(item.sample.filename)
            yield item

    monkeypatch.setattr(san_tf.layouts.benchmark_builder, "checked_images", looked)
    monkeypatch.setattr(parts.Parts.items, "__defaults__", (2,))
    return names


@pytest.fixture
def killed_at_its_end(monkeypatch):
    """A context in which a build is interrupted when all is written and nothing is renamed."""

    def interrupted(*_):
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("tensorflow_datasets.core.dataset_info.DatasetInfo.write_to_directory", interrupted)
            yield

    return context


def _damage(downloads: Path, name: str) -> tuple[Path, bytes]:
    """Empty the image that a build meets last of its gallery; return it and what it held."""
    folder, places = COPIES[name]
    image = sorted((downloads / folder / places[2]).glob("*.jpg"))[-1]
    content = image.read_bytes()
    image.write_bytes(b"")
    return image, content


def test_a_build_goes_on_where_a_damaged_image_stopped_it(copy_of, checked, tmp_path):
    downloads = copy_of("market1501")
    whole = shutil.copytree(tmp_path / "downloads", tmp_path / "whole" / "downloads")
    expected = written(build("market1501", whole))
    everything = list(checked)
    assert len(everything) == 14
    checked.clear()
    image, content = _damage(downloads, "market1501")
    builder = open_benchmark("market1501", tmp_path / "data", check_counts=False)
    with pytest.raises(UserError, match=f"{image.name} is empty; copy it again"):
        prepare_benchmark(builder, downloads)
    place = builder.data_path.parent
    # Nobody reads this for a data set, and it is all that is there.
    assert not builder.data_path.exists() and not list(place.glob("incomplete*"))
    assert sorted(path.name for path in place.iterdir()) == ["unfinished_1.0.0"]
    checked.clear()
    image.write_bytes(content)
    built = build("market1501", downloads)
    # The pair in which the damaged image was, and no more: the gallery is the last split.
    assert checked == everything[12:] and image.name in checked
    assert written(built) == expected
    assert sorted(path.name for path in place.iterdir()) == ["1.0.0"]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_an_archive_goes_on_and_another_one_begins_anew(
    copy_of, checked, tmp_path, suffix, killed_at_its_end
):
    downloads = copy_of("veri776")
    whole = shutil.copytree(downloads, tmp_path / "whole" / "downloads")
    expected = written(build("veri776", whole))
    _damage(downloads, "veri776")
    pack(downloads / "VeRi", suffix)
    with pytest.raises(UserError, match="is empty"):
        build("veri776", downloads)
    (downloads / f"VeRi{suffix}").unlink()
    pack(shutil.copytree(whole / "VeRi", downloads / "VeRi"), suffix)
    checked.clear()
    with killed_at_its_end():
        build("veri776", downloads)
    assert len(checked) == 10
    checked.clear()
    assert written(build("veri776", downloads)) == expected
    assert checked == []


def test_an_image_that_changed_is_read_again(copy_of, checked, tmp_path):
    downloads = copy_of("market1501")
    last, content = _damage(downloads, "market1501")
    builder = open_benchmark("market1501", tmp_path / "data", check_counts=False)
    with pytest.raises(UserError, match="is empty"):
        prepare_benchmark(builder, downloads)
    last.write_bytes(content)
    first, other = sorted((last.parents[1] / "bounding_box_train").glob("*.jpg"))[:2]
    first.write_bytes(other.read_bytes() + b"\0")
    checked.clear()
    build("market1501", downloads)
    assert first.name in checked[:2] and len(checked) == 4
    again = open_benchmark("market1501", tmp_path / "data", check_counts=False)
    contents = {item["filename"]: item["image"] for item in _stored(again, "train")}
    assert contents[first.name.encode()] == other.read_bytes() + b"\0"


def _stored(builder, split: str):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    return builder.as_dataset(split=split, decoders=decoders).as_numpy_iterator()


def test_damaged_images_that_were_left_out_are_listed_after_a_resumed_build_too(
    copy_of, checked, tmp_path, killed_at_its_end
):
    downloads = copy_of("market1501")
    folder, places = COPIES["market1501"]
    train = sorted((downloads / folder / places[0]).glob("*.jpg"))[0]
    train.write_bytes(b"")

    with killed_at_its_end():
        build("market1501", downloads, skip_corrupt=True)
    checked.clear()
    builder = build("market1501", downloads, skip_corrupt=True)
    assert checked == []
    assert (builder.data_path / "skipped.txt").read_text() == f"{train} is empty\n"
    assert builder.info.splits["train"].num_examples == 3


def test_two_builds_of_one_data_set_at_once(copy_of, tmp_path):
    downloads = copy_of("veri776")
    builder = open_benchmark("veri776", tmp_path / "data", check_counts=False)
    with file_lock(builder.data_path.parent / ".1.0.0.lock") as mine:
        assert mine
        with pytest.raises(UserError, match="Another process is building veri776/standard"):
            prepare_benchmark(builder, downloads)
    prepare_benchmark(builder, downloads)


def test_what_a_killed_build_left_is_removed(copy_of, tmp_path):
    downloads = copy_of("veri776")
    builder = open_benchmark("veri776", tmp_path / "data", check_counts=False)
    left = builder.data_path.parent / "incomplete.ABC123_1.0.0"
    other = builder.data_path.parent / "incomplete.ABC123_2.0.0"
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / "bucket_0.tmp").touch()
    prepare_benchmark(builder, downloads)
    assert not left.exists() and other.exists()
