"""Who is deleted is gone from every byte of the gallery, stays away, and is in no later backup."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.retrieval import embedded
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import Gallery, GalleryInfo, Source
from san_tf.retrieval.opening import backup_gallery, check_gallery, open_gallery, restore_gallery

SIZE = 24


@pytest.fixture(autouse=True)
def eager_index(monkeypatch):
    monkeypatch.setattr(embedded, "_FEWEST", 20)
    monkeypatch.setattr(embedded, "_MOST", 20)


def _rows(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, SIZE))


def _filled(path: Path, number: int = 60) -> Gallery:
    """A gallery of people 0 to 8 under cameras 0 to 4, a second apart, each photograph of its own bytes."""
    gallery = open_gallery(path, create=GalleryInfo(SIZE, "market/1", "ab"))
    entries = [
        Entry(f"person{n % 9}-{n:02}.jpg", "", n % 5, float(n), n % 9, (f"tag{n % 3}",))
        for n in range(number)
    ]
    files = [Source(f"stamp {n}", gallery.hash_of(b"photograph %d" % n)) for n in range(number)]
    for start in range(0, number, 20):
        some = slice(start, start + 20)
        gallery.add(_rows(number)[some], entries[some], files[some])
    return gallery


def _bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_no_trace_is_left_where_sqlite_divides_and_joins_its_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "_FEWEST", 10**6)  # the index is another test's
    # Overwriting alone leaves keys in the unused room of pages: three or four of these 1,500.
    path, choose = tmp_path / "g", random.Random(1)
    keys = [f"{choose.getrandbits(64):016x}_{choose.randrange(10**6)}.jpg" for _ in range(3000)]
    gallery = open_gallery(path, create=GalleryInfo(SIZE))
    rows = _rows(3000)
    for start in range(0, 3000, 150):
        some = keys[start : start + 150]
        entries = [Entry(key, key, choose.randrange(5), None, None, (f"x{key[:8]}",)) for key in some]
        gallery.add(rows[start : start + 150], entries)
    gone = choose.sample(keys, 1500)
    stored = [row.tobytes() for row in gallery.embeddings(gone[::30])]
    for start in range(0, 1500, 500):
        assert gallery.delete(gone[start : start + 500]) == 500
    there = _bytes(path)  # while it is open, with -wal and -shm
    names = set(re.findall(rb"[0-9a-f]{16}_", there)) | set(re.findall(rb"x([0-9a-f]{8})", there))
    assert not [key for key in gone if key[:17].encode() in names or key[:8].encode() in names]
    assert not [row for row in stored if row[:32] in there]
    left = sorted(set(keys) - set(gone))
    assert {key[:17].encode() for key in left} <= names and [e.key for e in gallery.entries()] == left
    gallery.close()


@pytest.mark.parametrize(
    ("where", "number"),
    [
        (Filter(pids=(3,)), 7),  # 3, 12, ..., 57
        (Filter(until=10.0), 10),
        (Filter(cameras=(2,)), 12),
        (Filter(tags=("tag1",), pids=(1, 2)), 7),  # of identity 1 all, of identity 2 none
    ],
)
def test_a_person_a_time_a_camera_a_tag(tmp_path, where, number):
    gallery = _filled(tmp_path / "g")
    exact = ExactGallery(GalleryInfo(SIZE))
    exact.add(_rows(60), [gallery.get([f"person{n % 9}-{n:02}.jpg"])[0] for n in range(60)])
    gone = [entry.key for entry in exact.entries(where)]
    stored = [row.tobytes() for row in gallery.embeddings(gone)]
    assert len(gone) == number == gallery.delete(where=where) == exact.delete(where=where)
    there = _bytes(tmp_path / "g")
    assert not [key for key in gone if key.encode() in there] and not [r for r in stored if r in there]
    assert gallery.search(_rows(60), 60) == exact.search(_rows(60), 60)
    with pytest.raises(UserError, match=r"was deleted from the gallery .* for good; allow it with `san-tf"):
        gallery.add(_rows(1), [Entry(gone[0])])
    gallery.close()


def test_the_same_bytes_stay_away_under_another_name_until_they_are_allowed(tmp_path):
    with _filled(tmp_path / "g") as gallery:
        gallery.delete(["person7-07.jpg"])
        same = Source("", gallery.hash_of(b"photograph 7"))
        with pytest.raises(UserError, match=r"copy\.jpg was deleted"):
            gallery.add(_rows(1), [Entry("copy.jpg")], [same])
        with pytest.raises(UserError, match=r"person7-07\.jpg was deleted"):  # whatever is in it now
            gallery.add(_rows(1), [Entry("person7-07.jpg")], [Source("", gallery.hash_of(b"another"))])
        assert len(gallery) == 59 and gallery.deletions() == 1
        assert gallery.lift(["nobody.jpg"]) == 0 and gallery.lift(contents=[b"", b"x"]) == 0
        assert gallery.lift(contents=[same.content]) == 1 and gallery.deletions() == 0
        gallery.add(
            _rows(1),
            [
                Entry("copy.jpg"),
            ],
            [same],
        )
        gallery.add(_rows(1), [Entry("person7-07.jpg")])
        # Deleted so that it may come back.
        assert gallery.delete(["copy.jpg"], for_good=False) == 1
        gallery.add(_rows(1), [Entry("copy.jpg")], [same])


def test_a_hash_says_nothing_without_the_gallery(tmp_path):
    one, other = (open_gallery(tmp_path / name, create=GalleryInfo(SIZE)) for name in "ab")
    assert one.hash_of(b"photograph") == one.hash_of(b"photograph") != other.hash_of(b"photograph")
    for gallery in (one, other):
        gallery.close()


@pytest.mark.parametrize("statement", [
    "DELETE FROM buried WHERE name = (SELECT max(name) FROM buried)",
    "UPDATE buried SET time = 0",
    "UPDATE secret SET salt = x'00'",
])  # fmt: skip
def test_a_record_of_deletions_that_changed_is_told(tmp_path, statement):
    with _filled(tmp_path / "g") as gallery:
        gallery.delete(["person7-07.jpg", "person8-08.jpg"])
    connection = sqlite3.connect(tmp_path / "g" / "gallery.sqlite", isolation_level=None)
    connection.execute(
        statement.replace("WHERE rowid_of IS NULL", "WHERE time = (SELECT max(time) FROM buried)")
    )
    connection.close()
    with open_gallery(tmp_path / "g") as gallery, pytest.raises(UserError, match="record of deletions"):
        gallery.deletions()
    with pytest.raises(UserError, match="record of deletions has changed on the disk; restore a backup"):
        check_gallery(tmp_path / "g")
    if "secret" not in statement:  # else nobody can tell what was deleted
        assert check_gallery(tmp_path / "g", drop=True).made == ["record of deletions"]
        with open_gallery(tmp_path / "g") as gallery:
            assert gallery.deletions() == (1 if "DELETE" in statement else 2)


def test_what_is_old_is_deleted_and_what_has_no_time_counts_from_its_addition(tmp_path, monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr("san_tf.retrieval.sqlite_store.clock.time", lambda: now[0])
    with open_gallery(tmp_path / "g", create=GalleryInfo(SIZE)) as gallery:
        gallery.add(_rows(3), [Entry("old", time=900_000.0), Entry("new", time=999_000.0), Entry("timeless")])
        now[0] += 5_000.0
        gallery.add(_rows(2), [Entry("later", time=1_003_000.0), Entry("timeless later")])
        # A replaced entry of the same file is as old as before.
        gallery.add(_rows(1), [Entry("timeless", tags=("seen",))])
        assert [entry.key for entry in gallery.expired(1_002_000.0)] == ["new", "old", "timeless"]
        assert gallery.expire(1_002_000.0) == 3
        assert [entry.key for entry in gallery.entries()] == ["later", "timeless later"]
        with pytest.raises(UserError, match="timeless was deleted"):
            gallery.add(_rows(1), [Entry("timeless")])


def test_the_log_names_nobody_and_holds_no_embedding(tmp_path):
    path = tmp_path / "g"
    with _filled(path) as gallery:
        gallery.search(_rows(2), 3, Filter(cameras=(1,)))
        hit = gallery.search(_rows(60)[7:8], 1)[0][0].entry.key
        assert hit == "person7-07.jpg"
        gallery.delete([hit])
    text = (path / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["action"] for line in lines] == ["search", "search", "search", "delete"]
    assert lines[0]["filter"] == {"cameras": [1]} and lines[0]["top"] == 3 and lines[0]["entries"] == 3
    assert all(line["user"] and line["time"].endswith("Z") for line in lines)
    assert "person" not in text and all(len(key) == 32 for line in lines for key in line["keys"])
    numbers = [number for row in _rows(60) for number in row / np.linalg.norm(row)]
    assert not [number for number in numbers if f"{number:.6f}"[:8] in text]
    with open_gallery(path, read_only=True) as gallery:
        about = list(gallery.audit(["person7-07.jpg"]))
        assert [line["action"] for line in about] == ["search", "delete"] and about == lines[2:]
    (path / "audit.jsonl").write_text("not a line\n")
    with open_gallery(path) as gallery, pytest.raises(UserError, match=r"audit\.jsonl cannot be read"):
        list(gallery.audit())


def test_a_search_is_answered_where_the_log_cannot_be_written(tmp_path):
    _filled(tmp_path / "g").close()
    (tmp_path / "g" / "audit.jsonl").mkdir()
    with pytest.raises(UserError, match=r"holds audit\.jsonl, which is a link or not a plain file"):
        open_gallery(tmp_path / "g")
    (tmp_path / "g" / "audit.jsonl").rmdir()
    with open_gallery(tmp_path / "g") as gallery:
        (tmp_path / "g" / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
        assert len(gallery.search(_rows(1), 5)[0]) == 5
        assert "audit log of" in gallery.unlogged and not (tmp_path / "elsewhere").exists()


def test_a_backup_while_it_is_used_and_what_was_deleted_since_stays_deleted(tmp_path):
    gallery = _filled(tmp_path / "g")
    gone = ["person3-03.jpg", "person3-12.jpg"]
    stored = [row.tobytes() for row in gallery.embeddings(gone)]
    assert backup_gallery(tmp_path / "g", tmp_path / "before") == 60
    gallery.delete(gone)
    gallery.add(_rows(1, 5), [Entry("new.jpg", camera=4)])
    reader = open_gallery(tmp_path / "g", read_only=True)
    wanted = reader.search(_rows(9, 3), 7)
    assert backup_gallery(tmp_path / "g", tmp_path / "after") == 59
    there = _bytes(tmp_path / "after")
    assert not [key for key in gone if key.encode() in there] and not [row for row in stored if row in there]
    with open_gallery(tmp_path / "after", read_only=True) as copy:
        assert copy.search(_rows(9, 3), 7) == wanted
    with pytest.raises(UserError, match="after exists already; add --overwrite"):
        backup_gallery(tmp_path / "g", tmp_path / "after")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("years of work")
    with pytest.raises(UserError, match="other is not a gallery or a backup, but something else"):
        backup_gallery(tmp_path / "g", tmp_path / "other", overwrite=True)
    # To another place all of it comes back; over the gallery, without the deleted.
    assert restore_gallery(tmp_path / "before", tmp_path / "elsewhere") == (60, 0)
    with pytest.raises(UserError, match="exists already; add --overwrite to replace it"):
        restore_gallery(tmp_path / "before", tmp_path / "g")
    assert restore_gallery(tmp_path / "before", tmp_path / "g", overwrite=True) == (58, 2)
    # Who has it open goes on with it.
    for each in (gallery, reader):
        assert len(each) == 58 and not each.known([*gone, "new.jpg"])
        keys = {hit.entry.key for hit in each.search(_rows(1), 60)[0]}
        assert len(keys) == 58 and "person4-04.jpg" in keys
        assert len(each.entries(Filter(pids=(3,)))) == 5
    with pytest.raises(UserError, match=r"person3-03\.jpg was deleted"):
        gallery.add(_rows(1), [Entry("person3-03.jpg")])
    gallery.add(_rows(1), [Entry("one more.jpg")])
    assert reader.known(["one more.jpg"]) and check_gallery(tmp_path / "g").damaged == []
    there = _bytes(tmp_path / "g")
    assert not [key for key in [*gone, "new.jpg"] if key.encode() in there]
    for each in (gallery, reader):
        each.close()


def test_backups_that_are_none(tmp_path):
    _filled(tmp_path / "g").close()
    _filled(tmp_path / "another").close()
    with pytest.raises(UserError, match="is a backup of another gallery than"):
        restore_gallery(tmp_path / "another", tmp_path / "g", overwrite=True)
    with pytest.raises(UserError, match="are the same folder"):
        restore_gallery(tmp_path / "g", tmp_path / "g", overwrite=True)
    backup_gallery(tmp_path / "g", tmp_path / "b")
    connection = sqlite3.connect(tmp_path / "b" / "gallery.sqlite", isolation_level=None)
    connection.execute("UPDATE entries SET pid = 7 WHERE id = 3")
    connection.close()
    shutil.rmtree(tmp_path / "g")
    with pytest.raises(UserError, match=r"1 entries of the backup .* are damaged, such as person2-02\.jpg"):
        restore_gallery(tmp_path / "b", tmp_path / "g")
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("form", [1, 2])
def test_a_gallery_of_a_former_format_deletes_for_good_too(tmp_path, form):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(b"photograph")
    info = GalleryInfo(SIZE, images=str(images))
    with open_gallery(tmp_path / "g", create=info) as gallery:
        gallery.add(_rows(2), [Entry("a.jpg", "a.jpg"), Entry("b.jpg")])
        assert gallery.delete(["b.jpg"], for_good=False) == 1
    connection = sqlite3.connect(tmp_path / "g" / "gallery.sqlite", isolation_level=None)
    for table in ("sources", "buried", "secret", *(("digests", "seal") if form == 1 else ())):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("UPDATE state SET format = ?", (form,))
    if form == 2:
        from san_tf.retrieval.sqlite_store import _renew_seal

        _renew_seal(connection)
    connection.close()
    with open_gallery(tmp_path / "g", read_only=True) as reader:
        assert reader.search(_rows(1), 1)[0][0].entry.key == "a.jpg" and reader.deletions() == 0
    backup_gallery(tmp_path / "g", tmp_path / "b")  # of the former format, too
    with open_gallery(tmp_path / "g") as gallery:
        gallery.delete(["a.jpg"])
        with pytest.raises(UserError, match=r"copy\.jpg was deleted"):  # its file was still there
            gallery.add(_rows(1), [Entry("copy.jpg")], [Source("", gallery.hash_of(b"photograph"))])
    assert restore_gallery(tmp_path / "b", tmp_path / "g", overwrite=True) == (0, 1)


def test_who_opened_it_before_it_moved_to_another_encoder_is_told(tmp_path):
    gallery = _filled(tmp_path / "g")
    other = open_gallery(tmp_path / "new", create=GalleryInfo(4, "other/1", "cd"))
    other.set_secret(gallery.deletion_record()[0])
    other.add(np.eye(4)[:1], [Entry("a.jpg")])
    reader = open_gallery(tmp_path / "g", read_only=True)
    reader.search(_rows(1), 1)
    assert gallery.replace_all(other, version=-1) is None and len(gallery) == 60
    assert gallery.replace_all(other, version=gallery.version) == 0
    assert gallery.info.fingerprint == "cd" and len(gallery) == 1
    assert gallery.search(np.eye(4)[:1], 5)[0][0].entry.key == "a.jpg"
    with pytest.raises(UserError, match="was moved to another encoder since it was opened; open it again"):
        reader.search(_rows(1), 1)
    for each in (gallery, other, reader):
        each.close()
