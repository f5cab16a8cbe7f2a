"""Prepared data against what they were made from: images added, mended, relabelled, moved, gone."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from benchmark_copies import COPIES, build, pack, written

import san_tf.layouts.benchmark_builder
from san_tf.data.records import Records
from san_tf.data.resumable_builder import MADE_FROM, MadeFrom
from san_tf.errors import UserError
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark, source_note, told_of
from san_tf.layouts.custom_layout import CustomConfig
from san_tf.layouts.rendered_builder import RenderedBuilder

TABLE = CustomConfig(name="mine", place="shop", table="images.csv")
ROWS = [f"{split}-{pid}-{camera}.png,{pid},{camera},{split}" for split in ("train", "query", "gallery")
        for pid in (3, 5) for camera in (1, 2)]  # fmt: skip


def draw(path: Path, value: int) -> None:
    cv2.imwrite(str(path), np.full((8, 4, 3), value, np.uint8))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder of one's own with a table."""
    folder = tmp_path / "downloads" / "shop"
    folder.mkdir(parents=True)
    for number, row in enumerate(ROWS):
        draw(folder / row.partition(",")[0], 10 + number)
    write_table(folder, ROWS)
    return folder


def write_table(folder: Path, rows: list[str]) -> None:
    (folder / "images.csv").write_text("path,identity,camera,split\n" + "\n".join(rows))


def prepared(folder: Path, manual_dir: Path | None = None):
    builder = open_benchmark("custom", folder.parents[1] / "data", config=TABLE)
    prepare_benchmark(builder, manual_dir or folder.parent)
    return builder


def held(builder) -> set[tuple]:
    return {
        (split, name, int(pid), int(camid), image)
        for split in builder.info.splits
        for records in [Records.from_tfds(builder, split, verify=False)]
        for name, pid, camid, image in zip(
            records.filenames, records.pids, records.camids, records.images, strict=True
        )
    }


def add(folder: Path) -> None:
    draw(folder / "more.png", 99)
    write_table(folder, [*ROWS, "more.png,7,1,train"])


def remove(folder: Path) -> None:
    write_table(folder, ROWS[1:])


def mend(folder: Path) -> None:
    """Other bytes, as many of them, and the time that the file had."""
    path = folder / "train-3-1.png"
    state = path.stat()
    other = (folder / "train-3-2.png").read_bytes()
    assert len(other) == state.st_size
    path.write_bytes(other)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def relabel(folder: Path) -> None:
    write_table(folder, [row.replace("png,5,", "png,6,") for row in ROWS])


def move_to_another_split(folder: Path) -> None:
    write_table(folder, [ROWS[0].replace(",train", ",query"), *ROWS[1:]])


# What is told, and how many records are in one of the two data sets only.
CHANGES = {
    add: ("1 added", 1),
    remove: ("1 removed", 1),
    mend: ("1 changed", 2),
    relabel: ("6 relabelled", 12),
    move_to_another_split: ("1 added and 1 removed", 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_told_and_the_data_set_is_made_anew(change, shop, capsys):
    former = held(prepared(shop))
    change(shop)
    told, records = CHANGES[change]
    note = source_note(open_benchmark("custom", shop.parents[1] / "data", config=TABLE))
    assert f"The images in {shop} differ ({told}) from those of custom/mine" in note
    assert "the prepared data are used, and --stage prepare builds them again" in note
    assert "anew" not in capsys.readouterr().out
    now = held(prepared(shop))
    assert f"({told})" in capsys.readouterr().out
    assert len(now ^ former) == records
    assert {image for *_, image in now} <= {path.read_bytes() for path in shop.iterdir()}
    assert sorted(path.name for path in (shop.parents[1] / "data/custom/mine").iterdir()) == ["1.0.0"]
    prepared(shop)
    assert "differ (" not in capsys.readouterr().out


@pytest.fixture
def reads(monkeypatch):
    """Names of the images whose bytes are read to compare them."""
    names: list[str] = []
    read = san_tf.layouts.benchmark_builder.read_checked

    def counted(sample, *arguments, **options):
        names.append(sample.filename)
        return read(sample, *arguments, **options)

    monkeypatch.setattr(san_tf.layouts.benchmark_builder, "read_checked", counted)
    return names


def test_other_times_alone_make_nothing_anew_and_are_compared_once(shop, capsys, reads, tmp_path):
    first = prepared(shop)
    made = {path: path.stat().st_mtime_ns for path in Path(first.data_path).glob("*tfrecord*")}
    prepared(shop)
    assert reads == []
    for path in shop.iterdir():
        os.utime(path, (1, 1))
    prepared(shop)
    assert len(reads) == len(ROWS)
    prepared(shop)
    assert len(reads) == len(ROWS)
    # The same images elsewhere are the same images, packed or not.
    other = shutil.copytree(shop.parent, tmp_path / "elsewhere")
    prepared(shop, other)
    assert len(reads) == 2 * len(ROWS)
    assert source_note(first, other) is None and len(reads) == 2 * len(ROWS)
    assert "anew" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_two_owners_of_one_folder_of_data(copy_of, tmp_path, capsys):
    mine = copy_of("market1501")
    theirs = shutil.copytree(mine, tmp_path / "theirs")
    folder, places = COPIES["market1501"]
    image = sorted((theirs / folder / places[0]).glob("*.jpg"))[0]
    image.rename(image.with_name("0009_c1s1_000451_03.jpg"))
    first = build("market1501", mine)
    with pytest.raises(UserError, match=rf"was made from {mine}; --stage prepare builds it again"):
        source_note(first, theirs)
    build("market1501", theirs)
    assert "(1 added and 1 removed) from those of market1501" in capsys.readouterr().out
    again = open_benchmark("market1501", tmp_path / "data", check_counts=False)
    assert 9 in Records.from_tfds(again, "train").pids
    # Who names no folder takes what was prepared.
    assert source_note(again) is None
    prepare_benchmark(again)
    assert "anew" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("market1501", ".zip"),
        ("dukemtmc_reid", ""),
        ("veri776", ".tgz"),
        ("msmt17/v1", ".tar"),
        ("partial_reid", ""),
        ("cuhk03", ""),
        ("cuhk03", ".zip"),
    ],
)
def test_every_benchmark_and_archive_is_compared(name, suffix, copy_of, capsys):
    downloads = copy_of(name)
    folder = downloads / COPIES[name][0]
    whole = shutil.copytree(folder, downloads.parent / "whole")
    expected = written(build(name, downloads))
    if name == "cuhk03":
        protocol = downloads / "cuhk03_new_protocol_config_labeled.mat"
        content = bytearray(protocol.read_bytes())
    if suffix:
        pack(folder, suffix)
    assert written(build(name, downloads)) == expected
    capsys.readouterr()
    assert written(build(name, downloads)) == expected
    assert "anew" not in capsys.readouterr().out
    if name == "cuhk03":
        protocol.write_bytes(content[:-200])
        with pytest.raises(UserError, match="is damaged or is not the new protocol"):
            build(name, downloads)
        return
    image = sorted((whole / COPIES[name][1][-5 if "msmt" in name else -1]).rglob("*.jpg"))[0]
    image.write_bytes(cv2.imencode(".png", np.full((9, 5, 3), 77, np.uint8))[1].tobytes())
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    if suffix:
        (downloads / f"{folder.name}{suffix}").unlink()
        pack(folder, suffix)
    builder = open_benchmark(name, downloads.parent / "data", check_counts=False)
    assert "1 changed" in source_note(builder, downloads)
    assert written(build(name, downloads)) != expected
    assert source_note(open_benchmark(name, downloads.parent / "data", check_counts=False)) is None
    assert re.search(r"\(\d changed\).*it is built again", capsys.readouterr().out)


