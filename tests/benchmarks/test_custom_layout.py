"""Images of one's own: numbering, names, and the mistakes in patterns and tables."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from benchmark_copies import DATASETS, pack

from san_tf.benchmarks.custom_layout import CustomConfig, custom_sources
from san_tf.benchmarks.files import FolderFiles
from san_tf.benchmarks.preparation import open_benchmark, prepare_benchmark, told_of
from san_tf.data.records import Records
from san_tf.errors import UserError

DUMMY = DATASETS / "custom" / "dummy_data"
ANY = CustomConfig(name="any", pattern=r"(?P<split>\w+)/(?P<identity>[^_]+)_(?P<camera>\w+)?-.*")
TABLE = CustomConfig(name="table", table="images.csv")


def samples(folder, config):
    return {
        split: [tuple(sample)[1:] for sample in source.samples]
        for split, (source,) in custom_sources(FolderFiles(folder), config).items()
    }


def make(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")


def test_whole_numbers_stay_and_cameras_count_from_0(tmp_path):
    make(
        tmp_path,
        "train/12_7-a.jpg",
        "train/0003_2-b.JPG",
        "query/5_10-c.png",
        "test/-1_2-d.jpeg",
        "test/5_-e.jpg",
    )
    assert samples(tmp_path, ANY) == {
        "train": [(3, 0, "0003_2-b.JPG"), (12, 1, "12_7-a.jpg")],
        "query": [(5, 2, "5_10-c.png")],  # 10 comes after 7
        "gallery": [(-1, 0, "-1_2-d.jpeg"), (5, -1, "5_-e.jpg")],
    }


def test_names_are_numbered_over_all_splits(tmp_path):
    make(tmp_path, "train/bob_x-1.jpg", "query/ann_y-1.jpg", "gallery/ann_x-2.jpg", "gallery/nobody_x-3.jpg")
    config = dataclasses.replace(ANY, distractors=("nobody",))
    assert samples(tmp_path, config) == {
        "train": [(2, 0, "bob_x-1.jpg")],
        "query": [(1, 1, "ann_y-1.jpg")],
        "gallery": [(1, 0, "ann_x-2.jpg"), (0, 0, "nobody_x-3.jpg")],
    }
    # A person of the name 0 is one, and no distractor.
    make(tmp_path, "query/0_y-1.jpg")
    assert samples(tmp_path, config)["query"] == [(1, 1, "0_y-1.jpg"), (2, 1, "ann_y-1.jpg")]


def test_file_names_differ(tmp_path):
    make(tmp_path, "train/ann/1.jpg", "train/bob/1.jpg", "query/ann/2.jpg")
    found = samples(tmp_path, CustomConfig(name="x", pattern=r"(?P<split>\w+)/(?P<identity>\w+)/.*"))
    assert [name for *_, name in found["train"]] == ["train__ann__1.jpg", "train__bob__1.jpg"]
    assert [name for *_, name in found["query"]] == ["2.jpg"]


def test_without_splits_all_are_for_training(tmp_path):
    make(tmp_path, "7_a.jpg", "9_a.jpg", "notes.txt")
    assert samples(tmp_path, CustomConfig(name="x", pattern=r"(?P<identity>\d+)_.*")) == {
        "train": [(7, -1, "7_a.jpg"), (9, -1, "9_a.jpg")]
    }


def test_table(tmp_path):
    make(tmp_path, "a/1.jpg", "a/2.jpg", "b.png", "unlisted.jpg")
    (tmp_path / "images.csv").write_bytes(
        "\ufeffPath, identity ,camera,split,notes\n"
        'a\\1.jpg,ann,left,train,x\n./a/2.jpg,"bob",,train\nb.png,ann,right,query,\n'.encode()
    )
    assert samples(tmp_path, TABLE) == {
        "train": [(1, 0, "1.jpg"), (2, -1, "2.jpg")],
        "query": [(1, 1, "b.png")],
    }
    (tmp_path / "images.csv").write_text("path,identity\nb.png,4\n")
    assert samples(tmp_path, TABLE) == {"train": [(4, -1, "b.png")]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no column path; its first line names path, identity, camera, split"),
        ("path,camera\n1.jpg,1\n", "has no column identity"),
        ("path,identity\n", "names no images"),
        ("path,identity\n1.jpg,3\n2.jpg,3\n", r"images\.csv, line 3: there is no image '2\.jpg'"),
        ("path,identity\n../1.jpg,3\n", r"line 2: there is no image '\.\./1\.jpg'"),
        ("path,identity\n1.jpg,3\n1.jpg,4\n", r"line 3: 1\.jpg is there twice"),
        ("path,identity\n1.jpg,\n", r"line 2: 1\.jpg has no identity"),
        (
            "path,identity,split\n1.jpg,3,exam\n",
            "line 2: there is no split 'exam'; the names of splits are train",
        ),
        ('path,identity\n"1.jpg,3\n', "is no CSV file in UTF-8"),
        (b"path,identity\n\xff\xfe,3\n", "is no CSV file in UTF-8"),
    ],
)
def test_mistakes_in_a_table(content, message, tmp_path):
    make(tmp_path, "1.jpg")
    (tmp_path / "images.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        samples(tmp_path, TABLE)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CustomConfig(name="x"), "needs either a pattern or a table; give one"),
        (CustomConfig(name="x", pattern=".*", table="a.csv"), "needs either a pattern or a table"),
        (CustomConfig(name="x", pattern="("), "is no regular expression: "),
        (CustomConfig(name="x", pattern=r"(\d+).*"), r"has no group identity; write one as \(\?P<identity>"),
        (
            CustomConfig(name="x", pattern=r"(?P<identity>\d+)\.jpg"),
            r"1 of 2 images do not match the pattern .*, first .*[/]a_b\.jpg; change the pattern",
        ),
        (CustomConfig(name="x", table="gone.csv"), r"gone\.csv is missing"),
    ],
)
def test_mistakes_in_a_configuration(config, message, tmp_path):
    make(tmp_path, "1.jpg", "a_b.jpg")
    with pytest.raises(UserError, match=message):
        samples(tmp_path, config)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no image file; put images there: .*\.jpg, .* or \.webp"):
        samples(tmp_path / "none", ANY)


def test_build_from_an_archive_and_say_what_missing_cameras_change(tmp_path):
    downloads = tmp_path / "downloads"
    make(downloads, "placeholder.txt")
    for path in (DUMMY / "folders").rglob("*.jpg"):
        target = downloads / "shop" / path.relative_to(DUMMY / "folders")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    pack(downloads / "shop", ".zip", "")
    config = CustomConfig(name="shop", place="shop.zip", pattern=r"(?P<split>\w+)/(?P<identity>[^/]+)/.*")
    builder = open_benchmark("custom", tmp_path / "data", config=config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_benchmark(builder, downloads)
    told = told_of(builder)
    assert told[0] == "train: 4 images of 2 identities by unknown cameras"
    assert told[3].startswith("10 of 10 images have no camera, so the evaluation cannot leave out")
    gallery = Records.from_tfds(open_benchmark("custom", tmp_path / "data", config=config), "gallery")
    assert set(gallery.camids) == {-1} and set(gallery.pids) == {3, 4, 1, 2} & set(gallery.pids)
    assert len(gallery) == 4
    with pytest.raises(UserError, match="There is no folder and no archive"):
        prepare_benchmark(open_benchmark("custom", tmp_path / "other", config=config), tmp_path)
    named = open_benchmark("custom/names", tmp_path / "named")
    prepare_benchmark(named, DUMMY / "names")
    assert "camera" not in "".join(told_of(named)[3:])  # they are known
