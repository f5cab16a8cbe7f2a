"""Bytes that change on the disk are told or healed, never answered; what is deleted leaves the disk."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.retrieval import embedded, sqlite_store
from san_tf.retrieval.embedded import EmbeddedGallery
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.opening import check_gallery, open_gallery
from san_tf.retrieval.vector_index import VectorIndex, faiss

SIZE, NUMBER = 24, 90
FILTERS = (Filter(), Filter(cameras=(1, 2)), Filter(tags=("t1",), since=20.0), Filter(excluded_cameras=(0,)))


@pytest.fixture(autouse=True)
def eager_index(monkeypatch):
    monkeypatch.setattr(embedded, "_FEWEST", 20)
    monkeypatch.setattr(embedded, "_MOST", 20)


def _rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((NUMBER, SIZE))


def _fill(path: Path) -> None:
    entries = [Entry(f"k{n:02}", f"{n}.jpg", n % 5, float(n), n % 9, (f"t{n % 3}",)) for n in range(NUMBER)]
    with open_gallery(path, create=GalleryInfo(SIZE, "market/1", "ab", "/photographs")) as gallery:
        for start in range(0, NUMBER, 30):
            gallery.add(_rows()[start : start + 30], entries[start : start + 30])


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A gallery with an index, if FAISS is there, that covers some of its rows."""
    former = embedded._FEWEST, embedded._MOST
    embedded._FEWEST = embedded._MOST = 20
    path = tmp_path_factory.mktemp("sound") / "g"
    _fill(path)
    with open_gallery(path) as gallery:
        gallery.add(-_rows()[:7], [Entry(f"tail{n}", camera=1, tags=("t1",)) for n in range(7)])
    embedded._FEWEST, embedded._MOST = former
    return path


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "g")


def _answers(path: Path) -> list[Any]:
    queries = _rows()[:6] + 0.3 * _rows()[6:12]
    with open_gallery(path, read_only=True) as gallery:
        found: list[Any] = [gallery.search(queries, 9, where) for where in FILTERS]
        found += [gallery.info, gallery.entries(), gallery.get(["k05"]), gallery.cameras(), gallery.tags()]
        return [*found, gallery.embeddings(["k07", "tail1"]).tolist(), len(gallery)]


def _change(path: Path, *statements: tuple[str, tuple[Any, ...]] | str) -> None:
    connection = sqlite3.connect(path / "gallery.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(*([statement] if isinstance(statement, str) else statement))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def test_random_damage_is_told_or_makes_no_difference(sound, tmp_path):
    wanted, choose = _answers(sound), random.Random(1)
    told = 0
    files = [path for path in sorted(sound.iterdir()) if path.stat().st_size]
    for number in range(60):
        copied = shutil.copytree(sound, tmp_path / f"g{number}")
        file = copied / choose.choice(files).name
        content = bytearray(file.read_bytes())
        # Half of the pages is empty: what is written is harmed more often.
        at = choose.choice([place for place in range(0, len(content), 97) if content[place]])
        harm = choose.choice((1, 1, 64, 512))
        content[at : at + harm] = bytes(byte ^ choose.randrange(1, 256) for byte in content[at : at + harm])
        file.write_bytes(content)
        try:
            assert _answers(copied) == wanted, (number, file.name, at, harm)
        except UserError as error:
            assert str(copied) in str(error)
            told += 1
        shutil.rmtree(copied)
    # Some ten of the sixty reach a byte that is read; how many depends on where SQLite lays its pages.
    assert told >= 3


@pytest.mark.parametrize("byte", [0x00, 0xC9, 0xFF])
def test_every_damaged_byte_of_the_schema_is_told_or_makes_no_difference(sound, copy, byte):
    wanted, told = _answers(sound), 0
    file = copy / "gallery.sqlite"
    content = file.read_bytes()
    start = content.index(b"CREATE TABLE")
    end = content.rindex(b"CREATE TABLE", 0, 16384) + 100
    for at in range(start, end, 7):
        file.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        try:
            assert _answers(copy) == wanted, at
        except UserError as error:
            assert str(copy) in str(error)
            told += 1
    assert told > 100


def _other_row(number: int) -> bytes:
    row = np.random.default_rng(number).standard_normal(SIZE).astype(np.float32)
    return (row / np.linalg.norm(row)).astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            ("UPDATE vectors SET embedding = ? WHERE id = 95", (_other_row(1),)),
            "embedding of tail4 has changed",
        ),
        (("UPDATE vectors SET embedding = ?", (_other_row(1),)), "embedding of .* has changed"),
        ("UPDATE entries SET camera = 3 WHERE key = 'k11'", "the entry k11 has changed"),
        ("UPDATE entries SET pid = 3", "the entry k.. has changed"),
        ("UPDATE entries SET key = 'k99' WHERE key = 'k11'", "the entry k99 has changed"),
        ("DELETE FROM entries WHERE key = 'k11'", "not all of them are there"),
        ("DELETE FROM vectors WHERE id = 95", "embedding of tail4 has changed"),
        ("DELETE FROM digests WHERE id = 11", "not all of them are there"),
        ("INSERT INTO dead VALUES (11)", "not all of them are there"),
        ("UPDATE state SET last_id = 50", "own record has changed"),
        ("UPDATE state SET info = replace(info, 'ab', 'ac')", "own record has changed"),
        ("DELETE FROM state", "own record is missing"),
        ("UPDATE seal SET entries = 5", "own record has changed"),
    ],
)
def test_rows_that_were_overwritten(copy, statement, told):
    _change(copy, statement)
    with pytest.raises(UserError, match=told):
        _answers(copy)


