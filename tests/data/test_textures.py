import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from san_tf.data import textures as textures_module
from san_tf.data.headers import read_header
from san_tf.data.images import decode_image
from san_tf.data.pipeline import TextureLoader
from san_tf.data.records import Records
from san_tf.data.textures import STORE_VARIABLE, attach_textures, texture_names, write_textures
from san_tf.data.transforms import resize_texture
from san_tf.errors import UserError

T = 16
MIRROR = np.stack([*np.mgrid[:T, :T]], axis=-1)[:, ::-1]
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "real"


@pytest.fixture
def records(picture):
    names = ["0001_c1s1_1.jpg", "0002_c1s1_1.jpg", "0002_c2s1_1.jpg", "0003_c2s1_1.jpg", "0004_c2s1_1.jpg"]
    return Records.from_columns([picture(i) for i in range(5)], [1, 2, 2, 3, 4], filenames=names)


def textures(number, size=16):
    y, x = np.mgrid[:size, :size] * (255 // size)
    return [np.stack([y, x, np.full_like(x, 40 * i)], axis=-1).astype(np.uint8) for i in range(number)]


def test_written_textures_attach_by_name(tmp_path, records):
    write_textures(tmp_path / "textures", records.filenames[::-1], reversed(textures(5)))
    assert sorted(path.name for path in tmp_path.rglob("*.jpg")) == list(records.filenames)
    attached = attach_textures(records, tmp_path / "textures")
    assert attached.has_texture.all()
    assert attached.textures[3] == (tmp_path / "textures" / "0003_c2s1_1.jpg").read_bytes()


def test_missing_textures_are_counted_and_listed(tmp_path, records):
    write_textures(tmp_path / "t", records.filenames[:1], textures(1))
    with pytest.raises(UserError, match=r"for 4 of 5 images \(0002_c1s1_1.jpg, 0002_.*, 0003_.*, \.\.\.\)"):
        attach_textures(records, tmp_path / "t")
    attached = attach_textures(records, tmp_path / "t", allow_missing=True)
    assert attached.has_texture.tolist() == [True, False, False, False, False]
    with pytest.raises(UserError, match="for 4 of 4"):
        attach_textures(records.select(np.arange(1, 5)), tmp_path / "t", allow_missing=True)


def test_missing_folder_and_bad_texture(tmp_path, records, picture):
    with pytest.raises(UserError, match="nowhere does not exist"):
        attach_textures(records, tmp_path / "nowhere")
    write_textures(tmp_path / "t", records.filenames, textures(5))
    (tmp_path / "t" / "0002_c2s1_1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"0002_c2s1_1\.jpg is empty"):
        attach_textures(records, tmp_path / "t")
    (tmp_path / "t" / "0002_c2s1_1.jpg").write_bytes(picture(0, 32, 16))
    with pytest.raises(UserError, match=r"texture of image 0002_c2s1_1\.jpg is 16x32"):
        attach_textures(records, tmp_path / "t")


def test_nothing_is_left_of_a_failed_writing(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        write_textures(tmp_path / "t", ["a.jpg", "b.jpg"], [textures(1)[0], np.zeros((16, 16, 3))])
    with pytest.raises(UserError, match=r"images a\S* and a\S* differ in their suffix alone"):
        write_textures(tmp_path / "t", ["a.jpg", "a.png"], textures(2))
    assert list(tmp_path.iterdir()) == []


def test_names_with_folders(tmp_path, picture):
    names = ["market/1.jpg", "msmt/1.jpg", "msmt/2.png"]
    records = Records.from_columns([picture(i) for i in range(3)], [1, 2, 3], filenames=names)
    write_textures(tmp_path / "t", names, textures(3))
    assert {str(path.relative_to(tmp_path / "t")) for path in (tmp_path / "t").rglob("*.jpg")} == {
        "market/1.jpg", "msmt/1.jpg", "msmt/2.jpg",
    }  # fmt: skip
    attached = attach_textures(records, tmp_path / "t")
    assert attached.textures[1] == (tmp_path / "t" / "msmt" / "1.jpg").read_bytes()
    with pytest.raises(UserError, match=r"\.\./1\.jpg leads out of its folder"):
        write_textures(tmp_path / "other", ["../1.jpg"], textures(1))
    assert not (tmp_path / "other").exists() and not (tmp_path / "1.jpg").exists()


def test_names_and_paths_too_long_for_a_file_system(tmp_path, picture):
    # Records are named by the whole paths of their images where bare names are not unique.
    long = "camera__" * 100
    names = [f"{long}1.jpg", f"{long}2.jpg", "ö" * 125 + ".jpg", "deep/" * 700 + "3.png", "4.jpg"]
    write_textures(tmp_path / "t", names, textures(5))
    assert (tmp_path / "t" / "4.jpg").is_file()
    attached = attach_textures(
        Records.from_columns([picture(i) for i in range(5)], [1] * 5, filenames=names), tmp_path / "t"
    )
    assert attached.has_texture.all()
    assert len(set(attached.textures)) == 5
    assert texture_names(["a/1.png", names[0]])[0] == "a/1"


def test_textures_without_the_folders_of_their_images(tmp_path, picture):
    # As somebody publishes them who does not know in which folders others keep the images.
    write_textures(tmp_path / "t", ["1.jpg", "2.jpg"], textures(2))
    images = [picture(i) for i in range(2)]
    different = Records.from_columns(images, [1, 2], filenames=["market/1.jpg", "msmt/2.png"])
    attached = attach_textures(different, tmp_path / "t")
    assert attached.textures[1] == (tmp_path / "t" / "2.jpg").read_bytes()
    # Two images of one name: whose texture 1.jpg is cannot be told.
    alike = Records.from_columns(images, [1, 2], filenames=["market/1.jpg", "msmt/1.jpg"])
    with pytest.raises(UserError, match="for 2 of 2"):
        attach_textures(alike, tmp_path / "t")


@pytest.mark.skipif(not REAL.is_dir(), reason="the paper's authors' textures are not beside this checkout")
def test_textures_of_the_authors_of_the_paper_attach():
    records = Records.from_folder(REAL / "market1501_crops")
    assert sorted(set(records.pids)) == [112, 1414, 1485, 1501]
    attached = attach_textures(records, REAL / "official_textures")
    assert attached.has_texture.all()
    assert read_header(attached.textures[0])[1:] == (64, 64, 3)


def test_decoded_textures_are_stored_once_and_read_again(tmp_path, monkeypatch, picture, caplog):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    caplog.set_level("INFO")
    files = np.array([picture(i, 2 * T, 2 * T) for i in range(5)], object)  # twice the size that is painted
    decoded = []
    original = TextureLoader._all_decoded
    monkeypatch.setattr(
        TextureLoader, "_all_decoded", lambda self, number: decoded.append(number) or original(self, number)
    )

    def load(size=T, files=files):
        return TextureLoader(files, size, np.stack(np.mgrid[:size, :size], axis=-1), cache_bytes=0)._decoded

    wanted = np.stack([resize_texture(decode_image(file), T).numpy() for file in files])
    np.testing.assert_array_equal(load(), wanted)
    (path,) = tmp_path.iterdir()  # and no temporary file
    assert path.read_bytes() == wanted.tobytes()
    assert f"{wanted.nbytes / 1e6:.0f} MB" in caplog.text and str(path) in caplog.text
    np.testing.assert_array_equal(load(), wanted)
    assert decoded == [5]  # the second loader found the file
    load()[:] = 0
    assert path.read_bytes() == wanted.tobytes()  # nobody can change it by mistake
    # Other textures and another size have their own files.
    np.testing.assert_array_equal(load(files=files[::-1]), wanted[::-1])
    load(files=files[:4])
    assert load(2 * T).shape == (5, 2 * T, 2 * T, 3)
    assert decoded == [5, 5, 4, 5] and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: bytes(len(content)), lambda _: b""]
)
def test_a_damaged_file_of_textures_is_written_again(tmp_path, monkeypatch, picture, damage):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    files = np.array([picture(i, T, T) for i in range(3)], object)
    wanted = TextureLoader(files, T, MIRROR, cache_bytes=0)._decoded.copy()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(TextureLoader(files, T, MIRROR, cache_bytes=0)._decoded, wanted)
    assert path.read_bytes() == wanted.tobytes()


def test_textures_are_decoded_each_time_where_they_cannot_be_stored(tmp_path, monkeypatch, picture, caplog):
    caplog.set_level("INFO")
    files = np.array([picture(i, T, T) for i in range(3)], object)

    def load():
        caplog.clear()
        assert TextureLoader(files, T, MIRROR, cache_bytes=0)._decoded is None
        return caplog.text

    monkeypatch.setenv(STORE_VARIABLE, "")  # switched off
    assert load() == ""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv(STORE_VARIABLE, str(blocked / "folder"))
    assert str(blocked) in load()
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "small"))
    monkeypatch.setattr(textures_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=3000))
    assert "left" in load()
    monkeypatch.setattr(textures_module, "STORE_LIMIT", 3 * T * T * 3 - 1)
    assert "more than" in load()
    assert not list((tmp_path / "small").iterdir())


