"""A gallery over days: folders that come, files that change and go, cameras with names, another encoder."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from san_tf.embedding.bulk import NothingEmbeddedError
from san_tf.errors import UserError
from san_tf.retrieval.adding import Added, add_photographs, gone_files, reembed
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.gallery import Gallery, GalleryInfo, gallery_pictures
from san_tf.retrieval.name_reader import NameReader
from san_tf.retrieval.opening import backup_gallery, open_gallery, open_to_search


class Colours:
    """An encoder: mean and spread of the three colours, times a factor that makes another encoder of it."""

    def __init__(self, power: float = 1.0) -> None:
        self.power = power
        self.embedded = 0

    def embed_each(self, files: list[bytes]) -> list[np.ndarray | None]:
        self.embedded += len(files)
        return [self._embed(content) for content in files]

    def _embed(self, content: bytes) -> np.ndarray | None:
        try:
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64)
        except OSError:
            return None
        return np.concatenate([pixels.mean((0, 1)), pixels.std((0, 1)) + 1]) ** self.power


def _picture(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 8, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind)
    return target.getvalue()


def _write(folder: Path, *names: str, seed: int = 0) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_picture(100 * seed + number))


@pytest.fixture
def opened(tmp_path: Path):
    """Opens the gallery `g`, whose first folder is `monday`."""
    return lambda: open_gallery(
        tmp_path / "g", create=GalleryInfo(6, str(tmp_path), "one", str(tmp_path / "monday"))
    )


def _add(gallery: Gallery, *places: Path, encoder: Colours | None = None, **options) -> Added:
    reader = options.pop("reader", None) or NameReader()
    return add_photographs(gallery, places, encoder or Colours(), reader, **options)


def _keys(gallery: Gallery) -> list[str]:
    return [entry.key for entry in gallery.entries()]


def test_a_folder_a_day(tmp_path, opened):
    _write(tmp_path / "monday", "0.png", "1.png")
    _write(tmp_path / "tuesday", "0.png", "door/1.png", seed=1)
    _write(tmp_path / "else" / "tuesday", "0.png", seed=2)
    with opened() as gallery:
        _add(gallery, tmp_path / "monday")
        _add(gallery, tmp_path / "tuesday")
        _add(gallery, tmp_path / "else" / "tuesday")
        wanted = ["0.png", "1.png", "tuesday-2/0.png", "tuesday/0.png", "tuesday/door/1.png"]
        assert _keys(gallery) == wanted
        assert dict(gallery.info.folders) == {
            "tuesday": str(tmp_path / "tuesday"),
            "tuesday-2": str(tmp_path / "else" / "tuesday"),
        }
        # A folder within one, and one above all, give no second key.
        encoder = Colours()
        for place in (
            tmp_path / "tuesday" / "door",
            tmp_path / "tuesday" / "door" / "1.png",
            tmp_path / "else",
        ):
            assert _add(gallery, place, encoder=encoder).progress.embedded == 0
        assert _keys(gallery) == wanted and encoder.embedded == 0
        _write(tmp_path / "else", "new.png", seed=3)
        assert _add(gallery, tmp_path / "else").progress.embedded == 1
        assert _keys(gallery) == ["0.png", "1.png", "else/new.png", *wanted[2:]]
        pictures = gallery_pictures(gallery.info)
        for key, path in (("0.png", "monday/0.png"), ("tuesday-2/0.png", "else/tuesday/0.png")):
            assert pictures.read(gallery.get([key])[0].image) == (tmp_path / path).read_bytes()
        # A folder that would take their keys is refused.
        _write(tmp_path / "monday", "tuesday/0.png", seed=4)
        with pytest.raises(UserError, match=r"monday/tuesday would have the keys of another folder"):
            _add(gallery, tmp_path / "monday")


def test_folders_that_were_never_named_are_not_shown(tmp_path, opened, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    _write(tmp_path / "monday", "0.png")
    with opened() as gallery:
        _add(gallery, tmp_path / "monday")
        gallery.add_folder("etc", "/etc")
        gallery.add(np.eye(6)[:1], [Entry("etc/hostname", "etc/hostname")])
    opened_to_search = open_to_search(tmp_path / "g", str(tmp_path))
    with opened_to_search.gallery as gallery:
        assert "photographs are in /etc, which does not lie beside it" in opened_to_search.withheld
        with pytest.raises(ValueError, match="missing"):
            gallery_pictures(gallery.info).read("etc/hostname")
        assert gallery_pictures(gallery.info).read("0.png") == (tmp_path / "monday/0.png").read_bytes()


def test_what_changed_is_embedded_and_what_was_only_touched_is_not(tmp_path, opened):
    _write(tmp_path / "monday", "a.png", "b.png", "c.png")
    _write(tmp_path / "monday", "d.png", seed=9)
    encoder = Colours()
    with opened() as gallery:
        _add(gallery, tmp_path / "monday", encoder=encoder)
        before = gallery.embeddings(["a.png", "b.png", "c.png"])
        added = gallery.sources(["b.png"])["b.png"].added
        (tmp_path / "monday" / "a.png").write_bytes((tmp_path / "monday" / "d.png").read_bytes())
        os.utime(tmp_path / "monday" / "b.png", (1, 1))
        result = _add(gallery, tmp_path / "monday", encoder=encoder)
        assert (result.progress.embedded, result.changed, result.known, encoder.embedded) == (1, 1, 3, 5)
        np.testing.assert_array_equal(gallery.embeddings(["b.png", "c.png"]), before[1:])
        np.testing.assert_array_equal(*gallery.embeddings(["a.png", "d.png"]))
        assert gallery.sources(["b.png"])["b.png"].added == added
        (tmp_path / "monday" / "c.png").write_bytes(
            b"cut"
        )  # an old entry is better than none, and it is told
        result = _add(gallery, tmp_path / "monday", encoder=encoder)
        assert list(result.progress.left_out) == [str(tmp_path / "monday" / "c.png")] and len(gallery) == 4
        assert (result.changed, result.known) == (0, 3)


def test_what_is_gone_is_told_and_pruned(tmp_path, opened):
    _write(tmp_path / "monday", "a.png", "b.png")
    _write(tmp_path / "tuesday", "a.png", "b.png", seed=1)
    archive = tmp_path / "monday" / "more.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.png", _picture(50))
        file.writestr("y/z.png", _picture(51))
    with opened() as gallery:
        assert _add(gallery, tmp_path / "monday", tmp_path / "tuesday", archive).gone == []
        gallery.add(np.eye(6)[:1], [Entry("of a table")])
        (tmp_path / "monday" / "b.png").unlink()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("x.png", _picture(50))
        assert _add(gallery, tmp_path / "monday").gone == ["b.png", "more.zip/y/z.png"]
        (tmp_path / "tuesday" / "a.png").rename(tmp_path / "kept.png")
        assert _add(gallery, tmp_path / "tuesday").gone == ["tuesday/a.png"]
        assert sorted(gone_files(gallery)) == ["b.png", "more.zip/y/z.png", "tuesday/a.png"]
        assert gallery.delete(sorted(gone_files(gallery)), for_good=False) == 3
        (tmp_path / "kept.png").rename(tmp_path / "tuesday" / "a.png")
        assert _add(gallery, tmp_path / "tuesday").progress.embedded == 1
        # A volume that is not there is not empty.
        (tmp_path / "tuesday").rename(tmp_path / "away")
        assert list(gone_files(gallery)) == []


def test_who_was_deleted_stays_out_under_every_name(tmp_path, opened):
    _write(tmp_path / "monday", "a.png", "b.png", "c.png")
    encoder = Colours()
    with opened() as gallery:
        _add(gallery, tmp_path / "monday")
        gallery.delete(["a.png", "b.png"])
        (tmp_path / "tuesday").mkdir()
        (tmp_path / "monday" / "a.png").rename(tmp_path / "tuesday" / "copy.png")
        result = _add(gallery, tmp_path / "monday", tmp_path / "tuesday", encoder=encoder)
        names = [str(tmp_path / "monday" / "b.png"), str(tmp_path / "tuesday" / "copy.png")]
        assert result.deleted == names and result.known == 1 and not result.progress.left_out
        assert _keys(gallery) == ["c.png"] and encoder.embedded == 0
        assert _add(gallery, tmp_path / "tuesday").deleted == names[1:]  # and that is not an error
        assert gallery.lift(["a.png"]) == 1
        assert _add(gallery, tmp_path / "tuesday").progress.embedded == 1
        assert _keys(gallery) == ["c.png", "tuesday/copy.png"]


def test_everything_in_a_folder_is_read_or_counted_and_listed(tmp_path, opened):
    kinds = {"webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "jpg": "JPEG", "png": "PNG"}
    if features.check("avif"):
        kinds["avif"] = "AVIF"
    folder = tmp_path / "monday"
    _write(folder, "one.png")
    for number, (suffix, kind) in enumerate(kinds.items()):
        (folder / f"{number}.{suffix}").write_bytes(_picture(number, kind))
    others = ["list.txt", ".hidden.jpg", "README", "film.mp4", "inner/notes.doc", "inner/x.zip"]
    for name in others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    counted: Counter[str] = Counter()
    listed: dict[str, str] = {}
    with opened() as gallery:
        result = _add(gallery, folder, others=counted, listed=listed)
        assert len(gallery) == len(kinds) + 1 == result.progress.embedded
    assert set(listed) == {str(folder / name) for name in others} and sum(counted.values()) == len(others)
    assert listed[str(folder / "list.txt")] == "is not read: .txt"
    assert result.progress.left_out == {str(folder / "gone.jpg"): "is missing"}


def test_a_folder_without_a_usable_picture(tmp_path, opened):
    folder = tmp_path / "monday"
    folder.mkdir()
    (folder / "a.heifx").write_bytes(b"x")
    with opened() as gallery:
        with pytest.raises(UserError, match=r"There are no photographs .* Left out: 1 others \(\.heifx: 1\)"):
            _add(gallery, folder)
        (folder / "cut.png").write_bytes(_picture(0)[:40])
        with pytest.raises(NothingEmbeddedError):
            _add(gallery, folder)
        other = tmp_path / "tuesday"
        other.mkdir()
        (other / "cut.png").write_bytes(b"")
        with pytest.raises(NothingEmbeddedError):
            _add(gallery, other)
        assert gallery.info.folders == () and gallery.info.cameras == ()


def test_cameras_and_times_from_folders(tmp_path, opened):
    day = tmp_path / "2026-01-31"
    _write(day, "door/083000_7.png", "hall/2/090501.png", "loose.png")
    with opened() as gallery:
        pattern = r"(?P<time>\d{4}-\d\d-\d\d)/|(?P<pid>\d)$"
        result = _add(gallery, day, reader=NameReader(pattern, folders=True))
        assert result.read.entries == 3 and result.read.numbers == {"camera": 2, "time": 3}
        found = {entry.key.partition("/")[2]: entry for entry in gallery.entries()}
        names = {key: gallery.info.camera_name(entry.camera) for key, entry in found.items()}
        assert names == {"door/083000_7.png": "door", "hall/2/090501.png": "hall/2", "loose.png": ""}
        assert {entry.time for entry in found.values()} == {1_769_817_600.0}
        door = gallery.info.camera_number("door")
        assert _keys(gallery) == [f"2026-01-31/{key}" for key in sorted(found)]
        assert [entry.camera for entry in gallery.entries(Filter(cameras=(door,)))] == [door]
        # Named in the same way on the next day, and by whoever has it open.
        _write(tmp_path / "2026-02-01", "door/0.png", "cam3/1.png", seed=1)
        with open_gallery(tmp_path / "g", read_only=True) as reader:
            groups = r"^[^/]+/(?:cam)?(?P<camera>[^/]+)/.*(?P<tags>\d)"
            _add(gallery, tmp_path / "2026-02-01", reader=NameReader(groups))
            assert reader.cameras() == [3, door, door + 1] and reader.info.camera_name(door) == "door"
            assert reader.tags() == ["0", "1"]
        assert [entry.camera for entry in gallery.entries(Filter(tags=("1",)))] == [3]
    with open_gallery(tmp_path / "g") as again:
        assert again.info.cameras == ("door", "hall/2")


def test_what_is_older_than_allowed_stays_out(tmp_path, opened):
    _write(tmp_path / "monday", "20260131_083000.png", "20260201_083000.png")
    with opened() as gallery:
        result = _add(
            gallery, tmp_path / "monday", reader=NameReader(r"(?P<time>\d+_\d+)"), since=1_769_904_000.0
        )
        assert result.expired == 1 and _keys(gallery) == ["20260201_083000.png"]


def test_a_move_to_another_encoder(tmp_path, opened, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    _write(tmp_path / "monday", "a.png", "b.png", "c.png", "d.png")
    _write(tmp_path / "tuesday", "a.png", seed=1)
    archive = tmp_path / "monday" / "more.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.png", _picture(50))
    with opened() as gallery:
        _add(
            gallery,
            tmp_path / "monday",
            tmp_path / "tuesday",
            archive,
            reader=NameReader("(?P<camera>[a-d])"),
        )
        gallery.delete(["b.png"])
        wanted = gallery.entries()
        added = {key: source.added for key, source in gallery.sources(_keys(gallery)).items()}
    info, new = GalleryInfo(6, str(tmp_path), "two"), Colours(0.5)
    uri = str(tmp_path / "g")
    (tmp_path / "monday" / "d.png").rename(tmp_path / "away.png")
    stopped = reembed(uri, new, info)
    assert not stopped.swapped and list(stopped.left_out) == ["d.png"] and new.embedded == 4
    with opened() as gallery:
        assert gallery.info.fingerprint == "one" and gallery.entries() == wanted
    (tmp_path / "away.png").rename(tmp_path / "monday" / "d.png")

    def meanwhile(done: int, total: int) -> None:
        # Another process deletes and adds while it moves.
        if not changed:
            changed.append(True)
            with opened() as gallery:
                gallery.delete(["a.png"])
                _write(tmp_path / "tuesday", "a.png", "new.png", seed=1)
                _add(gallery, tmp_path / "tuesday")

    changed: list[bool] = []
    result = reembed(uri, new, info, report=meanwhile)
    # What the first try had done is not done again: d.png, and new.png after the change.
    assert result == (5, {}, True) and new.embedded == 6
    with open_gallery(uri) as gallery:
        assert gallery.info.fingerprint == "two" and gallery.info.folders[0][0] == "tuesday"
        assert _keys(gallery) == ["c.png", "d.png", "more.zip/x.png", "tuesday/a.png", "tuesday/new.png"]
        assert [entry for entry in gallery.entries() if "new" not in entry.key] == wanted[1:]
        rows = [new._embed((tmp_path / "monday" / name).read_bytes()) for name in ("c.png", "d.png")]
        np.testing.assert_allclose(
            gallery.embeddings(["c.png", "d.png"]), [row / np.linalg.norm(row) for row in rows], atol=1e-6
        )
        assert gallery.sources(["c.png"])["c.png"].added == added["c.png"]
        assert gallery.deletions() == 2 and _add(gallery, tmp_path / "monday").deleted
    assert not list(tmp_path.glob(".g*"))
    with pytest.raises(UserError, match="holds embeddings of this encoder already"):
        reembed(uri, new, info)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_can_search_and_back_up(tmp_path, opened):
    _write(tmp_path / "monday", "a.png")
    with opened() as gallery:
        _add(gallery, tmp_path / "monday")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and len(path.parts) > 2:
            path.chmod(0o755)
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", 65534, 65534)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            with open_gallery(tmp_path / "g", read_only=True) as gallery:
                code = 0 if gallery.search(np.ones((1, 6)), 1)[0][0].entry.key == "a.png" else 2
                code = code or (0 if "audit log" in gallery.unlogged else 3)
            code = code or (0 if backup_gallery(tmp_path / "g", tmp_path / "home" / "b") == 1 else 4)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert time.time() - (tmp_path / "home" / "b").stat().st_mtime < 60