@pytest.mark.skipif(faiss() is None, reason="san-tf[gallery] is not installed")
@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
def test_an_index_whose_bytes_changed_is_done_without_and_made_anew(copy, sound, place):
    (index,) = copy.glob("index-*.faiss")
    content = bytearray(index.read_bytes())
    at = int(place * len(content))
    content[at : at + 40] = bytes(40)
    index.write_bytes(content)
    assert _answers(copy) == _answers(sound)
    found = check_gallery(copy)
    assert found.made == ["index"] and found.damaged == [] and found.entries == NUMBER + 7
    (again,) = copy.glob("index-*.faiss")
    assert again != index and check_gallery(copy).made == []
    assert _answers(copy) == _answers(sound)


def test_writing_makes_a_broken_index_anew(copy, sound):
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
    (index,) = copy.glob("index-*.faiss")
    index.write_bytes(index.read_bytes()[:-1] + b"\x55")
    with open_gallery(copy) as gallery:
        gallery.add(np.eye(1, SIZE), [Entry("one more")])
        assert isinstance(gallery, EmbeddedGallery)
        assert gallery._verified_file(gallery._store.state()) is not None
        gallery.delete(["one more"])
    assert _answers(copy) == _answers(sound)


def test_check_names_what_is_damaged_and_lets_it_be_added_again(copy, sound):
    wanted = _answers(sound)
    _change(
        copy,
        ("UPDATE vectors SET embedding = ? WHERE id = 3", (_other_row(1),)),
        "UPDATE entries SET pid = 8 WHERE key = 'k30'",
        "DELETE FROM vectors WHERE id = 41",
        "DELETE FROM tags WHERE id = 60",
    )
    found = check_gallery(copy)
    assert found.damaged == ["k02", "k30", "k40"] and found.made == []
    found = check_gallery(copy, drop=True)
    assert found.entries == NUMBER + 4 and found.made == ["SQLite's indexes"]
    again = [2, 30, 40]
    with open_gallery(copy) as gallery:
        gallery.add(
            _rows()[again],
            [Entry(f"k{n:02}", f"{n}.jpg", n % 5, float(n), n % 9, (f"t{n % 3}",)) for n in again],
        )
    assert _answers(copy) == wanted and check_gallery(copy).damaged == []


