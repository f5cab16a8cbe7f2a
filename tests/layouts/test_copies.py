"""Every benchmark from good copies, and from the bad ones that users have: the sentence they need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from benchmark_copies import COPIES, build, cut, pack, sentence, written

from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark, terms_of

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")
ASKED_FOR = {
    "market1501": "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    "dukemtmc_reid": "withdrawn by its authors",
    "veri776": "https://github.com/JDAI-CV/VeRidataset",
    "msmt17/v1": "http://www.pkuvmc.com/publications/msmt17.html",
    "msmt17/v2": "http://www.pkuvmc.com/publications/msmt17.html",
    "partial_reid": "ICCV_2015_paper.html",
    "cuhk03": "http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
}


@pytest.mark.parametrize("name", COPIES)
def test_folder_and_archives_hold_the_same(name, copy_of, tmp_path):
    folder, _ = COPIES[name]
    downloads = copy_of(name)
    builder = build(name, downloads)
    expected = written(builder)
    assert len(expected) == len(builder.info.splits)
    for split in builder.info.splits:
        records = Records.from_tfds(builder, split)
        assert records.pids.min() >= (-1 if split == "gallery" else 1)
        assert records.camids.min() >= 0 or name == "partial_reid"
    for number, suffix in enumerate(SUFFIXES):
        packed = tmp_path / f"packed_{number}" / "downloads"
        shutil.copytree(downloads, packed)
        # With the benchmark's folder around the files, without, and with "./" before it.
        pack(packed / folder, suffix, (f"{folder}/", "", f"./{folder}/", f"{folder}/")[number])
        assert written(build(name, packed)) == expected, suffix
    # The benchmark's own folder may be named as the manual folder.
    own = downloads / folder
    if name == "cuhk03":
        shutil.move(downloads / "cuhk03_new_protocol_config_labeled.mat", own)
    builder = open_benchmark(name, tmp_path / "other", check_counts=False)
    prepare_benchmark(builder, own)
    assert written(builder) == expected


@pytest.mark.parametrize("name", COPIES)
def test_absent(name, copy_of, tmp_path):
    (tmp_path / "downloads").mkdir()
    for told in (sentence(name, tmp_path / "downloads"), sentence(name, tmp_path / "nowhere")):
        assert str(tmp_path) in told and COPIES[name][0] in told and ASKED_FOR[name] in told
        assert all(part in told for part in COPIES[name][1])


@pytest.mark.parametrize("name", COPIES)
def test_renamed(name, copy_of):
    folder, _ = COPIES[name]
    downloads = copy_of(name)
    (downloads / folder).rename(downloads / "my_copy")
    told = sentence(name, downloads)
    assert f"is in {downloads / 'my_copy'}, but should be in {downloads / folder}; rename or move" in told
    archive = pack(downloads / "my_copy", ".zip")
    told = sentence(name, downloads)
    assert f"if {archive.name} is its archive, rename that to {folder}.zip" in told


@pytest.mark.parametrize("name", COPIES)
def test_wrongly_nested(name, copy_of):
    folder, _ = COPIES[name]
    downloads = copy_of(name)
    (downloads / folder).rename(downloads / "inner")
    (downloads / folder).mkdir()
    (downloads / "inner").rename(downloads / folder / folder)
    told = sentence(name, downloads)
    assert f"is too deep, in {downloads / folder / folder}; move what is in there to" in told
    shutil.move(downloads / folder / folder, downloads / "inner")
    (downloads / folder).rmdir()
    (downloads / "inner").rename(downloads / folder)
    archive = pack(downloads / folder, ".tar", f"home/user/{folder}/")
    told = sentence(name, downloads)
    assert f"is in home/user/{folder} in {archive}, but should be in {folder} there" in told


@pytest.mark.parametrize("name", COPIES)
def test_empty(name, copy_of):
    folder, _ = COPIES[name]
    downloads = copy_of(name)
    shutil.rmtree(downloads / folder)
    (downloads / folder).mkdir()
    assert f"{downloads / folder} is empty; copy" in sentence(name, downloads)
    archive = pack(downloads / folder, ".zip")
    assert f"The archive {archive} is empty; copy" in sentence(name, downloads)
    archive.write_bytes(b"")
    assert f"The archive {archive} is damaged or was not copied to its end" in sentence(name, downloads)


@pytest.mark.parametrize("name", [name for name in COPIES if len(COPIES[name][1]) > 1])
def test_half_written(name, copy_of):
    folder, parts = COPIES[name]
    downloads = copy_of(name)
    last = downloads / folder / parts[-1]
    shutil.rmtree(last) if last.is_dir() else last.unlink()
    told = sentence(name, downloads)
    assert f"in {downloads / folder} has no {parts[-1]}; copy it again" in told
    archive = pack(downloads / folder, ".zip")
    assert f"The archive {archive} has no {parts[-1]}" in sentence(name, downloads)


def test_parts_without_their_folder(copy_of):
    downloads = copy_of("msmt17/v1")
    (downloads / "MSMT17_V1").rename(downloads.parent / "parts")
    (downloads.parent / "parts" / "list_val.txt").unlink()
    assert f"in {downloads.parent / 'parts'} has no list_val.txt; copy" in sentence(
        "msmt17/v1", downloads.parent / "parts"
    )
    # Somebody's folder `train` among other downloads is not taken for a broken copy.
    (downloads / "train").mkdir()
    assert f"{downloads} holds no MSMT17 V1; put the folder MSMT17_V1" in sentence("msmt17/v1", downloads)


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_truncated_archive(name, suffix, copy_of):
    downloads = copy_of(name)
    archive = pack(downloads / COPIES[name][0], suffix)
    cut(archive, 0.7)
    assert f"The archive {archive} is damaged or was not copied to its end" in sentence(name, downloads)


@pytest.mark.parametrize("name", [name for name in COPIES if name != "cuhk03"])
def test_damaged_images(name, copy_of):
    downloads = copy_of(name)
    first, second, *_ = sorted(
        (downloads / COPIES[name][0] / COPIES[name][1][-5 if "msmt" in name else -1]).rglob("*.jpg")
    )
    cut(first, 0.8)
    assert f"The image {first} is damaged: it cannot be decoded; copy it again" in sentence(name, downloads)
    second.write_bytes(b"")
    builder = build(name, downloads, skip_corrupt=True)
    skipped = (Path(builder.data_path) / "skipped.txt").read_text().splitlines()
    assert skipped == [f"{first} is damaged: it cannot be decoded", f"{second} is empty"]
    left = Records.from_tfds(builder, "gallery").filenames
    assert first.name not in left and second.name not in left and len(left)


@pytest.mark.parametrize("name", COPIES)
def test_published_counts(name, copy_of):
    told = sentence(name, copy_of(name), check_counts=True)
    images, identities = {  # of the dummy data and of the paper
        "market1501": ("4 training images where 12,936", "2 gallery identities where 750"),
        "dukemtmc_reid": ("4 training images where 16,522", "2 gallery identities where 1,110"),
        "veri776": ("4 training images where 37,778", "2 query identities where 200"),
        "msmt17/v1": ("4 training images where 32,621", "2 query identities where 3,060"),
        "msmt17/v2": ("4 training images where 32,621", "2 gallery identities where 3,060"),
        "partial_reid": ("4 query images where 300", "2 gallery identities where 60"),
        "cuhk03": ("24 training images where 7,368", "6 training identities where 767"),
    }[name]
    assert f"{images} are published" in told and f"{identities} are published" in told


@pytest.mark.parametrize("name", ["market1501", "dukemtmc_reid", "veri776", "partial_reid"])
def test_files_that_do_not_belong(name, copy_of):
    folder, parts = COPIES[name]
    place = copy_of(name) / folder / parts[1]
    (place / "Thumbs.db").write_bytes(b"x")
    (place / "._0001.jpg").write_bytes(b"x")
    build(name, place.parents[1])
    (place / "image.jpg").write_bytes(b"x")
    told = sentence(f"{name}", place.parents[1], skip_corrupt=True)
    assert f"{place / 'image.jpg'} is not named as" in told
    (place / "image.jpg").unlink()
    (place / "more").mkdir()
    shutil.copy(sorted(place.glob("0*.jpg"))[0], place / "more")
    assert "is too deep" in sentence(name, place.parents[1], skip_corrupt=True)


def test_junk_is_in_the_gallery_alone(copy_of):
    downloads = copy_of("market1501")
    place = downloads / COPIES["market1501"][0]
    shutil.copy(place / "bounding_box_test/-1_c1s1_000401_03.jpg", place / "query")
    assert "has the identity -1, which Market-1501 has in its gallery, not in query" in sentence(
        "market1501", downloads
    )


def test_distractors_are_asked_for_by_name(copy_of):
    downloads = copy_of("market1501")
    shutil.rmtree(downloads / "distractors_500k")
    told = sentence("market1501/distractors_500k", downloads)
    assert "distractors_500k" in told and "distractors of Market-1501" in told


def test_unknown_camera(copy_of):
    downloads = copy_of("market1501")
    query = downloads / COPIES["market1501"][0] / "query"
    next(query.iterdir()).rename(query / "0001_c7s1_001051_00.jpg")  # there are six
    assert "0001_c7s1_001051_00.jpg is not named as Market-1501 names its images" in sentence(
        "market1501", downloads
    )


def test_an_archive_in_place_of_the_folder(copy_of, tmp_path):
    downloads = copy_of("veri776")
    archive = pack(downloads / "VeRi", ".zip").rename(tmp_path / "anything.zip")
    builder = open_benchmark("veri776", tmp_path / "data", check_counts=False)
    prepare_benchmark(builder, archive)
    assert builder.info.splits["train"].num_examples == 4
    assert "does not exist" in sentence("veri776", tmp_path / "other.zip", skip_corrupt=True)


def test_a_folder_of_data_sets_that_cannot_be_written(copy_of, tmp_path):
    (tmp_path / "file").touch()
    builder = open_benchmark("veri776", tmp_path / "file" / "data", check_counts=False)
    with pytest.raises(
        UserError, match=r"veri776/standard_uncounted/1\.0\.0 cannot be written to .*file/data"
    ):
        prepare_benchmark(builder, copy_of("veri776"))


@pytest.mark.parametrize("name", COPIES)
def test_terms_are_told(name):
    terms = terms_of(open_benchmark(name))
    assert terms.endswith(".") and len(terms) > 30
    assert ("withdrawn" in terms) == (name == "dukemtmc_reid")


def test_what_is_no_benchmark_has_nothing_to_leave_out():
    with pytest.raises(UserError, match="synthetic_reid is not built from a copy of images"):
        open_benchmark("synthetic_reid/tiny", skip_corrupt=True)
