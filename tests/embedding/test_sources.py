"""Photographs of folders, tables and archives: which, in which order, and what is told of wrong places."""

from __future__ import annotations

import os
import socket
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from san_tf.archives.files import DamagedFileError
from san_tf.embedding.sources import left_out_summary, photographs
from san_tf.errors import UserError


def _fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def _listed(*places) -> list[tuple[str, bytes]]:
    return [(photograph.name, photograph.read()) for photograph in photographs(places)]


def test_a_folder_is_walked_in_order(tmp_path):
    _fill(
        tmp_path,
        "b/2.PNG",
        "b/1.jpg",
        "a.jpeg",
        "b/c/3.jpg",
        "notes.txt",
        ".hidden.jpg",
        "b/Thumbs.db",
        "c.jpg",
    )
    found = _listed(tmp_path)
    names = ["a.jpeg", "b/1.jpg", "b/2.PNG", "b/c/3.jpg", "c.jpg"]
    assert found == [(str(tmp_path / name), name.encode()) for name in names]


def test_every_kind_of_image_is_taken_and_the_rest_counted(tmp_path):
    names = ["1.bmp", "2.webp", "3.tiff", "4.TIF", "5.gif", "6.jpe", "7.jfif", "8.jp2", "9.pgm"]
    _fill(tmp_path, *names, "a.txt", "b.TXT", "README", ".hidden.jpg", "x.psd")
    others: Counter[str] = Counter()
    assert [Path(found.name).name for found in photographs([tmp_path], others)] == names
    assert others == {".txt": 2, "without a suffix": 1, "hidden": 1, ".psd": 1}
    assert left_out_summary({}, others).startswith("Left out: 5 others (.txt: 2, ")
    listed: dict[str, str] = {}
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    assert len(list(photographs([tmp_path], listed=listed))) == len(names)
    assert {Path(path).name: why for path, why in listed.items()} == {
        "a.txt": "is not read: .txt", "b.TXT": "is not read: .txt", "\\udcff.txt": "is not read: .txt",
        "README": "is not read: without a suffix", ".hidden.jpg": "is not read: hidden",
        "x.psd": "is not read: .psd",
    }  # fmt: skip
    assert left_out_summary({}, {}) == "Left out: nothing."
    problems = {"a": "is empty", "b": "is empty", "c": "is missing"}
    assert left_out_summary(problems, {}) == "Left out: 3 photographs (is empty: 2, is missing: 1)."


def test_links_are_followed_but_not_in_circles(tmp_path):
    _fill(tmp_path, "elsewhere/1.jpg", "elsewhere/deep/2.jpg", "in/0.jpg")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "9.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "elsewhere" / "deep" / "round").symlink_to(tmp_path / "in")
    others: Counter[str] = Counter()
    found = [photograph.name for photograph in photographs([tmp_path / "in"], others)]
    assert found == [f"{tmp_path}/in/{name}" for name in ("0.jpg", "9.jpg", "far/1.jpg", "far/deep/2.jpg")]
    assert others == {"link to a folder above it": 1}


def test_what_is_not_a_file_is_told_and_never_waited_for(tmp_path):
    _fill(tmp_path, "folder.jpg/1.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.jpg"))
        told = {}
        for photograph in photographs([tmp_path]):
            try:
                told[Path(photograph.name).name] = photograph.read()
            except DamagedFileError as error:
                told[Path(photograph.name).name] = str(error)
    odd = "is a pipe or a device, not a file"
    assert told == {
        "1.png": b"folder.jpg/1.png",
        "gone.jpg": "is missing",
        "pipe.jpg": odd,
        "socket.jpg": odd,
        "zero.jpg": odd,
    }
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(UserError, match=r"list.csv is a pipe or a device, not a file"):
        list(photographs([tmp_path / "list.csv"]))


def test_several_places_and_single_files(tmp_path):
    _fill(tmp_path, "x/1.jpg", "y/2.jpg", "3.png")
    found = _listed(tmp_path / "y", tmp_path / "3.png", tmp_path / "x")
    assert [content for _, content in found] == [b"y/2.jpg", b"3.png", b"x/1.jpg"]


def test_archives_are_read_in_place(tmp_path):
    _fill(tmp_path / "in", "b/2.jpg", "a/1.png", "c.txt")
    with tarfile.open(tmp_path / "shard.tar", "w") as packed:
        packed.add(tmp_path / "in", "top")
    with zipfile.ZipFile(tmp_path / "shard.zip", "w") as zipped:
        for name in ("b/2.jpg", "a/1.png", "c.txt"):
            zipped.write(tmp_path / "in" / name, f"top/{name}")
    for archive in ("shard.tar", "shard.zip"):
        place = tmp_path / archive
        assert _listed(place) == [(f"{place}/top/a/1.png", b"a/1.png"), (f"{place}/top/b/2.jpg", b"b/2.jpg")]


def test_a_table_gives_paths_and_columns(tmp_path):
    _fill(tmp_path / "crops", "1.jpg", "2.jpg")
    table = tmp_path / "list.csv"
    table.write_text('\ufeffPath, camid ,note\ncrops/2.jpg,3,"a, b"\n' + f"{tmp_path}/crops/1.jpg,-1,\n")
    first, second = photographs([table])
    assert first.name == str(tmp_path / "crops" / "2.jpg") and first.read() == b"2.jpg"
    assert first.columns == {"camid": "3", "note": "a, b"}
    assert second.name == str(tmp_path / "crops" / "1.jpg")
    assert second.columns == {"camid": "-1", "note": ""}


def test_missing_and_unreadable_files_are_problems_of_their_own(tmp_path):
    (tmp_path / "list.csv").write_text("path\ngone.jpg\nfolder.jpg\n")
    (tmp_path / "folder.jpg").mkdir()
    gone, folder = photographs([tmp_path / "list.csv"])
    with pytest.raises(DamagedFileError, match="is missing"):
        gone.read()
    with pytest.raises(DamagedFileError, match="is a folder, not a file"):
        folder.read()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("list.csv", b"file\n1.jpg\n", "has no column `path`"),
        ("list.csv", b"path,camid\n1.jpg\n", "line 2 has more or fewer cells than the first line"),
        ("list.csv", b"path\n1.jpg,2\n", "line 2 has more or fewer cells"),
        ("list.csv", b"\xff\xfe\x00", "is not a CSV file"),
        ("list.csv", b"path;pid\n1.jpg;2\n", "does not separate its cells by commas"),
        ("list.csv", b"path,pid,PID\n1.jpg,2,3\n", "names a column twice"),
        ("list.csv", b"path,pid,pids\n1.jpg,2,3\n", "names a column twice .pid"),
        ("list.csv", b"path,features\n1.jpg,2\n", "has a column `features`"),
        ("shard.tar", b"not an archive", "shard.tar"),
        ("shard.tgz", b"", "is compressed as a whole"),
        ("list.xlsx", b"", "is not a folder, .csv, .tar, .zip or image"),
    ],
)
def test_wrong_places(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        list(photographs([tmp_path / name]))
    with pytest.raises(UserError, match="does not exist"):
        list(photographs([tmp_path / "nowhere"]))


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    _fill(tmp_path, *(f"{number}.jpg" for number in range(5)))
    found = photographs([tmp_path])
    next(found)
    for path in tmp_path.glob("*.jpg"):
        path.unlink()
    assert len(list(found)) == 4