def test_check_mends_what_is_noted_of_the_index_but_not_of_the_encoder(copy, sound):
    _change(copy, "UPDATE state SET last_id = 50, generation = 'x'")
    assert check_gallery(copy).damaged == []
    assert _answers(copy) == _answers(sound)
    _change(copy, "UPDATE state SET info = replace(info, 'ab', 'ac')")
    with pytest.raises(UserError, match=r"record of its encoder .* has changed on the disk; restore a"):
        check_gallery(copy)


def test_check_makes_sqlites_own_indexes_anew(copy, sound):
    # An index of SQLite that lacks a row, as after a lost page.
    connection = sqlite3.connect(copy / "gallery.sqlite", isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    text = "CREATE INDEX by_camera ON entries (camera, time)"
    connection.execute(
        "UPDATE sqlite_master SET sql = ? WHERE name = 'by_camera'", (f"{text} WHERE id <> 12",)
    )
    connection.close()
    connection = sqlite3.connect(copy / "gallery.sqlite", isolation_level=None)
    connection.execute("REINDEX by_camera")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'by_camera'", (text,))
    connection.close()
    with open_gallery(copy, read_only=True) as gallery, open_gallery(sound, read_only=True) as whole:
        for where in FILTERS:  # searches do not ask it
            assert gallery.search(_rows()[:6], 9, where) == whole.search(_rows()[:6], 9, where)
    for ask in (
        lambda gallery: gallery.entries(Filter(cameras=(1,))),
        lambda gallery: gallery.entries(),
        lambda gallery: gallery.known(["k11"]),
        lambda gallery: gallery.get(["k11"]),
        lambda gallery: gallery.delete(["k11"]),
        lambda gallery: gallery.add(_rows()[:1], [Entry("k11")]),
    ):
        with (
            open_gallery(copy) as gallery,
            pytest.raises(UserError, match="do not fit its entries"),
        ):
            ask(gallery)
    assert check_gallery(copy).made == ["SQLite's indexes"]
    with open_gallery(copy) as gallery:
        assert len(gallery.entries(Filter(cameras=(1,)))) == 25


def test_a_list_by_tag_lacks_nothing_that_the_table_of_tags_has_lost(copy):
    with open_gallery(copy, read_only=True) as gallery:
        wanted = gallery.entries(Filter(tags=("t2",)))
        assert [entry.key for entry in wanted] == [f"k{n:02}" for n in range(2, NUMBER, 3)]
        assert (gallery.cameras(), gallery.tags()) == ([0, 1, 2, 3, 4], ["t0", "t1", "t2"])
    _change(copy, "DELETE FROM tags WHERE tag = 't2' AND id < 9")
    with open_gallery(copy, read_only=True) as gallery:
        with pytest.raises(UserError, match="tags do not fit its entries; run `san-tf gallery check"):
            gallery.entries(Filter(tags=("t2",)))
        assert gallery.tags() == ["t0", "t1", "t2"]
    assert check_gallery(copy).made == ["SQLite's indexes"]
    with open_gallery(copy) as gallery:
        assert gallery.entries(Filter(tags=("t2",))) == wanted
        gallery.delete(where=Filter(tags=("t2",)))
        assert gallery.tags() == ["t0", "t1"] and gallery.entries(Filter(tags=("t2",))) == []


def _make_former(path: Path) -> None:
    """As the version before wrote it."""
    tables = ("digests", "seal", "sources", "buried", "secret")
    _change(path, *(f"DROP TABLE {table}" for table in tables), "UPDATE state SET format = 1")


def test_galleries_of_the_former_format(copy, sound):
    wanted = _answers(sound)
    _make_former(copy)
    assert _answers(copy) == wanted
    with open_gallery(copy, read_only=True) as reader:  # opened before the digests are there
        reader.search(_rows()[:1], 3)
        with open_gallery(copy) as gallery:
            gallery.add(np.eye(1, SIZE), [Entry("new")])
            gallery.delete(["new"])
        assert len(reader.search(_rows()[:1], 200)[0]) == NUMBER + 7
    assert _answers(copy) == wanted
    _change(copy, ("UPDATE vectors SET embedding = ? WHERE id = 95", (_other_row(1),)))
    with pytest.raises(UserError, match="embedding of tail4 has changed"):
        _answers(copy)


def test_check_gives_digests_to_the_former_format(copy, sound):
    wanted = _answers(sound)
    _make_former(copy)
    found = check_gallery(copy)
    assert found.made == (["digests", "index"] if faiss() else ["digests"]) and found.damaged == []
    assert _answers(copy) == wanted and check_gallery(copy).made == []
    _make_former(copy)
    _change(copy, ("UPDATE vectors SET embedding = ? WHERE id = 3", (b"\0" * 4 * SIZE,)))
    assert check_gallery(copy).damaged == ["k02"]
    assert check_gallery(copy, drop=True).damaged == ["k02"]
    assert check_gallery(copy).entries == NUMBER + 6


# What others may have made.
@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (
            ["CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END"],
            "its tables are not those of",
        ),
        (["CREATE VIEW v AS SELECT * FROM entries"], "its tables are not those of"),
        (
            ["ALTER TABLE tags RENAME TO other", "CREATE VIEW tags AS SELECT * FROM other"],
            "its tables are not those",
        ),
        (["CREATE TABLE more (x)"], "its tables are not those of"),
        (["ALTER TABLE entries ADD COLUMN more AS (length(key))"], "its tables are not those of"),
        (["UPDATE state SET info = '{}'"], "record is impossible"),
        (["UPDATE state SET info = '[]'"], "record is impossible"),
        (["UPDATE state SET info = 'x'"], "record is impossible"),
        (['UPDATE state SET info = \'{"size": "24"}\''], "record is impossible"),
        (["UPDATE state SET info = '{\"size\": 1e9}'"], "record is impossible"),
        (['UPDATE state SET info = \'{"size": 24, "images": 7}\''], "record is impossible"),
        (['UPDATE state SET info = \'{"size": 24, "images": "a\\u0000"}\''], "record is impossible"),
        (['UPDATE state SET info = \'{"size": 24, "run": "me"}\''], "record is impossible"),
        (["UPDATE state SET info = '{\"size\": 25}'"], "holds embeddings of 25 numbers"),
        (["UPDATE state SET info = zeroblob(30000000)"], "too big|is missing"),
        (["UPDATE state SET info = NULL"], "own record is missing"),
        (["UPDATE state SET last_id = 9e18"], "index is impossible"),
        (["UPDATE state SET last_id = 'many'"], "index is impossible"),
        (["UPDATE state SET format = 'x'"], "has format x"),
        (["UPDATE vectors SET embedding = zeroblob(30000000) WHERE id = 93"], "has changed"),
        (
            ["UPDATE vectors SET embedding = NULL WHERE 0", "UPDATE vectors SET embedding = 'text'"],
            "has changed",
        ),
        ([("UPDATE vectors SET embedding = ?", (np.full(SIZE, np.nan, "f4").tobytes(),))], "no direction"),
        ([("UPDATE vectors SET embedding = ?", (np.full(SIZE, 9, "f4").tobytes(),))], "has no direction"),
        (["UPDATE entries SET tags = '7'"], "values of wrong types"),
        (["UPDATE entries SET tags = '[7]'"], "values of wrong types"),
        (["UPDATE entries SET camera = 'x'"], "values of wrong types"),
        (["UPDATE entries SET time = 'noon'"], "values of wrong types"),
        (["UPDATE entries SET image = x'00'"], "values of wrong types"),
        (["UPDATE entries SET key = CAST(x'ff' || id AS TEXT)"], "values of wrong types|damaged"),
    ],
)
def test_a_strangers_database(copy, statements, told):
    _make_former(copy)  # without digests, which a stranger makes anew
    _change(copy, *statements)
    with pytest.raises(UserError, match=told):
        _answers(copy)


