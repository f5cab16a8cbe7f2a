"""Archives as strangers and broken copies have them."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import pickle
import random
import stat
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from archive_mutants import extended_header, good_tar, good_zip, mutants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from san_tf.archives import archive_types
from san_tf.archives import archive_types as tar_files
from san_tf.archives.archive_types import open_archive
from san_tf.archives.files import DamagedFileError, FolderFiles
from san_tf.errors import UserError

RNG = np.random.default_rng(0)
CONTENTS = {f"top/{split}/{i:02d}.jpg": RNG.bytes(300 + i) for split in ("query", "train") for i in range(8)}
CONTENTS["top/list.txt"] = b"one\ntwo\n" * 500  # deflated in a zip
NUMBERS = itertools.count()
SUFFIXES = (".zip", ".tar", ".tgz")


def tar_member(name, content=b"x", **changes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def write_tar(path, members, mode=None):
    with tarfile.open(path, mode or ("w:gz" if path.suffix == ".tgz" else "w")) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            archive.writestr(info, content)


def write(path, contents):
    if path.suffix == ".zip":
        write_zip(path, contents.items())
    else:
        write_tar(path, [tar_member(name, content) for name, content in contents.items()])
    return path


@pytest.fixture(params=SUFFIXES)
def archive(request, tmp_path):
    return write(tmp_path / f"a{request.param}", CONTENTS)


def test_reads_what_was_packed(archive):
    files = open_archive(archive)
    assert files.paths() == sorted(CONTENTS)
    top = files.rooted("top")
    assert top.paths("query") == [f"query/{i:02d}.jpg" for i in range(8)] and top.paths("que") == []
    assert top.has("train") and top.has("list.txt") and not top.has("tra") and not top.has("list")
    paths = top.paths()
    random.Random(0).shuffle(paths)
    with ThreadPoolExecutor(8) as pool:  # no position is shared
        assert list(pool.map(top.read, paths * 4)) == [CONTENTS[f"top/{path}"] for path in paths * 4]
    streamed = {index: read() for index, read in top.stream(paths)}
    assert [streamed[i] for i in range(len(paths))] == [CONTENTS[f"top/{path}"] for path in paths]
    again = pickle.loads(pickle.dumps(top))
    assert again.read("list.txt") == CONTENTS["top/list.txt"] and again.paths() == top.paths()
    with top.local("list.txt") as copy:
        assert copy.read_bytes() == CONTENTS["top/list.txt"]
    assert not copy.exists()
    assert top.describe("list.txt") == f"top/list.txt in {archive}"
    with pytest.raises(DamagedFileError, match="is missing"):
        top.read("nothing.jpg")
    with pytest.raises(UserError, match=r"top/nothing\.jpg in .* is missing"), top.local("nothing.jpg"):
        pass


UNSAFE = {
    "../evil.jpg": "a path that leads out of it",
    "query/../../evil.jpg": "a path that leads out of it",
    "/etc/evil.jpg": "a path that leads out of it",
    "C:/evil.jpg": "a path that leads out of it",
    "..\\evil.jpg": "a path that leads out of it",
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", UNSAFE)
def test_paths_that_lead_out_are_refused_by_name(name, suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}", {"good.jpg": b"x", name: b"x"})
    with pytest.raises(UserError) as caught:
        open_archive(path)
    assert (
        UNSAFE[name] in str(caught.value)
        and repr(name) in str(caught.value)
        and str(path) in str(caught.value)
    )


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a special file"),
        (tarfile.BLKTYPE, "a special file"),
        (tarfile.FIFOTYPE, "a special file"),
    ],
)
def test_links_and_devices_in_a_tar(kind, what, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    write_tar(path, [tar_member("evil.jpg", b"", type=kind, linkname="/etc/passwd")])
    with pytest.raises(UserError, match=f"holds {what} 'evil.jpg'"):
        open_archive(path)


@pytest.mark.parametrize(("mode", "what"), [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a special file")])
def test_links_and_devices_in_a_zip(mode, what, tmp_path):
    info = zipfile.ZipInfo("evil.jpg")
    info.external_attr = (mode | 0o777) << 16
    write_zip(tmp_path / "a.zip", [(info, "/etc/passwd")])
    with pytest.raises(UserError, match=f"holds {what} 'evil.jpg'"):
        open_archive(tmp_path / "a.zip")


def test_bombs(tmp_path, monkeypatch):
    zeros = bytes(3 * 2**20)
    write_zip(tmp_path / "a.zip", [("zeros.jpg", zeros)])
    with pytest.raises(UserError, match=r"decompression bomb.*'zeros\.jpg'"):
        open_archive(tmp_path / "a.zip")
    write_tar(tmp_path / "a.tgz", [tar_member("zeros.jpg", zeros)])
    with pytest.raises(UserError, match=r"a\.tgz swells to more than 1,048,576 bytes"):
        open_archive(tmp_path / "a.tgz")
    monkeypatch.setattr(archive_types, "MAX_TOTAL_BYTES", 5000)
    with pytest.raises(UserError, match="decompression bomb"):
        open_archive(write(tmp_path / "b.zip", CONTENTS))
    monkeypatch.undo()
    monkeypatch.setattr(archive_types, "MAX_MEMBERS", 3)
    with pytest.raises(UserError, match="decompression bomb"):
        open_archive(write(tmp_path / "b.tar", CONTENTS))


def test_a_zip_that_understates_a_size_gives_no_more_than_it_states(tmp_path):
    path = tmp_path / "a.zip"
    content = b"0123456789" * 100
    write_zip(path, [("x.jpg", content)])
    data = path.read_bytes()
    stated = len(content).to_bytes(4, "little")
    assert data.count(stated) == 2  # in the local header and in the directory
    path.write_bytes(data.replace(stated, (10).to_bytes(4, "little")))
    with pytest.raises(DamagedFileError, match="is damaged"):
        open_archive(path).read("x.jpg")


def test_headers_of_a_tar_that_claim_a_terabyte(tmp_path):
    header = bytearray(tarfile.TarInfo("././@LongLink").tobuf(tarfile.GNU_FORMAT))
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    header[:] = info.tobuf(tarfile.GNU_FORMAT)
    for suffix, opener in ((".tar", open), (".tgz", gzip.open)):
        path = tmp_path / f"a{suffix}"
        with opener(path, "wb") as file:
            file.write(bytes(header) + bytes(2048))
        with pytest.raises(UserError, match="is damaged or was not copied to its end"):
            open_archive(path)


def test_twice_encrypted_and_rare(tmp_path):
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        if suffix == ".zip":
            with pytest.warns(UserWarning, match="Duplicate"):
                write_zip(path, [("x.jpg", b"1"), ("x.jpg", b"2")])
        else:
            write_tar(path, [tar_member("x.jpg", b"1"), tar_member("./x.jpg", b"2")])
        with pytest.raises(UserError, match=r"a file that is there twice '.*x\.jpg'"):
            open_archive(path)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.jpg", b"1")
    with pytest.raises(UserError, match="uses a rare compression; unpack it"):
        open_archive(tmp_path / "b.zip")
    data = bytearray(write(tmp_path / "c.zip", {"x.jpg": b"1"}).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of encryption
    (tmp_path / "c.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"an encrypted file 'x\.jpg'"):
        open_archive(tmp_path / "c.zip")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.9999))
def test_a_truncated_archive_is_never_taken_for_a_whole_one(archive, share):
    whole = archive.read_bytes()
    part = archive.with_name(f"part{next(NUMBERS)}{archive.suffix}")
    part.write_bytes(whole[: int(len(whole) * share)])
    if archive.suffix == ".tar":
        # Behind the last block of a file stand blocks of zeros; the first tells that it was the last.
        length = (-(-len(whole.rstrip(b"\0")) // tarfile.BLOCKSIZE) + 1) * tarfile.BLOCKSIZE
        if int(len(whole) * share) >= length:
            return
    with pytest.raises(UserError, match="is damaged or was not copied to its end"):
        open_archive(part)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_zip_or_tgz_gives_the_right_bytes_or_an_error(archive, data):
    whole = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    # A name of its own: indices are kept by name, time and size, and these files are written within one tick.
    broken = archive.with_name(f"broken{next(NUMBERS)}{archive.suffix}")
    broken.write_bytes(whole)
    try:
        files = open_archive(broken)
        for index, read in files.stream(files.paths()):
            path, content = files.paths()[index], read()
            if archive.suffix != ".tar" and path in CONTENTS:  # a tar has no checksums of contents
                assert content == CONTENTS[path]
    except (UserError, DamagedFileError):
        pass


def test_mutants_end_in_one_sentence(tmp_path):
    ends: dict[str, int] = {}
    for number, (suffix, content) in enumerate(mutants(seed=0, number=280)):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        try:
            files = open_archive(path)
            for _, read in files.stream(files.paths()):
                try:
                    assert len(read()) <= len(content) * archive_types.MAX_RATIO
                except DamagedFileError as error:
                    assert str(error).isprintable()
            assert all(files.describe(name).isprintable() for name in files.paths())
            end = "read"
        except UserError as error:
            end = "told"
            assert str(error).isprintable() and str(path) in str(error)
        ends[end] = ends.get(end, 0) + 1
    assert min(ends.values()) > 80  # else the mutants do not try anything


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"PK\3\4" + good_zip().replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\xaf")[4:], ".zip"),
        (extended_header(tarfile.XHDTYPE, b"11 path=abc\n") * 3000 + good_tar(), ".tar"),
        (extended_header(tarfile.XHDTYPE, b"14 size=1e400\n") + good_tar(), ".tar"),
        (extended_header(tarfile.XHDTYPE, b"11 size=-1\n") + good_tar(), ".tar"),
    ],
)
def test_what_libraries_stumble_on(content, suffix, tmp_path):
    """Versions of tomorrow, headers nested without end, sizes that are none."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged or was not copied to its end"):
        open_archive(path)


