"""What a gallery has taken stays: kill -9 while it is written, a full disk, a lost index, two processes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from adding_process import ROWS, SIZE, batch

from san_tf.errors import UserError
from san_tf.retrieval import embedded, vector_index
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.opening import open_gallery


def _start(uri: str, first: int) -> subprocess.Popen:
    script = Path(__file__).with_name("adding_process.py")
    command = [sys.executable, str(script), uri, str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _check(gallery: Gallery, acknowledged: int) -> int:
    """Hold a gallery against the batches it must have; return the number of the last one it has."""
    found = {entry.key: entry for entry in gallery.entries()}
    last = max(entry.camera for entry in found.values())
    assert last in (acknowledged, acknowledged + 1)  # one may have been written and not been said
    wanted: dict[str, tuple[np.ndarray, Entry]] = {}
    for number in range(last + 1):
        rows, entries = batch(number)
        wanted |= {entry.key: (row, entry) for row, entry in zip(rows, entries, strict=True)}
    assert found == {key: entry for key, (_, entry) in wanted.items()}  # batches whole, or not there
    keys = list(wanted)
    rows = np.stack([wanted[key][0] / np.linalg.norm(wanted[key][0]) for key in keys])
    np.testing.assert_allclose(gallery.embeddings(keys), rows, atol=1e-6)
    some = random.sample(range(len(keys)), 5)
    assert [hits[0].entry.key for hits in gallery.search(rows[some], 1)] == [keys[place] for place in some]
    return last


def _kill_often(uri: str, times: int) -> None:
    open_gallery(uri, create=GalleryInfo(SIZE)).close()
    last, pause = -1, random.Random(0)
    for _ in range(times):
        process = _start(uri, last + 1)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        timer = threading.Timer(pause.uniform(0.05, 0.4), os.kill, (process.pid, signal.SIGKILL))
        timer.start()
        said = [int(line) for line in process.stdout if line.endswith("\n")]
        assert process.wait() == -signal.SIGKILL
        with open_gallery(uri) as gallery:
            if said or last >= 0:
                last = _check(gallery, max(said, default=last))


def test_nothing_acknowledged_is_lost(tmp_path):
    _kill_often(str(tmp_path / "people.gallery"), 2)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_in_twenty_kills(tmp_path):
    _kill_often(str(tmp_path / "people.gallery"), 20)
    assert len(list((tmp_path / "people.gallery").glob("index-*.faiss"))) <= 2


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_milvus_lite(tmp_path):
    pytest.importorskip("milvus_lite", reason="san-tf[milvus] is not installed")
    _kill_often(f"milvus:{tmp_path / 'people.db'}", 10)


def test_one_process_adds_and_another_searches(tmp_path):
    uri = str(tmp_path / "people.gallery")
    with open_gallery(uri, create=GalleryInfo(SIZE)) as gallery:
        process = _start(uri, 0)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for line in process.stdout:  # what the other has said is there at once
            rows, entries = batch(int(line))
            assert gallery.search(rows[2:3], 1)[0][0].entry == entries[2]
            if line == "9\n":
                break
        # And this one may add in between: they wait for each other.
        gallery.add(np.eye(1, SIZE), [Entry("own")])
        assert process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        assert gallery.search(np.eye(1, SIZE), 1)[0][0].entry.key == "own"


def _filled(path: Path, batches: int = 8) -> Gallery:
    gallery = open_gallery(path, create=GalleryInfo(SIZE))
    for number in range(batches):
        gallery.add(*batch(number))
    return gallery


@pytest.fixture
def eager_index(monkeypatch):
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
    monkeypatch.setattr(embedded, "_FEWEST", 20)
    monkeypatch.setattr(embedded, "_MOST", 20)


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path):
    gallery = _filled(tmp_path / "people.gallery")
    # SQLite's own limit raises what a full disk raises.
    gallery._store._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(
        UserError, match=r"people\.gallery cannot grow, because the disk is full; it is unchanged"
    ):
        for number in range(8, 500):
            gallery.add(*batch(number))
    last = _check(gallery, max(entry.camera for entry in gallery.entries()))
    gallery.close()
    with open_gallery(tmp_path / "people.gallery") as again:
        again.add(*batch(last + 1))  # there is room again
        _check(again, last + 1)


def test_an_index_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, eager_index):
    def full(self, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("Error: 'ret == (1)' failed: write error in index: No space left on device")

    gallery = _filled(tmp_path / "people.gallery", 3)
    monkeypatch.setattr(vector_index.VectorIndex, "save", full)
    for number in range(3, 9):
        gallery.add(*batch(number))
    assert _check(gallery, 8) == 8
    with pytest.raises(UserError, match=r"index of .* cannot be written, and is unchanged"):
        gallery.optimize()
    assert _check(gallery, 8) == 8
    assert not list((tmp_path / "people.gallery").glob(".*"))
    gallery.close()


@pytest.mark.parametrize("harm", ["missing", "cut", "nonsense", "no FAISS"])
def test_an_index_that_is_lost_is_done_without(tmp_path, monkeypatch, eager_index, harm):
    _filled(tmp_path / "people.gallery").close()
    (index,) = (tmp_path / "people.gallery").glob("index-*.faiss")
    if harm == "missing":
        index.unlink()
    elif harm == "cut":
        index.write_bytes(index.read_bytes()[: index.stat().st_size // 3])
    elif harm == "nonsense":
        index.write_bytes(b"nonsense" * 1000)
    else:
        monkeypatch.setattr(embedded, "faiss", lambda: None)
    with open_gallery(tmp_path / "people.gallery") as gallery:
        assert _check(gallery, 7) == 7
        gallery.add(*batch(8))
        assert _check(gallery, 8) == 8


def test_ids_that_are_gone_do_not_narrow_a_search(tmp_path, eager_index):
    # After most has been deleted, far more ids have been given than there are entries.
    gallery = _filled(tmp_path / "people.gallery", 10)
    gallery.delete(where=Filter(excluded_cameras=(8, 9)))
    for number in (10, 11):
        gallery.add(*batch(number))
    gallery.delete(["00011-02"])
    assert len(gallery.search(np.ones((1, SIZE)), 500)[0]) == len(gallery)
    gallery.close()


def test_threads_search_while_another_adds(tmp_path, eager_index):
    gallery = _filled(tmp_path / "people.gallery", 1)
    rows, entries = batch(0)
    wrong: list[str] = []

    def search() -> None:
        while not done.is_set():
            hits = gallery.search(rows[2:3], 3, Filter(cameras=(0,)))[0]
            if hits[0].entry != entries[2]:
                wrong.append(hits[0].entry.key)

    done = threading.Event()
    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 15):
        gallery.add(*batch(number))
        gallery.delete([f"{number:05}-05"])
    time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    # 15 batches of 20, in 14 of which 7 replaced one of the batch before, and 14 were deleted.
    assert not wrong and len(gallery) == 15 * 20 - 14 * 7 - 14
    gallery.close()


def _fingerprinted(path: Path, fingerprint: str, size: int = SIZE) -> Gallery:
    return open_gallery(path, create=GalleryInfo(size, "market/1", fingerprint))


def test_another_encoder_is_refused(tmp_path):
    path = tmp_path / "people.gallery"
    _fingerprinted(path, "aa").close()
    _fingerprinted(path, "aa").close()
    _fingerprinted(path, "").close()  # who does not know, must know
    with pytest.raises(
        UserError, match=r"embeddings by market/1 \(aa\), and market/1 \(bb\) is another encoder"
    ):
        _fingerprinted(path, "bb")
    with pytest.raises(UserError, match="holds embeddings of 16 numbers by market/1, and market/1 gives 17"):
        _fingerprinted(path, "aa", 17)


def _write(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "There is no gallery .*; make one with `san-tf gallery add"),
        (lambda path: _write(path), "is not a gallery, but something else"),
        (lambda path: _write(path / "photo.jpg"), "is not a gallery, but something else"),
        (lambda path: _write(path / "gallery.sqlite"), "is damaged: its tables are not those of"),
        (
            lambda path: _write(path / "gallery.sqlite", b""),
            "is damaged: its tables are not those of this package",
        ),
        (
            lambda path: _write(path / "gallery.sqlite", b"x" * 999),
            "is damaged or not a gallery of this package",
        ),
        (lambda path: _newer(path), "has format 4, but this version of san_tf reads 3"),
        (lambda path: _damaged(path), "is damaged or not a gallery of this package"),
    ],
)
def test_what_is_no_gallery(tmp_path, make, told):
    make(tmp_path / "people.gallery")
    with pytest.raises(UserError, match=told), open_gallery(tmp_path / "people.gallery") as gallery:
        gallery.search(np.ones((1, SIZE)))


def _newer(path: Path) -> None:
    _filled(path, 1).close()
    connection = sqlite3.connect(path / "gallery.sqlite", isolation_level=None)
    connection.execute("UPDATE state SET format = 4")
    connection.close()


def _damaged(path: Path) -> None:
    _filled(path).close()
    content = bytearray((path / "gallery.sqlite").read_bytes())
    content[16384:] = b"\x07" * (len(content) - 16384)
    (path / "gallery.sqlite").write_bytes(content)


def test_a_gallery_that_is_only_read(tmp_path):
    path = tmp_path / "people.gallery"
    with pytest.raises(UserError, match="There is no gallery"):
        open_gallery(path, create=GalleryInfo(SIZE), read_only=True)
    _filled(path, 1).close()
    with open_gallery(path, read_only=True) as gallery:
        assert len(gallery.search(np.ones((1, SIZE)), 50)[0]) == ROWS
        for change in (lambda: gallery.add(*batch(1)), lambda: gallery.delete(["a"])):
            with pytest.raises(UserError, match="opened read-only"):
                change()


def test_a_gallery_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    def interrupted(path: Path, info: GalleryInfo, folder: Path) -> None:
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded.SqliteStore, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_gallery(tmp_path / "people.gallery", create=GalleryInfo(SIZE))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("milvus:people.gallery", r"let it end in \.db"),
        ("milvus:people.db", "There is no gallery milvus:people.db; make one"),
        ("http://127.0.0.1:1", "Milvus at http://127.0.0.1:1 cannot be opened; is it running"),
        ("http://127.0.0.1:1/a-b", "a-b is not the name of a collection"),
    ],
)
def test_what_is_no_gallery_in_milvus(tmp_path, monkeypatch, uri, told):
    pytest.importorskip("pymilvus", reason="san-tf[milvus] is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        open_gallery(uri)
    assert not list(tmp_path.iterdir())


def test_milvus_lite_serves_one_process(tmp_path):
    pytest.importorskip("milvus_lite", reason="san-tf[milvus] is not installed")
    uri = f"milvus:{tmp_path / 'people.db'}"
    open_gallery(uri, create=GalleryInfo(SIZE)).close()
    process = _start(uri, 0)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match="is it open in another process"):
        open_gallery(uri)
    process.kill()
    process.wait()
    process.stdout.close()


def test_without_pymilvus_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(UserError, match=r"pip install 'san-tf\[milvus\]'"):
        open_gallery("http://127.0.0.1:19530")