def test_links_in_a_gallery_are_refused(copy, tmp_path):
    for name in ("index.lock", "index-9.faiss", "gallery.sqlite-wal", "gallery.sqlite"):
        path = copy / name
        content = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=f"holds {name}, which is a link|is not a gallery"):
            open_gallery(copy)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    os.mkfifo(copy / "index-8.faiss")
    with pytest.raises(UserError, match="which is a link or not a plain file"):
        open_gallery(copy)
    assert not (tmp_path / "elsewhere").exists()


# What is deleted.
@pytest.mark.parametrize("delete", ["keys", "a filter", "all", "replaced"])
def test_what_is_deleted_leaves_the_disk(copy, monkeypatch, delete):
    real = sqlite3.connect

    def forgetful(*arguments, **options):
        # As SQLite behaves where it was not built to overwrite what is deleted.
        connection = real(*arguments, **options)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite_store.sqlite3, "connect", forgetful)
    with open_gallery(copy) as gallery:
        keys = ["k07", "k33", "tail2"]
        stored = {key: row.tobytes() for key, row in zip(keys, gallery.embeddings(keys), strict=True)}
        codes = _codes(copy, gallery)
        assert all(_is_on_disk(copy, content) for content in stored.values())
        assert all(_is_on_disk(copy, code) for code in codes.values())
        if delete == "keys":
            gallery.delete(keys)
        elif delete == "a filter":
            gallery.delete(where=Filter(cameras=(1, 2, 3)))
        elif delete == "all":
            gallery.delete(where=Filter())
        else:
            gallery.add(_rows()[50:53] + 1, [Entry(key) for key in keys])
            gallery.optimize()
            gallery._store.scrub()
        # While it is still open.
        for key, content in stored.items():
            assert not _is_on_disk(copy, content), key
            assert delete == "replaced" or not _is_on_disk(copy, key.encode()), key
        for key, code in codes.items():
            assert not _is_on_disk(copy, code), key
        assert not gallery.known(keys) or delete == "replaced"


