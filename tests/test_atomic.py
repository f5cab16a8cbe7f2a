"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from san_tf import atomic
from san_tf.atomic import atomic_file, atomic_folder
from san_tf.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_file_is_written_with_ordinary_permissions(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "deep" / "results.json") as temporary:
        temporary.write_text("{}")
        assert temporary.suffix == ".json"  # libraries choose the format by it
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    assert (tmp_path / "deep" / "results.json").read_text() == "{}"
    assert (tmp_path / "deep" / "results.json").stat().st_mode == ordinary.stat().st_mode
    assert names(tmp_path / "deep") == ["results.json"]


def test_private_file_of_a_library_gets_ordinary_permissions(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "weights") as temporary:
        (tmp_path / "private").touch(mode=0o600)
        os.replace(tmp_path / "private", temporary)
    (tmp_path / "ordinary").write_text("")
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_file_keeps_its_content_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert names(tmp_path) == ["results.json"]


def test_file_keeps_its_content_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    script = (
        "import os, signal, sys; from san_tf.atomic import atomic_file\n"
        "with atomic_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert path.read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with (
        pytest.raises(UserError, match=r"disk is full while writing .*results\.json"),
        atomic_file(path) as temporary,
    ):
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["results.json"]


def test_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    for path in (tmp_path / "runs" / "results.json", tmp_path / "runs" / "a" / "results.json"):
        for writer in (atomic_file, atomic_folder):
            with pytest.raises(UserError, match="there is a file where a folder is needed"), writer(path):
                pass
    with (
        pytest.raises(UserError, match="there is a file where a folder is needed"),
        atomic_folder(tmp_path / "runs"),
    ):
        pass
    assert (tmp_path / "runs").read_text() == "a file"
    assert names(tmp_path) == ["runs"]


def test_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with (
        pytest.raises(UserError, match="there is a folder where a file is needed"),
        atomic_file(tmp_path / "results.json"),
    ):
        pass
    assert names(tmp_path) == ["results.json"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a folder")
def test_place_that_cannot_be_made() -> None:
    with pytest.raises(UserError, match="choose another folder"), atomic_file("/proc/san_tf/results.json"):
        pass


def test_errors_of_other_files_stay_themselves(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("a file")
    with pytest.raises(NotADirectoryError), atomic_file(tmp_path / "out" / "results.json"):
        (tmp_path / "input" / "missing").read_text()
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out" / "results.json"):
        (tmp_path / "no-such-input").read_text()


def test_folder_replaces_a_folder(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "model" / "1") as temporary:
            (temporary / "variables").mkdir()
            (temporary / "variables" / content).write_text(content)
            if content == "second":  # the former stands until the block is over
                assert names(tmp_path / "model" / "1" / "variables") == ["first"]
    assert names(tmp_path / "model" / "1" / "variables") == ["second"]
    assert names(tmp_path / "model") == ["1"]


def test_folder_stays_when_the_block_raises(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "1") as temporary:
        (temporary / "a").write_text("a")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "1") as temporary:
        (temporary / "b").write_text("b")
        _ = 1 / 0
    assert names(tmp_path / "1") == ["a"]
    assert names(tmp_path) == ["1"]


def test_folder_stays_when_the_last_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "1") as temporary:
        (temporary / "a").write_text("a")
    replace = os.replace

    def refusing(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", refusing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), atomic_folder(tmp_path / "1") as temporary:
        (temporary / "b").write_text("b")
    assert names(tmp_path / "1") == ["a"]
    assert names(tmp_path) == ["1"]