def test_what_is_gone_is_used_and_told(shop, tmp_path):
    expected = held(prepared(shop))
    shutil.rmtree(shop)
    builder = prepared(shop)
    assert held(builder) == expected
    assert f"{shop}, from which it was made, no longer exists" in told_of(builder)[-1]
    assert source_note(builder) is None
    # Another folder that is named and holds nothing is a mistake, and the sentence says what is there.
    with pytest.raises(UserError, match=rf"There is no folder .*other/shop; .* was made from {shop.parent}"):
        prepared(shop, tmp_path / "other")
    assert held(builder) == expected


def test_a_copy_that_cannot_be_read_any_more_is_told(shop):
    prepared(shop)
    (shop / "images.csv").write_text("path;identity\nnobody.png;3")
    with pytest.raises(UserError, match=r"line 2: there is no image 'nobody\.png'"):
        prepared(shop)


@pytest.mark.parametrize("content", [None, "{", '{"state": 1}'])
def test_data_of_earlier_versions(shop, content, capsys):
    builder = prepared(shop)
    file = Path(builder.data_path, MADE_FROM)
    expected = held(builder)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    gone = shop.rename(shop.parent / "moved")
    assert held(prepared(shop)) == expected  # as before
    gone.rename(shop)
    assert held(prepared(shop)) == expected
    assert "anew" not in capsys.readouterr().out
    assert MadeFrom.read(builder.data_path) is not None  # known from now on
    file.unlink()
    add(shop)
    assert len(held(prepared(shop))) == len(expected) + 1


def test_a_damaged_image_leaves_what_was_prepared(shop):
    expected = held(prepared(shop))
    (shop / "train-3-1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"train-3-1\.png is empty"):
        prepared(shop)
    builder = open_benchmark("custom", shop.parents[1] / "data", config=TABLE)
    assert held(builder) == expected


def test_damaged_images_that_were_left_out_stay_so(shop):
    (shop / "train-3-1.png").write_bytes(b"")
    builder = open_benchmark("custom", shop.parents[1] / "data", skip_corrupt=True, config=TABLE)
    prepare_benchmark(builder, shop.parent)
    for path in shop.iterdir():
        os.utime(path, (1, 1))
    assert source_note(builder) is None
    draw(shop / "train-3-1.png", 1)
    assert "(1 added)" in source_note(builder)


def test_photographs_behind_rendered_people(tmp_path, capsys):
    folder = tmp_path / "streets"
    folder.mkdir()
    draw(folder / "a.png", 1)

    class Drawn(RenderedBuilder, skip_registration=True):
        """A builder whose one image is the first photograph."""

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="x")]  # noqa: RUF012
        pkg_dir_path = tmp_path

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"image": sorted(folder.iterdir())[0].read_bytes()}

    Drawn.BUILDER_CONFIGS[0].rendering = type("Rendering", (), {"backgrounds": str(folder)})
    for name in ("CITATIONS.bib", "README.md", "TAGS.txt"):
        (tmp_path / name).touch()

    def prepare() -> str:
        Drawn(data_dir=tmp_path / "data").download_and_prepare()
        return capsys.readouterr().out

    assert "anew" not in prepare() + prepare()
    os.utime(folder / "a.png", (1, 1))
    assert "anew" not in prepare() + prepare()
    draw(folder / "b.png", 1)
    assert f"The photographs in {folder} differ from those of drawn/x" in prepare()
    shutil.rmtree(folder)
    assert "anew" not in prepare()