def _codes(path: Path, gallery: Gallery) -> dict[str, bytes]:
    """How the index holds some entries: a byte a number."""
    if faiss() is None:
        return {}
    (file,) = path.glob("index-*.faiss")
    index = faiss().read_index(str(file))
    return {key: index.sq.compute_codes(gallery.embeddings([key]))[0].tobytes() for key in ("k07", "k33")}


def _is_on_disk(folder: Path, content: bytes) -> bool:
    return any(content in path.read_bytes() for path in folder.iterdir())


def test_a_centre_of_one_embedding_goes_with_it():
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
    rows = np.eye(8, dtype=np.float32)
    index = VectorIndex.train(rows, 8)  # six cells for eight rows: some hold one
    index.add(np.arange(8), rows)
    centres = _centres(index)
    alone = [n for n in range(8) if np.abs(centres - rows[n]).max(axis=1).min() < 1e-6]
    assert alone
    index.remove(np.array(alone[:1]))
    assert np.abs(_centres(index) - rows[alone[0]]).max(axis=1).min() > 0.5
    left = [n for n in range(8) if n != alone[0]]
    assert [ids.tolist() for ids in index.search(rows[left], 1, None)] == [[n] for n in left]


def _centres(index: VectorIndex) -> np.ndarray:
    inner = index._index
    return inner.quantizer.reconstruct_n(0, inner.nlist)


def test_deleting_without_faiss_removes_the_index(copy, monkeypatch):
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
    monkeypatch.setattr(embedded, "faiss", lambda: None)
    with open_gallery(copy) as gallery:
        gallery.delete(["k07"])
        assert not list(copy.glob("index-*.faiss"))
        assert len(gallery.search(_rows()[:1], 200)[0]) == NUMBER + 6


def test_an_index_that_cannot_be_written_does_not_keep_what_is_deleted(copy, monkeypatch):
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")

    def full(self, path: Path) -> None:
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(VectorIndex, "save", full)
    with open_gallery(copy) as gallery:
        assert gallery.delete(["k07"]) == 1
        assert not list(copy.glob("index-*.faiss"))
        assert len(gallery.search(_rows()[:1], 200)[0]) == NUMBER + 6