def test_any_bytes_are_no_archive(tmp_path):
    for number, suffix in enumerate((*SUFFIXES, ".tar.gz") * 3):
        path = tmp_path / f"a{number}{suffix}"
        path.write_bytes((b"", b"PK\3\4", RNG.bytes(5000))[number // 4])
        with pytest.raises(UserError, match="is damaged or was not copied to its end"):
            open_archive(path)


def test_a_folder_reads_as_an_archive_does(tmp_path):
    for name, content in CONTENTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "top" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "top" / "query" / "Thumbs.db").write_bytes(b"x")
    files = FolderFiles(tmp_path)
    assert files.paths() == sorted(CONTENTS)
    assert files.rooted("top").paths("query") == [f"query/{i:02d}.jpg" for i in range(8)]
    assert files.rooted("top").read("list.txt") == CONTENTS["top/list.txt"]
    assert pickle.loads(pickle.dumps(files)).paths() == files.paths()
    with pytest.raises(UserError, match=r"nothing\.txt is missing; copy"):
        files.require("nothing.txt")
    (tmp_path / "huge.jpg").touch()
    os.truncate(tmp_path / "huge.jpg", 2**27)
    with pytest.raises(DamagedFileError, match="is larger than 64 MB"):
        files.read("huge.jpg")


def test_limits_are_above_every_benchmark():
    # 500,000 distractors of Market-1501, some 3 GB of MSMT17, the one file of CUHK03 of less than 2 GB.
    assert archive_types.MAX_MEMBERS > 600_000 and archive_types.MAX_TOTAL_BYTES > 20e9
    assert tar_files._MAX_READ > 2**20
