"""The same data sets by Apache Beam's direct runner."""

from __future__ import annotations

import sys

import pytest
from benchmark_copies import COPIES, build, pack, written

from san_tf.errors import UserError
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark


def build_by_beam(name, downloads, data, **options):
    builder = open_benchmark(name, data, check_counts=False, **options)
    prepare_benchmark(builder, downloads, beam_runner="DirectRunner")
    return builder


def test_without_beam_the_sentence_says_what_to_install(copy_of, tmp_path, monkeypatch):
    for name in ("apache_beam", "apache_beam.runners"):  # the latter is known if a test before used it
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"Apache Beam is not installed; pip install 'san-tf\[tfds\]'"):
        build_by_beam("market1501", copy_of("market1501"), tmp_path / "data")


@pytest.mark.parametrize("name", ["market1501/distractors_500k", "cuhk03"])
def test_workers_write_the_same_data_set(name, copy_of, tmp_path):
    pytest.importorskip("apache_beam")
    downloads = copy_of(name.partition("/")[0])
    expected = written(build(name, downloads))
    if name != "cuhk03":
        pack(downloads / COPIES["market1501"][0], ".zip")
    assert written(build_by_beam(name, downloads, tmp_path / "by_beam")) == expected


def test_damaged_images_and_archives_that_cannot_be_shared(copy_of, tmp_path):
    pytest.importorskip("apache_beam")
    downloads = copy_of("market1501")
    folder = downloads / COPIES["market1501"][0]
    first, second = sorted((folder / "query").iterdir())[:2]
    first.write_bytes(b"")
    second.write_bytes(b"GIF")
    builder = open_benchmark("market1501", tmp_path / "data", check_counts=False)
    with pytest.raises(
        UserError, match=rf"{first} is empty \(1 other image\(s\) have problems too\); copy it"
    ):
        prepare_benchmark(builder, downloads, beam_runner="DirectRunner")
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))
    skipped = build_by_beam("market1501", downloads, tmp_path / "data", skip_corrupt=True)
    assert skipped.info.splits["query"].num_examples == 2
    assert (skipped.data_path / "skipped.txt").read_text().splitlines() == [
        f"{first} is empty",
        f"{second} is not an image in a supported format, or is damaged",
    ]
    pack(folder, ".tgz")
    with pytest.raises(UserError, match="Workers cannot share the compressed archive"):
        prepare_benchmark(builder, downloads, beam_runner="DirectRunner")


def test_a_runner_that_does_not_exist(copy_of, tmp_path):
    pytest.importorskip("apache_beam")
    builder = open_benchmark("market1501", tmp_path / "data", check_counts=False)
    with pytest.raises(UserError, match="Apache Beam has no runner 'NoSuchRunner'"):
        prepare_benchmark(builder, copy_of("market1501"), beam_runner="NoSuchRunner")
