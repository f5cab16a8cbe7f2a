"""Photographs to a table: the export's own embeddings, damaged files left out, resumed where it stopped."""

from __future__ import annotations

import csv
import io
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from san_tf.__main__ import main
from san_tf.archives.files import DamagedFileError
from san_tf.embedding import bulk
from san_tf.embedding.bulk import embed_photographs
from san_tf.embedding.exported_encoder import ExportedEncoder
from san_tf.embedding.feature_table import FeatureTable
from san_tf.embedding.sources import Photograph, photographs
from san_tf.errors import UserError
from san_tf.evaluation.feature_files import read_features

parquet = pytest.importorskip("pyarrow.parquet")


LEFT_OUT = {
    "07.jpg": "is empty",
    "11.jpg": "is not an image in a supported format, or is damaged",
    "17.jpg": "is damaged: it cannot be decoded",
}


def _run(*argv: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in argv])
    return int(left.value.code or 0)


def test_the_command_writes_what_the_export_answers(model, crops, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    assert _run("embed", crops, "--model", model, "--out", out, "--batch", "4") == 0
    table = parquet.read_table(out)
    names = [f"{number:02}.jpg" for number in range(25) if f"{number:02}.jpg" not in LEFT_OUT]
    assert [Path(path).name for path in table["path"].to_pylist()] == names
    served = tf.saved_model.load(str(model / "2")).signatures["serving_bytes"]
    wanted = np.concatenate(
        [
            served(image_bytes=tf.constant([(crops / name).read_bytes()]))["embedding"].numpy()
            for name in names
        ]
    )
    found = np.array(table["features"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert table.schema.field("features").type.list_size == 6
    with (tmp_path / "features.left_out.csv").open() as file:
        listed = {Path(row["path"]).name: row["problem"] for row in csv.DictReader(file)}
    assert listed == LEFT_OUT
    said = capsys.readouterr().out.replace("\n", " ")
    assert "Left out: 3 photographs (is empty: 1, is " in said
    assert (
        "3 photographs could not be used" in said
        and "embeddings of 22 photographs" in said
        and "6 numbers each" in said
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.left_out.csv", "features.parquet"]


def test_a_table_with_identities_can_be_evaluated(model, crops, tmp_path, capsys):
    rows = [f"{crops}/{number:02}.jpg,{number % 3},{number % 2},t{number}" for number in range(5)]
    (tmp_path / "list.csv").write_text("path,pid,camid,time\n" + "\n".join(rows))
    out = tmp_path / "features.parquet"
    assert _run("embed", tmp_path / "list.csv", "--model", model / "1", "--out", out) == 0
    said = capsys.readouterr().out
    assert "embeddings of 5 photographs, 3 identities, 2 cameras\nLeft out: nothing.\n" in said
    features = read_features(out)
    assert features.features.shape == (5, 6)
    assert features.pids.tolist() == [0, 1, 2, 0, 1] and features.camids.tolist() == [0, 1, 0, 1, 0]
    assert parquet.read_table(out)["time"].to_pylist() == [f"t{number}" for number in range(5)]


class _Counting:
    """An encoder that embeds a file as its length, notes how many it saw, and breaks off after some."""

    def __init__(self, until: int | None = None) -> None:
        self.seen, self.until = 0, until

    def embed_each(self, files):
        if self.until is not None and self.seen >= self.until:
            raise KeyboardInterrupt
        self.seen += len(files)
        return [np.array([len(content), 1], np.float32) for content in files]


def _table(path: Path, model: str = "a") -> FeatureTable:
    return FeatureTable(path, {"model": model})


def test_an_interrupted_run_goes_on(crops, tmp_path):
    out = tmp_path / "f.parquet"
    undisturbed = tmp_path / "undisturbed.parquet"
    embed_photographs(photographs([crops]), _Counting(), _table(undisturbed), 2, part_size=5)
    # Parts of five files: two are done when the third breaks off (7.jpg and 11.jpg are not pictures).
    with pytest.raises(KeyboardInterrupt):
        embed_photographs(photographs([crops]), _Counting(11), _table(out), 2, part_size=5)
    assert not out.exists() and len(list((tmp_path / "f.parquet.parts").iterdir())) == 2
    encoder = _Counting()
    progress = embed_photographs(photographs([crops]), encoder, _table(out), 2, part_size=5)
    assert (progress.done, progress.resumed, encoder.seen) == (25, 10, 14)
    assert {Path(name).name for name in progress.left_out} == {"07.jpg", "11.jpg"}
    assert parquet.read_table(out).equals(parquet.read_table(undisturbed))
    assert not (tmp_path / "f.parquet.parts").exists()


def test_what_was_mended_since_is_embedded_anew(crops, tmp_path):
    """Labels of a table, and files that are replaced or appear, while a run is interrupted."""
    names = [f"{number:02}.jpg" for number in range(25) if number not in (7, 11)]
    folder = Path(shutil.copytree(crops, tmp_path / "crops"))
    (folder / "03.jpg").unlink()
    listed, out = tmp_path / "list.csv", tmp_path / "f.parquet"
    write = lambda first: listed.write_text(  # noqa: E731
        "path,pid\n" + "".join(f"crops/{name},{first + n}\n" for n, name in enumerate(names))
    )
    write(0)
    with pytest.raises(KeyboardInterrupt):
        embed_photographs(photographs([listed]), _Counting(19), _table(out), 5, part_size=5)
    shutil.copy(crops / "03.jpg", folder)
    with pytest.raises(KeyboardInterrupt):  # the first part alone is made anew
        embed_photographs(photographs([listed]), _Counting(5), _table(out), 5, part_size=5)
    write(1000)
    content = (folder / "05.jpg").read_bytes()
    (folder / "05.jpg").write_bytes(content + bytes(10))
    progress = embed_photographs(photographs([listed]), _Counting(), _table(out), 5, part_size=5)
    table = parquet.read_table(out)
    assert table["pids"].to_pylist() == [1000 + n for n in range(len(names))]
    assert [row[0] for row in table["features"].to_pylist()] == [
        (folder / name).stat().st_size for name in names
    ]
    assert progress.resumed == 0 and not progress.left_out


def test_a_run_that_failed_does_not_stand_in_its_own_way(tmp_path, crops):
    listed, out = tmp_path / "list.csv", tmp_path / "f.parquet"
    listed.write_text("path\ndrive/00.jpg\ndrive/01.jpg\n")
    with pytest.raises(UserError, match=r"None of 2 photographs .* is missing"):
        embed_photographs(photographs([listed]), _Counting(), _table(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.csv"]
    shutil.copytree(crops, tmp_path / "drive")
    assert embed_photographs(photographs([listed]), _Counting(), _table(out)).embedded == 2


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path):
    """The same names, sizes and times: a drive that answered with an error answers now."""
    out, broken = tmp_path / "f.parquet", [True]

    def read() -> bytes:
        if broken[0]:
            raise DamagedFileError("cannot be read (Input/output error)")
        return _png(1, 1)

    source = [Photograph("a.png", lambda: _png(1, 1), {}), Photograph("b.png", read, {})]
    endless = itertools.chain(source, (Photograph(f"{n}.png", lambda: _png(1, 1), {}) for n in range(9)))
    with pytest.raises(KeyboardInterrupt):
        embed_photographs(endless, _Counting(1), _table(out), 1, part_size=2)
    broken[0] = False
    progress = embed_photographs(source, _Counting(), _table(out), 1, part_size=2)
    assert (progress.embedded, progress.resumed, progress.left_out) == (2, 0, {})


def test_names_that_are_not_utf8_and_files_of_several_pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(_png(3, 2))
    (folder / os.fsdecode(b"b\xff.png")).write_bytes(_png(3, 2))
    pages = [Image.new("RGB", (4, 6), color) for color in ("red", "blue")]
    for kind in ("gif", "tiff", "webp"):
        pages[0].save(folder / f"c.{kind}", save_all=True, append_images=pages[1:])
    (folder / "d.bmp").write_bytes(b"BM" + bytes(60))
    decoded: list[np.ndarray] = []

    class Looking(_Counting):
        def embed_each(self, files):
            decoded.extend(np.asarray(Image.open(io.BytesIO(content))) for content in files)
            return super().embed_each(files)

    out = tmp_path / "f.parquet"
    progress = embed_photographs(photographs([folder]), Looking(), _table(out))
    assert progress.embedded == 4 and progress.done == 6
    problems = {Path(name).name: problem for name, problem in progress.left_out.items()}
    assert problems.pop("d.bmp").startswith("is ")
    assert problems.pop("b\\udcff.png") == "has a name that is not UTF-8; rename it"
    further = "are further pictures of a file, whose first was taken"
    assert problems == {f"c.{kind} (further pictures)": further for kind in ("gif", "tiff", "webp")}
    for picture in decoded[1:]:
        assert picture.shape == (6, 4, 3) and (abs(picture.astype(int) - (255, 0, 0)) < 3).all()
    assert len(parquet.read_table(out)) == 4
    with (tmp_path / "f.left_out.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


def _png(height: int, width: int) -> bytes:
    stored = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stored, "PNG")
    return stored.getvalue()


@pytest.mark.parametrize("change", ["model", "photographs", "cut", "flipped"])
def test_parts_of_something_else_are_not_used(crops, tmp_path, change):
    out = tmp_path / "f.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed_photographs(photographs([crops]), _Counting(11), _table(out), 5, part_size=5)
    parts = sorted(out.with_name("f.parquet.parts").iterdir())
    content = bytearray(parts[0].read_bytes())
    if change == "flipped":
        content[100] ^= 1  # in the first page of data
    if change == "cut":
        content = content[:-20]
    parts[0].write_bytes(content)
    source = photographs([crops])
    source = itertools.islice(source, 1, None) if change == "photographs" else source
    table = _table(out, "b" if change == "model" else "a")
    progress = embed_photographs(source, _Counting(), table, 5, part_size=5)
    assert progress.resumed == (5 * (len(parts) - 1) if change in ("cut", "flipped") else 0)
    assert len(parts) >= 2


def test_memory_holds_some_batches_of_files(tmp_path, monkeypatch):
    waiting, most = 0, 0

    def read() -> bytes:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return b"\xff\xd8"

    class Encoder(_Counting):
        def embed_each(self, files):
            nonlocal waiting
            waiting -= len(files)
            return super().embed_each(files)

    monkeypatch.setattr(bulk, "upright", lambda content: content)
    source = (Photograph(f"{number}", read, {}) for number in range(3000))
    progress = embed_photographs(source, Encoder(), _table(tmp_path / "f.parquet"), 10, part_size=1000)
    assert progress.done == 3000 and most <= 3 * 10


def test_damaged_files_alone_are_left_out_too(model, crops):
    # A batch of which nothing was left failed in the network.
    damaged, fine = (crops / "17.jpg").read_bytes(), (crops / "01.jpg").read_bytes()
    encoder = ExportedEncoder(model)
    assert encoder.embed_each([damaged]) == encoder.embed_each([damaged] * 2)[:1] == [None]
    answer = encoder.embed_each([damaged, fine])
    assert answer[0] is None and answer[1].shape == (encoder.size,)


def test_nothing_to_embed(tmp_path, crops):
    with pytest.raises(UserError, match="None of 0 photographs could be embedded"):
        embed_photographs([], _Counting(), _table(tmp_path / "f.parquet"))
    bad = photographs([crops / "07.jpg"])
    with pytest.raises(UserError, match=r"None of 1 photographs .*; the first, .*07.jpg, is empty"):
        embed_photographs(bad, _Counting(), _table(tmp_path / "f.parquet"))
    assert not (tmp_path / "f.parquet").exists()


def test_tables_that_disagree(tmp_path, crops):
    (tmp_path / "list.csv").write_text(f"path,camid\n{crops}/00.jpg,1\n")
    (tmp_path / "odd.csv").write_text(f"path,camid\n{crops}/00.jpg,one\n")
    for size in (1, 9):  # in parts of their own, and in one
        with pytest.raises(UserError, match="columns"):
            source = photographs([tmp_path / "list.csv", crops / "01.jpg"])
            embed_photographs(source, _Counting(), _table(tmp_path / f"{size}.parquet"), part_size=size)
    with pytest.raises(UserError, match=r"the camid is 'one'; identities and cameras are whole numbers"):
        embed_photographs(photographs([tmp_path / "odd.csv"]), _Counting(), _table(tmp_path / "f.parquet"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--out": "features.npz"}, "features.npz is not the name of a Parquet file"),
        ({"--out": "there.parquet"}, "there.parquet exists already; name another file, or add --overwrite"),
        ({"--model": "nowhere"}, "nowhere is not a folder"),
        ({"--batch": "0"}, "--batch is 0; give a number from 1"),
        ({"--batch": "x"}, "--batch: invalid int value"),
        ({"images": "nowhere"}, "nowhere does not exist"),
        ({"--runner_options": "x=1"}, "--runner_options goes with --runner; add it"),
        ({"--tracks": "a.txt", "--runner": "DirectRunner"}, "Tracks of videos are embedded on this machine"),
        ({"--modell": "x"}, "did you mean --model"),
    ],
)
def test_wrong_command_lines(model, crops, tmp_path, monkeypatch, capsys, change, told):
    monkeypatch.chdir(tmp_path)
    Path("there.parquet").touch()
    flags = {"--model": str(model), "--out": "f.parquet", **change}
    images = flags.pop("images", str(crops))
    assert _run("embed", images, *itertools.chain(*flags.items())) == 2
    error = capsys.readouterr().err
    assert told in error.replace("\n", " ") and error.count("Error:") == 1 and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.parquet"]


def test_a_damaged_or_foreign_model(model, tmp_path):
    for harm, told in {
        "assets.extra/san_tf.json": "is not an export of this package",
        "variables/variables.index": "is damaged: variables/variables.index is missing",
        "saved_model.pb": "holds no version|is not an export",
    }.items():
        folder = shutil.copytree(model / "1", tmp_path / harm.replace("/", "_") / "1")
        (folder / harm).unlink()
        with pytest.raises(UserError, match=told):
            ExportedEncoder(folder)


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        ([], 0, "embed"),
        (["--help"], 0, "usage: san-tf COMMAND"),
        (["embd"], 2, "There is no command embd; did you mean embed?"),
        (["xyz"], 2, "choose from embed, adapt, evaluate"),
    ],
)
def test_the_commands(capsys, argv, code, told):
    assert _run(*argv) == code
    captured = capsys.readouterr()
    assert told in captured.out + captured.err
