"""Files of every kind that other toolkits write, good ones and bad ones."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.evaluation.feature_files import read_features

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((7, 5)).astype(np.float32)
PIDS, CAMIDS = np.array([1, 2, -1, 0, 5, 5, 9]), np.array([0, 1, 2, -1, 4, 5, 6])
NAMED = {"features": FEATURES, "pids": PIDS, "camids": CAMIDS}


def assert_read(path: Path, features=FEATURES, camids=CAMIDS, role="query"):
    got = read_features(path, role)
    np.testing.assert_array_equal(got.features, features)
    assert got.pids.tolist() == PIDS.tolist()
    assert got.camids.tolist() == list(camids)
    assert got.pids.dtype == got.camids.dtype == np.int64
    return got


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_is_mapped_and_holds_the_same(tmp_path, dtype, order):
    path = tmp_path / "q.npz"
    features = np.asarray(FEATURES, dtype, order=order)
    np.savez(path, features=features, pids=PIDS.astype(np.int32), camids=CAMIDS.astype(np.int16))
    assert isinstance(assert_read(path, features).features, np.memmap)


def test_compressed_npz_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "q.npz", **NAMED)
    assert not isinstance(assert_read(tmp_path / "q.npz").features, np.memmap)


def test_members_with_padding_in_their_local_header_are_found(tmp_path):
    # As zipalign writes them: an extra field in the local header that the list of contents lacks.
    np.savez(tmp_path / "plain.npz", **NAMED)
    with (
        zipfile.ZipFile(tmp_path / "plain.npz") as source,
        zipfile.ZipFile(tmp_path / "q.npz", "w") as target,
    ):
        for name in source.namelist():
            info = zipfile.ZipInfo(name)
            info.extra = b"\xfe\xca\x03\x00abc"
            target.writestr(info, source.read(name))
    assert_read(tmp_path / "q.npz")


def test_cameras_may_be_left_out(tmp_path):
    np.savez(tmp_path / "q.npz", features=FEATURES, pids=PIDS)
    assert_read(tmp_path / "q.npz", camids=[-1] * 7)


def test_a_runs_own_file_serves_as_query_and_as_gallery(tmp_path):
    other = FEATURES[::-1].copy()
    np.savez(
        tmp_path / "san.npz", query=FEATURES, query_pids=PIDS, query_camids=CAMIDS,
        gallery=other, gallery_pids=PIDS, gallery_camids=CAMIDS,
    )  # fmt: skip
    assert_read(tmp_path / "san.npz", role="query")
    assert_read(tmp_path / "san.npz", other, role="gallery")


@pytest.mark.parametrize("head", ["pid,camid", "pids,camids", "path,PID, CamId", "\ufeffpid,camid"])
def test_npy_with_a_csv_beside_it(tmp_path, head):
    np.save(tmp_path / "q.npy", FEATURES)
    lead = "x.jpg," if head.startswith("path") else ""
    lines = [head] + [f"{lead}{pid},{camid}" for pid, camid in zip(PIDS, CAMIDS, strict=True)]
    (tmp_path / "q.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert isinstance(assert_read(tmp_path / "q.npy").features, np.memmap)
    (tmp_path / "q.csv").write_text("pid\n" + "\n".join(map(str, PIDS)))
    assert_read(tmp_path / "q.npy", camids=[-1] * 7)


@pytest.mark.parametrize("kind", ["list", "fixed", "large"])
def test_parquet(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    if kind == "fixed":
        column = pa.FixedSizeListArray.from_arrays(pa.array(FEATURES.ravel()), 5)
    else:
        column = pa.array(list(FEATURES), (pa.list_ if kind == "list" else pa.large_list)(pa.float32()))
    table = pa.table({"name": ["x"] * 7, "features": column, "pids": PIDS, "camids": CAMIDS})
    parquet.write_table(table, tmp_path / "q.parquet", row_group_size=3)
    assert_read(tmp_path / "q.parquet")
    parquet.write_table(table.drop_columns(["camids"]), tmp_path / "q.parquet")
    assert_read(tmp_path / "q.parquet", camids=[-1] * 7)
    for broken, named in (
        (table.drop_columns(["pids"]), "no column 'pids', only name, features, camids"),
        (table.set_column(1, "features", pa.array([[1.0]] + [[1.0, 2.0]] * 6)), "one length"),
        # Seven lists of 2, 4 and 3 numbers: 21 in all, a multiple of 7.
        (table.set_column(1, "features", pa.array([[1.0] * 2, [1.0] * 4] + [[1.0] * 3] * 5)), "one length"),
        (table.set_column(1, "features", pa.array(range(7))), "lists of numbers"),
        (table.set_column(1, "features", pa.array([["a"]] * 7)), "real numbers"),
        (table.set_column(2, "pids", pa.array([1, None, 3, 4, 5, 6, 7])), "1 empty cells"),
        (table.set_column(2, "pids", pa.array(list("abcdefg"))), "whole numbers"),
        (table.slice(0, 0), "length|empty"),
    ):
        parquet.write_table(broken, tmp_path / "bad.parquet")
        refused(tmp_path / "bad.parquet", named)
    whole = (tmp_path / "q.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "bad.parquet", "not a valid .parquet file")


def test_parquet_without_pyarrow_is_one_sentence(tmp_path):
    (tmp_path / "q.parquet").write_bytes(b"")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from san_tf.evaluation.feature_files import read_features\n"
        f"read_features({str(tmp_path / 'q.parquet')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs pyarrow: pip install 'san-tf[parquet]'" in done.stderr.splitlines()[-1]


def refused(path: Path, named: str, role: str = "query") -> None:
    with pytest.raises(UserError, match=named) as error:
        read_features(path, role)
    assert path.stem in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 330


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["features", "pids", "camids"])
def test_objects_are_never_unpickled(tmp_path, name, compressed):
    objects = np.array([Bomb()] * 7, dtype=object)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "q.npz", **{**NAMED, name: objects})
    refused(tmp_path / "q.npz", "Python objects")


def test_pickles_in_disguise_are_refused(tmp_path):
    for suffix in (".npz", ".npy", ".parquet"):
        (tmp_path / f"q{suffix}").write_bytes(pickle.dumps(Bomb()))
        (tmp_path / "q.csv").write_text("pid\n1\n")
        refused(tmp_path / f"q{suffix}", "is not a valid")
    np.save(tmp_path / "q.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    refused(tmp_path / "q.npy", "Python objects")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"features": FEATURES[0]}, r"shape \(5,\); give one row per image"),
        ({"features": FEATURES[None]}, r"shape \(1, 7, 5\)"),
        ({"features": FEATURES.astype(str)}, "real numbers"),
        ({"features": FEATURES.astype(complex)}, "complex128; give real numbers"),
        ({"features": FEATURES[:0], "pids": PIDS[:0], "camids": CAMIDS[:0]}, "features are empty"),
        ({"features": FEATURES[:, :0]}, "no dimensions"),
        ({"pids": PIDS[:5]}, r"pids of .* have shape \(5,\), but there are 7 images"),
        ({"camids": CAMIDS[:, None]}, r"camids of .* have shape \(7, 1\)"),
        ({"pids": PIDS + 0.5}, "float64, not whole numbers"),
        ({"camids": CAMIDS.astype(str)}, "not whole numbers"),
        ({"pids": PIDS > 2}, "bool, not whole numbers"),
        ({"pids": np.array([1, 2, 3, -2, 5, 6, 7])}, r"hold -2 \(row 3\)"),
        ({"camids": np.array([1, 2, 3, 4, 5, 6, -9])}, r"hold -9 \(row 6\)"),
        ({"pids": np.full(7, 2**64 - 2, np.uint64)}, "hold 18446744073709551614, which is too large"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_named(tmp_path, change, named):
    np.savez(tmp_path / "q.npz", **{**NAMED, **change})
    refused(tmp_path / "q.npz", named)


def test_missing_arrays_are_named(tmp_path):
    np.savez(tmp_path / "q.npz", feats=FEATURES, pids=PIDS)
    refused(tmp_path / "q.npz", "no array 'features', only feats, pids")
    np.savez(tmp_path / "q.npz", features=FEATURES, labels=PIDS)
    refused(tmp_path / "q.npz", "no array 'pids', only features, labels")
    np.savez(tmp_path / "q.npz", query=FEATURES)
    refused(tmp_path / "q.npz", "no array 'query_pids'")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_anywhere_is_refused(tmp_path, save):
    save(tmp_path / "whole.npz", **NAMED)
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        (tmp_path / "q.npz").write_bytes(whole[:length])
        refused(tmp_path / "q.npz", "not a valid .npz file")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_with_a_wrong_byte_reads_or_is_refused(tmp_path, save):
    save(tmp_path / "whole.npz", **NAMED)
    whole = bytearray((tmp_path / "whole.npz").read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 300):
        broken = whole.copy()
        broken[place] ^= int(rng.integers(1, 256))
        (tmp_path / "q.npz").write_bytes(broken)
        try:
            read_features(tmp_path / "q.npz", "query")
        except UserError:
            continue


def test_a_header_that_promises_more_than_there_is(tmp_path):
    np.save(tmp_path / "q.npy", FEATURES)
    whole = (tmp_path / "q.npy").read_bytes()
    (tmp_path / "q.csv").write_text("pid\n" + "\n".join(map(str, PIDS)))
    (tmp_path / "q.npy").write_bytes(whole.replace(b"(7, 5)", b"(9, 9)"))
    refused(tmp_path / "q.npy", "ends too early")
    (tmp_path / "q.npy").write_bytes(whole[:-1])
    refused(tmp_path / "q.npy", "ends too early")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no column `pid`"),
        ("id,camid\n1,2\n", "no column `pid`"),
        ("pid,camid\n1,2\nx,3\n", "line 3: .*'x'"),
        ("pid,camid\n1,2\n2\n", "line 3"),
        ("pid,camid\n1.0,2\n", "line 2"),
        ("pid,camid\n1,2\n", r"shape \(1,\), but there are 7 images"),
    ],
)
def test_csv_files_that_do_not_fit(tmp_path, text, named):
    np.save(tmp_path / "q.npy", FEATURES)
    (tmp_path / "q.csv").write_text(text)
    refused(tmp_path / "q.npy", named)


def test_missing_files_and_unknown_kinds(tmp_path):
    refused(tmp_path / "q.npz", "no file")
    refused(tmp_path / "q.pkl", "one of: .npz, .npy, .parquet")
    np.save(tmp_path / "q.npy", FEATURES)
    refused(tmp_path / "q.npy", "q.csv")
    (tmp_path / "d.npz").mkdir()
    refused(tmp_path / "d.npz", "no file")


def _sources(folder: Path) -> list[tuple[str, bytes, bytes]]:
    """Sound files: suffix, content, and the CSV file beside."""
    features, pids = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32), np.arange(7)
    csv = b"pid,camid\n" + b"".join(b"%d,%d\n" % (pid, pid % 2) for pid in range(7))
    files = []
    for array in (features, np.asfortranarray(features), features.astype(">f8")):
        np.save(folder / "sound.npy", array)
        files.append((".npy", (folder / "sound.npy").read_bytes(), csv))
    for save in (np.savez, np.savez_compressed):
        save(folder / "sound.npz", features=features, pids=pids, camids=pids % 2)
        files.append((".npz", (folder / "sound.npz").read_bytes(), b""))
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        return files
    table = pa.table({"features": features.tolist(), "pids": pids, "camids": pids % 2})
    parquet.write_table(table, folder / "sound.parquet")
    return [*files, (".parquet", (folder / "sound.parquet").read_bytes(), b"")]


def test_whatever_happens_to_a_file_ends_in_one_sentence(tmp_path):
    """Some of the changes that a disk, a transfer or a stranger makes; most stand in the headers."""
    rng, read = np.random.default_rng(0), 0
    sources = _sources(tmp_path)
    for number in range(600):
        suffix, content, csv = sources[number % len(sources)]
        harmed = bytearray(csv if csv and number % 4 == 0 else content)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(min(len(harmed), 128 if suffix == ".npy" else len(harmed)) or 1))
            kind = rng.integers(5)
            if kind == 0:
                harmed[place : place + 1] = bytes([rng.integers(256)])
            elif kind == 1:
                harmed[place : place + 1] = bytes(
                    rng.choice(list(b"0123456789-(),'{}[]:<>|OVSM* \n"), 1).tolist()
                )
            elif kind == 2:
                del harmed[place : place + int(rng.integers(1, 9))]
            elif kind == 3:
                harmed[place:place] = rng.bytes(4)
            else:
                harmed[place : place + 4] = b"\xff\xff\xff\x7f"
        path = tmp_path / f"harmed{suffix}"
        of_csv = bool(csv) and number % 4 == 0
        path.write_bytes(content if of_csv else bytes(harmed))
        path.with_suffix(".csv").write_bytes(bytes(harmed) if of_csv else csv)
        try:
            found = read_features(path)
            assert len(found.features) == len(found.pids) == len(found.camids)
            read += 1
        except UserError as error:
            assert str(path.with_suffix("")) in str(error) and "\n" not in str(error)
    assert 5 < read < 400


@pytest.mark.parametrize("ids", [[np.inf, 1], [1e300, 1], [np.nan, 1]])
def test_ids_that_no_whole_number_holds(tmp_path, ids):
    np.savez(tmp_path / "f.npz", features=np.ones((2, 3), np.float32), pids=np.array(ids))
    with pytest.raises(UserError, match=r"too large for int64|not whole numbers"):
        read_features(tmp_path / "f.npz")