def test_what_a_killed_process_left_of_an_index_is_removed(copy):
    left = copy / ".index-7.faiss.0123abcd.tmp.faiss"
    left.write_bytes(b"half")
    check_gallery(copy)
    assert not left.exists()
    if faiss():
        left.write_bytes(b"half")
        with open_gallery(copy) as gallery:
            gallery.delete(["k01"])
        assert not left.exists()


# Folders that cannot be written.
_SEARCH = """
import sys
import numpy as np
from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.opening import open_gallery
gallery = open_gallery(sys.argv[1], read_only=True)
print(gallery.search(np.ones((1, 24)), 1, Filter(cameras=(1,)))[0][0].entry.key, len(gallery))
try:
    with open_gallery(sys.argv[1]) as changed:
        changed.add(np.ones((1, 24)), [Entry("x")])
except UserError as error:
    print(error)
if len(sys.argv) > 2:
    print("ready", flush=True)
    input()
    print(gallery.search(np.ones((1, 24)), 1)[0][0].entry.key, len(gallery))
"""


@pytest.fixture
def unwritable(sound):
    """A gallery in a folder that another user, or nobody, may write; and how to start a reader of it."""
    place = Path(tempfile.mkdtemp(prefix="san_tf_read_only_"))
    folder = shutil.copytree(sound, place / "g")
    for path in (place, folder):
        path.chmod(0o555)
    for path in folder.iterdir():
        path.chmod(0o444)
    # Who may do everything reads as nobody.
    options: dict[str, Any] = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    yield folder, options
    for path in (place, folder):
        path.chmod(0o755)
    shutil.rmtree(place)


def _start_reader(folder: Path, options: dict[str, Any], *more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", _SEARCH, str(folder), *more]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        return subprocess.Popen(command, env=environment, text=True, **pipes, **options)
    except PermissionError:
        pytest.skip("another user cannot start Python here")


def _wanted(folder: Path) -> str:
    with open_gallery(folder, read_only=True) as gallery:
        return f"{gallery.search(np.ones((1, SIZE)), 1, Filter(cameras=(1,)))[0][0].entry.key} {len(gallery)}"


def test_a_gallery_that_cannot_be_written_can_be_searched(unwritable, sound):
    folder, options = unwritable
    before = sorted(path.name for path in folder.iterdir())
    said, error = _start_reader(folder, options).communicate()
    lines = said.splitlines()
    assert lines[:1] == [_wanted(sound)], error
    assert "cannot be opened or written" in lines[1] and "check its permissions" in lines[1]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_reader_without_the_right_to_write_sees_what_its_owner_adds(unwritable):
    folder, options = unwritable
    if os.geteuid() != 0:
        pytest.skip("wants two users")
    reader = _start_reader(folder, options, "wait")
    assert reader.stdout is not None
    lines = [reader.stdout.readline() for _ in range(3)]
    assert lines[2] == "ready\n", reader.communicate()[1]
    with open_gallery(folder) as gallery:
        gallery.add(np.ones((1, SIZE)), [Entry("ones")])
    said, error = reader.communicate("\n")
    assert said.split() == ["ones", str(NUMBER + 8)], error


def test_a_gallery_whose_writer_was_killed_in_a_folder_that_cannot_be_written(copy, monkeypatch):
    (copy / "gallery.sqlite-wal").write_bytes(b"not taken over")
    real: Callable[..., Any] = sqlite3.connect

    def unwritable_folder(place, **options):
        if "immutable" not in place:
            raise sqlite3.OperationalError("unable to open database file")
        return real(place, **options)

    monkeypatch.setattr(sqlite_store.sqlite3, "connect", unwritable_folder)
    with pytest.raises(UserError, match="but was not closed after its last change"):
        open_gallery(copy, read_only=True)
