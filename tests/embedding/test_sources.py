"""Photographs of folders, tables and archives: which, in which order, and what is told of wrong places."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from san_tf.benchmarks.files import DamagedFileError
from san_tf.embedding.sources import photographs
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
    (tmp_path / "d").symlink_to(tmp_path / "b")
    found = _listed(tmp_path)
    names = ["a.jpeg", "b/1.jpg", "b/2.PNG", "b/c/3.jpg", "c.jpg"]
    assert found == [(str(tmp_path / name), name.encode()) for name in names]


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
    with pytest.raises(DamagedFileError, match="cannot be read"):
        folder.read()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("list.csv", b"file\n1.jpg\n", "has no column `path`"),
        ("list.csv", b"path,camid\n1.jpg\n", "line 2: it has not as many cells as the first line"),
        ("list.csv", b"path\n1.jpg,2\n", "line 2: it has not as many cells"),
        ("list.csv", b"\xff\xfe\x00", "is no CSV file"),
        ("shard.tar", b"not an archive", "shard.tar"),
        ("shard.tgz", b"", "can only be read from its beginning on"),
        ("list.xlsx", b"", "is of no kind that is read here"),
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