def test_a_full_disk_leaves_no_file_of_textures(tmp_path, monkeypatch, picture, caplog):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))

    def breaks(self, number):
        yield np.zeros((T, T, 3), np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TextureLoader, "_all_decoded", breaks)
    files = np.array([picture(i, T, T) for i in range(3)], object)
    assert TextureLoader(files, T, MIRROR, cache_bytes=0)._decoded is None
    assert "disk is full" in caplog.text and not list(tmp_path.iterdir())


def test_the_textures_used_longest_ago_make_room(tmp_path, monkeypatch, picture):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(textures_module, "STORE_LIMIT", 2 * T * T * 3)  # two files of one texture
    (tmp_path / ".killed.texels.12345678.tmp.texels").write_bytes(b"0")
    (tmp_path / "of the user").write_bytes(b"0")
    os.utime(tmp_path / ".killed.texels.12345678.tmp.texels", (0, 0))
    paths = []
    for number in (0, 1, 0, 2):  # so 1 was used longest ago
        TextureLoader(np.array([picture(number, T, T)], object), T, MIRROR, cache_bytes=0)
        paths.append(max(tmp_path.glob("*.texels"), key=lambda path: path.stat().st_mtime_ns))
        for turn, path in enumerate(paths):
            if path.exists():
                os.utime(path, (1e9 + turn, 1e9 + turn))
    assert set(tmp_path.iterdir()) == {paths[0], paths[3], tmp_path / "of the user"}
