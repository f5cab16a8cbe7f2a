"""Images of one's own: numbering, names, and the mistakes in patterns and tables."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import warnings

import numpy as np
import pytest
from benchmark_copies import DATASETS, pack
from PIL import Image

from san_tf.archives.archive_types import open_archive
from san_tf.archives.files import FolderFiles
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.layouts import custom_layout
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark, told_of
from san_tf.layouts.custom_layout import CustomConfig, custom_sources, find_images

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


FOLDERS = CustomConfig(name="mine", pattern=custom_layout.FOLDERS)


def test_people_are_not_merged(tmp_path):
    """7, 07 and 007 are three people until somebody says otherwise, and that is told."""
    make(tmp_path, *(f"train/{name}/1.jpg" for name in ("7", "07", "007", "8", "anna", "Anna")))
    found = find_images(FolderFiles(tmp_path), FOLDERS)
    assert len({sample.pid for sample in found.sources["train"][0].samples}) == 6
    assert (
        "The identities '007', '07' and '7' (and 1 more such) are counted as different ones" in found.notes[0]
    )
    make(tmp_path / "same", "train/7/1.jpg", "train/12/1.jpg")
    found = find_images(FolderFiles(tmp_path / "same"), FOLDERS)
    assert [sample.pid for sample in found.sources["train"][0].samples] == [12, 7]
    assert len(found.notes) == 1 and "no camera" in found.notes[0]
    # One name in two forms of Unicode is one person, as it is on the screen.
    make(tmp_path / "forms", "train/Zo\u00eb/1.jpg", "query/Zoe\u0308/2.jpg")
    found = find_images(FolderFiles(tmp_path / "forms"), FOLDERS)
    assert {source[0].samples[0].pid for source in found.sources.values()} == {1}
    # Digits of other scripts, and thousands of them, are names.
    make(tmp_path / "odd", "train/\u0667/1.jpg", f"train/{'9' * 200}/1.jpg")
    found = find_images(FolderFiles(tmp_path / "odd"), FOLDERS)
    assert {sample.pid for sample in found.sources["train"][0].samples} == {1, 2}


@pytest.mark.parametrize("camera", ["cam{}", "Camera_{}", "CAM-0{}"])
@pytest.mark.parametrize("outside", [True, False])
def test_a_folder_a_camera_is_not_a_person(tmp_path, camera, outside):
    for person in ("person1", "person2", "person3"):
        for number in (1, 2):
            inner = (camera.format(number), person)
            make(tmp_path, "/".join(("train", *(inner if outside else inner[::-1]), "1.jpg")))
    found = find_images(FolderFiles(tmp_path), FOLDERS)
    assert {sample[1:3] for sample in found.sources["train"][0].samples} == {
        (pid, camid) for pid in (1, 2, 3) for camid in (0, 1)
    }


def test_a_folder_deeper_is_not_guessed(tmp_path):
    make(tmp_path, "train/left/anna/1.jpg", "train/right/anna/1.jpg")
    with pytest.raises(
        UserError, match=r"say which folder is the identity: --pattern .*for the outer one"
    ) as told:
        find_images(FolderFiles(tmp_path), FOLDERS)
    outer, inner = re.findall(r'"([^"]+)"', str(told.value))
    for pattern, people, cameras in ((outer, 2, 1), (inner, 1, 2)):
        found = samples(tmp_path, CustomConfig(name="x", pattern=pattern))["train"]
        assert (len({pid for pid, *_ in found}), len({camid for _, camid, _ in found})) == (people, cameras)


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    make(tmp_path / "shop", "train/anna/1.jpg")
    make(tmp_path / "elsewhere", "bob/1.jpg", "bob/2.jpg")
    (tmp_path / "shop/train/bob").symlink_to(tmp_path / "elsewhere/bob")
    (tmp_path / "shop/train/bob/back").symlink_to(tmp_path / "shop")
    (tmp_path / "shop/query").symlink_to("train")
    (tmp_path / "shop/train/gone").symlink_to("nowhere")
    found = samples(tmp_path / "shop", FOLDERS)
    assert [len(found[split]) for split in ("train", "query")] == [3, 3]


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    make(
        tmp_path,
        "train/a/1.jpg",
        "train/a/2.WEBP",
        "train/a/3.bmp",
        "train/a/4.xcf",
        "train/a/5.xcf",
        "README",
    )
    found = find_images(FolderFiles(tmp_path), FOLDERS)
    assert [sample.path for sample in found.sources["train"][0].samples] == [
        f"train/a/{name}" for name in ("1.jpg", "2.WEBP", "3.bmp")
    ]
    assert found.left_out == {".xcf": 2, "without a suffix": 1}
    make(tmp_path / "other", "notes.txt")
    with pytest.raises(UserError, match=r"holds no image file \(only 1 \.txt\); put images there"):
        find_images(FolderFiles(tmp_path / "other"), FOLDERS)
    make(tmp_path / "table", "1.jpg", "2.jpg")
    (tmp_path / "table" / "images.csv").write_text("path,identity\n1.jpg,3\n")
    assert find_images(FolderFiles(tmp_path / "table"), TABLE).left_out == {
        "images that images.csv does not name": 1
    }


@pytest.mark.parametrize("config", [FOLDERS, TABLE], ids=["pattern", "table"])
def test_a_folder_around_everything(tmp_path, config):
    make(tmp_path / "in" / "Shop photos" / "more", "train/anna/1.jpg", "query/anna/2.jpg")
    if config is TABLE:
        table = tmp_path / "in" / "Shop photos" / "more" / "images.csv"
        table.write_text("path,identity,split\ntrain/anna/1.jpg,anna,train\nquery/anna/2.jpg,anna,query\n")
    expected = {"train": [(1, -1, "1.jpg")], "query": [(1, -1, "2.jpg")]}
    assert samples(tmp_path / "in", config) == expected
    archive = pack(tmp_path / "in" / "Shop photos", ".zip")
    found = custom_sources(open_archive(archive), config)
    assert {
        split: [tuple(sample)[1:] for sample in source.samples] for split, (source,) in found.items()
    } == (expected)


def test_names_that_are_not_utf_8_pipes_and_devices(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    good = (DUMMY / "table" / "train-2-1.png").read_bytes()
    for path in (f"train/{odd}/{odd}\x1b[2J.png", "train/anna/1.png", "query/anna/2.png"):
        make(tmp_path / "shop", path)
        (tmp_path / "shop" / path).write_bytes(good)
    config = dataclasses.replace(FOLDERS, place=str(tmp_path / "shop"))
    builder = open_benchmark("custom", tmp_path / "data", config=config)
    prepare_benchmark(builder)
    names = set(Records.from_tfds(builder, "train").filenames)
    assert names == {"1.png", r"caf\xe9\x1b[2J.png"}
    os.mkfifo(tmp_path / "shop/train/anna/pipe.png")
    (tmp_path / "shop/train/anna/zero.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"pipe\.png is a pipe or a device, not a file"):
        prepare_benchmark(builder)
    builder = open_benchmark("custom", tmp_path / "data", skip_corrupt=True, config=config)
    prepare_benchmark(builder)
    assert set(Records.from_tfds(builder, "train").filenames) == names
    (tmp_path / "shop/train/anna/pipe.png").unlink()
    (tmp_path / "shop/train/anna/zero.png").unlink()
    (tmp_path / f"shop/train/{odd}/3.png").write_bytes(good[:40])
    with pytest.raises(UserError, match=r"shop/train/caf\\xe9/3\.png is damaged"):
        prepare_benchmark(open_benchmark("custom", tmp_path / "other", config=config))


def test_other_formats_are_built(tmp_path):
    picture = np.arange(96, dtype=np.uint8).reshape(8, 4, 3)
    for name, options in (("1.webp", {"lossless": True}), ("2.bmp", {}), ("3.tiff", {}), ("4.jpg", {})):
        make(tmp_path / "shop", f"train/anna/{name}")
        Image.fromarray(picture).save(tmp_path / "shop/train/anna" / name, **options)
    builder = open_benchmark(
        "custom", tmp_path / "data", config=dataclasses.replace(FOLDERS, place=str(tmp_path / "shop"))
    )
    prepare_benchmark(builder)
    records = Records.from_tfds(builder, "train")
    for name, image in zip(records.filenames, records.images, strict=True):
        if name == "4.jpg":
            assert image == (tmp_path / "shop/train/anna/4.jpg").read_bytes()
        else:
            with Image.open(io.BytesIO(image)) as stored:
                assert stored.format == "PNG"
                np.testing.assert_array_equal(stored, picture)


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


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_spreadsheets(tmp_path, mark, encoding, end):
    make(tmp_path, "a/1.jpg", "a/Zoe\u0308, 2.jpg")  # taken apart, as macOS does
    rows = (
        ("path", "identity", "split"),
        ("a\\1.jpg", "ann", "train"),
        ('"a/Zo\u00eb, 2.jpg"', "zoe", "query"),
    )
    (tmp_path / "images.csv").write_bytes(end.join(map(mark.join, rows)).encode(encoding))
    assert samples(tmp_path, TABLE) == {
        "train": [(1, -1, "1.jpg")],
        "query": [(2, -1, "Zoe\u0308, 2.jpg")],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,identity\na,b.jpg,3\n",
            "line 2: it has more cells than the first line; put cells that hold ','",
        ),
        ("path,identity,Identity\n1.jpg,3,4\n", "has two columns identity; remove one"),
        ("path,identity\nimages.csv,3\n", r"line 2: 'images\.csv' is not an image file"),
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
        ('path,identity\n"1.jpg,3\n', "is not a CSV file in UTF-8"),
        (b"path,identity\n\xff\xfe,3\n", "is not a CSV file in UTF-8"),
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
        (CustomConfig(name="x", pattern="("), "is not a regular expression: "),
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
