"""`san-tf gallery` and `san-tf search`: photographs in, ranked lists out, mistakes in one sentence."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_tf.__main__ import main
from san_tf.evaluation.calibration import Calibration
from san_tf.retrieval.entries import Entry, Filter
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.opening import open_gallery

try:
    import pyarrow
except ImportError:  # not installed, or one that does not work with this NumPy
    pyarrow = None
needs_parquet = pytest.mark.skipif(pyarrow is None, reason="pyarrow is not there, or not for this NumPy")


def _run(*argv) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in argv])
    return int(left.value.code or 0)


def _png(width: int, height: int) -> bytes:
    """A PNG file of which only the header is there."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def _jpeg(color: np.ndarray, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.clip(color + rng.normal(0, 8, (40, 20, 3)), 0, 255).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=95)
    return target.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Versions 1 and 2 of an encoder, and one of another size, `wide/1`."""
    import keras

    from san_tf.serving.encoder_export import export_encoder

    folder = tmp_path_factory.mktemp("models")
    for name, version, size in (("market", 1, 8), ("market", 2, 8), ("wide", 1, 9)):
        keras.utils.set_random_seed(version)
        image = keras.Input((32, 16, 3))
        x = keras.layers.Conv2D(size, 3, strides=2)(image)
        embedding = keras.layers.GlobalAveragePooling2D()(x)
        encoder = keras.Model(image, {"embedding": embedding})
        export_encoder(encoder, folder / name, (32, 16), version=version, warmup_batches=())
    return folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """Four people in colours of their own, three cameras each, and a query of each beside them."""
    folder = tmp_path_factory.mktemp("crops")
    colors = np.random.default_rng(0).uniform(30, 220, (4, 3))
    for name, cameras in (("gallery", (1, 2, 3)), ("query", (4,))):
        (folder / name).mkdir()
        for pid in range(4):
            for camera in cameras:
                file = folder / name / f"{pid:04}_c{camera}s1_{camera:06}_00.jpg"
                file.write_bytes(_jpeg(colors[pid], 10 * pid + camera))
    return folder


@pytest.fixture(scope="module")
def people(model, crops, tmp_path_factory) -> Path:
    """A gallery of these."""
    path = tmp_path_factory.mktemp("galleries") / "people.gallery"
    assert _run("gallery", "add", path, "--images", crops / "gallery", "--model", model / "market" / "1") == 0
    return path


def test_photographs_are_found_again(people, crops, tmp_path, capsys):
    queries = sorted((crops / "query").iterdir())
    figure = tmp_path / "lists.png"
    flags = ["--query", *queries, "--top", "3", "--json", "--figure", figure]
    assert _run("search", "--gallery", people, *flags) == 0
    answers = json.loads(capsys.readouterr().out)
    for pid, answer in enumerate(answers):
        assert answer["query"] == str(queries[pid])
        assert [hit["pid"] for hit in answer["hits"]] == [pid] * 3
        assert sorted(hit["camera"] for hit in answer["hits"]) == [1, 2, 3]
        assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
        scores = [hit["score"] for hit in answer["hits"]]
        assert scores == sorted(scores, reverse=True) and scores[0] > 0.99
        assert (crops / "gallery" / answer["hits"][0]["image"]).is_file()
    assert Image.open(figure).width > 300


def test_a_calibration_tells_when_nobody_is_here(people, tmp_path, capsys):
    rng = np.random.default_rng(3)
    query, black = tmp_path / "query.png", tmp_path / "black.png"
    blocks = rng.integers(0, 256, (8, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(blocks).save(query)
    Image.fromarray(np.zeros((128, 64, 3), np.uint8)).save(black)
    asked = ("search", "--gallery", people, "--query", query, black, "--top", "3")
    assert _run(*asked, "--json") == 0
    known, blank = json.loads(capsys.readouterr().out)
    assert known["nobody_here"] is None and known["quality"] == {"score": 1.0, "problem": ""}
    assert "probability" not in known["hits"][0]
    assert blank["nobody_here"] is True and blank["quality"] == {"score": 0.0, "problem": "is nearly blank"}
    best = known["hits"][0]["score"]
    for intercept, nobody in ((9.0, False), (-1.0, True)):
        Calibration("platt", "cosine", True, intercept=intercept, slope=-3.0).save(tmp_path / "c.json")
        assert _run(*asked, "--json", "--calibration", tmp_path / "c.json") == 0
        answer = json.loads(capsys.readouterr().out)[0]
        # Twelve entries: one of them shows the person, at equal odds.
        odds = np.exp(intercept - 3.0 * (1 - best)) / 11
        assert answer["hits"][0]["probability"] == pytest.approx(odds / (1 + odds), rel=1e-4)
        assert answer["nobody_here"] is nobody
        assert _run(*asked, "--calibration", tmp_path / "c.json") == 0
        first, second = [line for line in capsys.readouterr().out.splitlines() if "3 found" in line]
        assert ("nobody here" in first) is nobody and "with a probability of" in first
        assert "nobody here: the query is nearly blank" in second
    prior = ("--calibration", tmp_path / "c.json", "--prior")
    assert _run(*asked, "--json", *prior, "0.9") == 0
    odds = np.exp(-1.0 - 3.0 * (1 - best)) * 9
    answer = json.loads(capsys.readouterr().out)[0]
    assert answer["hits"][0]["probability"] == pytest.approx(odds / (1 + odds), rel=1e-4)
    assert _run(*asked, *prior, "2") == 2
    assert "prior is 2.0" in capsys.readouterr().err
    assert _run(*asked, "--calibration", tmp_path / "none.json") == 2


def test_the_table_and_the_filters(people, crops, capsys):
    query = crops / "query" / "0002_c4s1_000004_00.jpg"
    flags = ["--query", query, "--cameras", "1", "2", "--excluded_cameras", "2"]
    assert _run("search", "--gallery", people, *flags) == 0
    said = capsys.readouterr().out
    assert "4 found" in said and "0002_c1s1_000001_00.jpg" in said and "_c2" not in said
    assert _run("search", "--gallery", people, "--query", query, "--since", "2026-01-01") == 0
    assert "0 found" in capsys.readouterr().out  # no time is known


def test_reranking_is_that_of_the_evaluation(people, crops, model, capsys):
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.evaluation.reranking import rerank

    query = crops / "query" / "0001_c4s1_000004_00.jpg"
    flags = ["--query", query, "--top", "12", "--rerank", "12", "--json"]
    assert _run("search", "--gallery", people, *flags) == 0
    found = [hit["key"] for hit in json.loads(capsys.readouterr().out)[0]["hits"]]
    embedding = ExportedEncoder(model / "market" / "1").embed([query.read_bytes()])
    with open_gallery(people) as gallery:
        keys = [hit.entry.key for hit in gallery.search(embedding, 12)[0]]
        distances = rerank(embedding, gallery.embeddings(keys), metric="cosine")[0]
    assert found == [keys[place] for place in np.argsort(distances, kind="stable")]


def test_an_interrupted_addition_goes_on(model, crops, tmp_path, monkeypatch, capsys):
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.retrieval import adding

    monkeypatch.setattr(adding, "PART_SIZE", 5)
    embed, seen = ExportedEncoder.embed_each, []

    def breaking(self, files):
        if sum(seen) >= 5 and len(seen) < 3:
            seen.append(0)
            raise KeyboardInterrupt
        seen.append(len(files))
        return embed(self, files)

    monkeypatch.setattr(ExportedEncoder, "embed_each", breaking)
    command = ["gallery", "add", tmp_path / "g", "--images", crops / "gallery", "--model", model / "market"]
    assert _run(*command) == 130
    with open_gallery(tmp_path / "g") as gallery:
        assert len(gallery) == 5 and gallery.info.model.endswith("market/2")
    seen[:] = [0, 0, 0]
    assert _run(*command) == 0
    told = "7 added; 5 were in it already and were skipped (--replace adds them again); 12 entries now"
    assert sum(seen) == 7 and told in capsys.readouterr().out
    assert _run(*command) == 0
    assert "0 added; 12 were in it already" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_a_query_that_is_not_a_file_neither_hangs_nor_fills_the_memory(tmp_path, capsys, kind):
    query = tmp_path / "query.jpg"
    if kind == "pipe":
        os.mkfifo(query)
    elif kind == "link":
        query.symlink_to("/dev/zero")
    query = "/dev/zero" if kind == "device" else query
    assert _run("search", "--gallery", tmp_path / "g", "--query", query) == 2
    assert "is a pipe or a device, not a file; name an image file" in capsys.readouterr().err


def test_a_photograph_that_was_written_over_is_taken_anew(model, crops, tmp_path, capsys):
    images = shutil.copytree(crops / "gallery", tmp_path / "images")
    first, second, *_ = sorted(images.iterdir())
    command = ["gallery", "add", tmp_path / "g", "--images", images, "--model", model / "market"]
    assert _run(*command) == 0
    with open_gallery(tmp_path / "g") as gallery:
        before = gallery.embeddings([first.name, second.name])
    first.write_bytes(second.read_bytes())
    second.touch()  # the same bytes
    capsys.readouterr()
    assert _run(*command, "--tags", "door") == 0
    told = (
        "1 added; 11 were in it already and were skipped (--replace adds them again); 1 of them had changed"
    )
    assert told in capsys.readouterr().out
    with open_gallery(tmp_path / "g") as gallery:
        np.testing.assert_allclose(gallery.embeddings([first.name, second.name]), before[[1, 1]], atol=1e-5)
        assert [entry.key for entry in gallery.entries(Filter(tags=("door",)))] == [first.name]
    assert _run(*command, "--tags", "door", "--replace") == 0
    with open_gallery(tmp_path / "g") as gallery:
        assert len(gallery) == 12 and len(gallery.entries(Filter(tags=("door",)))) == 12


def test_a_first_try_without_a_usable_picture_binds_nobody(model, crops, tmp_path, capsys):
    phone = tmp_path / "phone"
    (phone / "inner").mkdir(parents=True)
    (phone / "a.heicx").write_bytes(b"x")
    command = ["gallery", "add", tmp_path / "g", "--images"]
    assert _run(*command, phone, "--model", model / "wide") == 2
    assert "There are no photographs to add; name" in (told := capsys.readouterr().err)
    assert "Left out: 1 others (.heicx: 1)." in told and not (tmp_path / "g").exists()
    (phone / "inner" / "b.jpg").write_bytes(b"a shopping list")
    assert _run(*command, phone, "--model", model / "wide") == 2
    told = capsys.readouterr()
    assert "1 photographs (is not an image" in told.out and "1 others (.heicx: 1)" in told.out
    assert "None of 1 photographs could be embedded" in told.err and not (tmp_path / "g").exists()
    listed = (tmp_path / "g.left_out.csv").read_text()
    assert f"{phone / 'a.heicx'},is not read: .heicx" in listed and str(phone / "inner" / "b.jpg") in listed
    # One that was left empty takes another encoder, and another folder.
    open_gallery(tmp_path / "g", create=GalleryInfo(9, "wide", "x", str(phone))).close()
    assert _run(*command, crops / "gallery", "--model", model / "market") == 0
    assert _run(*command, crops / "gallery", "--model", model / "wide") == 2
    assert "holds embeddings of 8 numbers" in capsys.readouterr().err
    assert not (tmp_path / "g.left_out.csv").exists()
    assert _run(*command, phone, crops / "query", "--model", model / "market") == 0
    assert "a.heicx" in (tmp_path / "g.left_out.csv").read_text()
    with open_gallery(tmp_path / "g") as gallery:
        assert [name for name, _ in gallery.info.folders] == ["query"]


def test_a_pattern_that_reads_nothing_is_warned_of(model, crops, tmp_path, capsys):
    (tmp_path / "odd").mkdir()
    shutil.copy(sorted((crops / "query").iterdir())[0], tmp_path / "odd" / "holiday.jpg")
    command = ["gallery", "add", tmp_path / "g", "--images", tmp_path / "odd", "--model", model / "market"]
    for flags, told in (
        ([], "Warning: no camera was read from 1 names, such as holiday.jpg; give another --camera_pattern"),
        (
            ["--camera_pattern", "(?P<pid>x)|(?P<time>\\d)"],
            "Warning: no identity and no time was read from 1",
        ),
        (["--camera_pattern", "(?P<camera>hol)"], None),
    ):
        assert _run(*command, "--replace", *flags) == 0
        error = capsys.readouterr().err
        assert (told in error) if told else "Warning" not in error


def test_bad_photographs_are_left_out_and_listed(model, crops, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    good = (crops / "query" / "0001_c4s1_000004_00.jpg").read_bytes()
    files = {
        "cut.jpg": good[: len(good) // 2], "text.jpg": b"a shopping list", "empty.png": b"",
        "huge.png": _png(20_000, 20_000), "odd\nname.jpg": good, "fine.jpg": good,
    }  # fmt: skip
    for name, content in files.items():
        (images / name).write_bytes(content)
    Image.new("RGB", (1, 1)).save(images / "one_pixel.png")
    command = ["gallery", "add", tmp_path / "g", "--images", images, "--model", model / "market"]
    assert _run(*command, "--camera_pattern", "(?P<pid>\\d+)x(?P<time>\\d+)", "--tags", "new") == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "5 photographs could not be used" in said and "2 added" in said
    listed = (tmp_path / "g.left_out.csv").read_text()
    is_text = 'text.jpg,"is not an image'
    for told in ("cut.jpg,is damaged", is_text, "empty.png,is empty", "20000 x 20000", "odd"):
        assert told in listed
    with open_gallery(tmp_path / "g") as gallery:
        assert [entry.key for entry in gallery.entries()] == ["fine.jpg", "one_pixel.png"]
        assert gallery.tags() == ["new"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "is empty"),
        (b"a shopping list", "is not an image in a supported format"),
        ("cut", "is damaged: it cannot be decoded"),
        (_png(20_000, 20_000), "has 20000 x 20000 pixels, more than 50 million"),
    ],
)
def test_queries_that_are_no_photographs(people, crops, tmp_path, capsys, content, told):
    if content == "cut":
        content = (crops / "query" / "0001_c4s1_000004_00.jpg").read_bytes()[:500]
    if content is not None:
        (tmp_path / "query.jpg").write_bytes(content)
    assert _run("search", "--gallery", people, "--query", tmp_path / "query.jpg") == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: The query ") and told in error and error.count("\n") == 1


@needs_parquet
def test_tables_of_features_there_and_back(people, model, crops, tmp_path, capsys):
    table = tmp_path / "features.parquet"
    assert _run("embed", crops / "gallery", "--model", model / "market" / "1", "--out", table) == 0
    images = ["--images", crops / "gallery"]
    assert _run("gallery", "add", tmp_path / "g", "--features", table, *images) == 0
    with open_gallery(tmp_path / "g") as gallery, open_gallery(people) as wanted:
        assert gallery.entries() == wanted.entries() and gallery.info == wanted.info
        keys = [entry.key for entry in gallery.entries()]
        np.testing.assert_allclose(gallery.embeddings(keys), wanted.embeddings(keys), atol=1e-6)
    exported = tmp_path / "exported.parquet"
    assert _run("gallery", "export", tmp_path / "g", "--cameras", "1", "3", "--out", exported) == 0
    assert _run("gallery", "add", tmp_path / "h", "--features", exported, *images) == 0
    with open_gallery(tmp_path / "h") as gallery, open_gallery(people) as wanted:
        assert gallery.entries() == [entry for entry in wanted.entries() if entry.camera != 2]
    assert _run("gallery", "add", tmp_path / "g", "--images", crops, "--model", model / "market" / "2") == 2
    assert "is another encoder; use that one" in capsys.readouterr().err
    assert _run("gallery", "export", tmp_path / "g", "--cameras", "1", "--out", exported) == 2
    assert "exists already" in capsys.readouterr().err


@needs_parquet
def test_listing_and_deleting(people, tmp_path, capsys):
    exported = tmp_path / "exported.parquet"
    assert _run("gallery", "export", people, "--out", exported) == 0
    assert _run("gallery", "add", tmp_path / "g", "--features", exported, "--tags", "old") == 0
    capsys.readouterr()
    page = ["--cameras", "2", "--start", "1", "--limit", "2", "--json"]
    assert _run("gallery", "list", tmp_path / "g", *page) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(entry["pid"], entry["tags"]) for entry in listed] == [(1, ["old"]), (2, ["old"])]
    assert _run("gallery", "delete", tmp_path / "g", "--cameras", "2") == 0
    assert "4 deleted, 8 entries now" in capsys.readouterr().out
    for flags, told in {
        ("--keys", "0000_c1s1_000001_00.jpg", "nobody"): "holds no entry nobody, so nothing was deleted",
        (
            "--keys",
            "nobody",
            b"\xff".decode(errors="surrogateescape"),
        ): "no entry nobody and 1 more, so",
        ("--tags", "odl"): "has no tag odl, so nothing was deleted",
        ("--cameras", "1", "7"): "has no camera 7, so nothing was deleted",
        ("--excluded_cameras", "7"): "has no camera 7, so nothing was deleted",
        ("--pids", "0", "77"): "has no identity 77, so nothing was deleted",
        ("--cameras", "dor"): "There is no camera 'dor'",
        ("--cameras", "1", "--until", "1980-01-01"): "passes these filters, so nothing was deleted",
        ("--keep", "a month"): "'a month' is not a duration; write 12h, 30d or 4w",
        ("--query", "q.jpg"): "Give --query and --min_score together",
    }.items():
        assert _run("gallery", "delete", tmp_path / "g", *flags) == 2
        assert told in capsys.readouterr().err
    assert _run("gallery", "delete", tmp_path / "g", "--keys", "0000_c1s1_000001_00.jpg") == 0
    assert "1 deleted, 7 entries now" in capsys.readouterr().out
    assert _run("gallery", "info", tmp_path / "g", "--json") == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["entries"], info["cameras"], info["tags"]) == (7, [1, 3], ["old"])
    assert _run("gallery", "delete", tmp_path / "g", "--all") == 0
    assert "7 deleted, 0 entries now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["gallery", "info", "nowhere"], "There is no gallery nowhere; make one with"),
        (["gallery", "list", "a file.txt"], "a file.txt is not a gallery, but something else"),
        (["gallery", "add", "g"], "Give --images and --model, or --features"),
        (["gallery", "add", "g", "--images", "nowhere", "--model", "m"], "nowhere does not exist"),
        (["gallery", "add", "g", "--features", "nowhere"], "There is no file nowhere"),
        pytest.param(
            ["gallery", "add", "g", "--features", "a file.txt"],
            "is broken or no Parquet",
            marks=needs_parquet,
        ),
        (["gallery", "add", "g", "--features", "x", "--camera_pattern", "("], "is not a regular expression"),
        (["gallery", "add", "g", "--features", "x", "--camera_pattern", "x"], "has no group"),
        (["gallery", "delete", "g"], "Name the entries to delete"),
        (["gallery", "delete", "g", "--all", "--keys", "a"], "Name the entries to delete"),
        (["gallery", "list", "g", "--since", "monday"], "'monday' is not a time"),
        (["gallery", "list", "g", "--since", "9", "--until", "8"], "--since 9 is not before --until 8"),
        (["gallery", "export", "g", "--out", "x.csv"], "There is no gallery g"),
        (["gallery", "remove", "g"], "invalid choice: 'remove'"),
        (["search", "--gallery", "nowhere", "--query", "a file.txt"], "There is no gallery nowhere"),
        (
            ["search", "--gallery", "g", "--query", "q", "--top", "0"],
            "--top: '0' is not a whole number from 1",
        ),
        (["search", "--gallery", "g", "--query", "q", "--rerank", "5"], "--rerank is 5; give at least"),
        (["search", "--gallery", "g", "--query", "q", "--figure", "x.doc"], "is not the name of a figure"),
        (["search", "--gallery", "g", "--query", "q", "--top", "9" * 5000], "is not a whole number from 1"),
        (["gallery", "list", "g", "--cameras", "9" * 25], "--cameras: '9999999999999999999999999' is not a"),
        (
            ["gallery", "list", "g", "--start", "-1"],
            "--start: '-1' is not a whole number",
        ),
        (["gallery", "list", "g", "--limit", "1e400"], "--limit: '1e400' is not a whole number"),
        (["gallery", "list", "g", "--since", "1e400"], "'1e400' is not a time"),
        (["gallery", "list", "\udcff"], "There is no gallery \\udcff"),
        (["gallery", "list", "g", "--since", "\udcff"], "'\\udcff' is not a time"),
        (["gallery", "add", "g", "--features", "x", "--tags", "\udcff"], "The tag '\\udcff' is not a word"),
        (["gallery", "check", "nowhere"], "There is no gallery nowhere"),
        (["gallery", "check", "milvus:x.db"], "where entries have no digests to check"),
        (["search", "--galery", "g"], "arguments are required|no flag"),
    ],
)
def test_wrong_command_lines(tmp_path, monkeypatch, capsys, argv, told):
    import re

    monkeypatch.chdir(tmp_path)
    Path("a file.txt").write_text("text")
    assert _run(*argv) == 2
    error = capsys.readouterr().err
    assert re.search(told if "|" in told else re.escape(told), error.replace("\n", " ")), error
    assert error.count("Error:") == 1 and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["a file.txt"]


def test_encoders_that_do_not_fit(people, model, crops, capsys):
    query = crops / "query" / "0001_c4s1_000004_00.jpg"
    for name, told in {
        "market/2": "is another encoder; use that one, or make another gallery",
        "wide/1": "holds embeddings of 8 numbers",
        "nowhere": "nowhere) is not there|is not there; name it with --model",
    }.items():
        assert _run("search", "--gallery", people, "--query", query, "--model", model / name) == 2
        assert any(part in capsys.readouterr().err for part in told.split("|"))


def test_help_starts_without_tensorflow():
    script = (
        "import sys\nfrom san_tf.__main__ import main\n"
        "for command in ('gallery', 'search'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as left: assert left.code == 0\n"
        "heavy = {'tensorflow', 'keras', 'faiss', 'pymilvus', 'pyarrow', 'numba', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--rerank" in done.stdout and "export" in done.stdout


def test_brackets_in_names_are_no_styles(model, crops, tmp_path, capsys):
    folder = tmp_path / "[bold]people"
    folder.mkdir()
    photograph = sorted((crops / "gallery").iterdir())[0]
    (folder / "a[red]b[1].jpg").write_bytes(photograph.read_bytes())
    (folder / "[dim].jpg").write_bytes(b"")
    gallery = tmp_path / "old[er].gallery"
    assert _run("gallery", "add", gallery, "--images", folder, "--model", model / "market" / "1") == 0
    said = capsys.readouterr().out
    assert f"{gallery}: 1 added" in said and f"{gallery}.left_out.csv lists them" in said
    assert _run("gallery", "list", gallery) == 0
    assert "a[red]b[1].jpg" in capsys.readouterr().out
    assert _run("search", "--gallery", gallery, "--query", folder / "a[red]b[1].jpg") == 0
    said = capsys.readouterr().out
    assert f"{folder / 'a[red]b[1].jpg'}: 1 found" in said and said.count("a[red]b[1].jpg") == 2


def test_one_absurd_name_does_not_stop_an_addition(model, crops, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    good = (crops / "query" / "0001_c4s1_000004_00.jpg").read_bytes()
    for name in ("0001_c1_a.jpg", f"0001_c{'9' * 30}_b.jpg", f"{'7' * 100}_c1_c.jpg", "0002_c2_d.jpg"):
        (images / name).write_bytes(good)
    command = ["gallery", "add", tmp_path / "g", "--images", images, "--model", model / "market"]
    assert _run(*command) == 0
    said = capsys.readouterr().out
    assert "2 photographs could not be used" in said and "2 added" in said
    listed = (tmp_path / "g.left_out.csv").read_text().splitlines()
    assert len(listed) == 3 and all("cannot be kept: The " in line for line in listed[1:])
    with open_gallery(tmp_path / "g") as gallery:
        assert [(entry.pid, entry.camera) for entry in gallery.entries()] == [(1, 1), (2, 2)]
    columns = tmp_path / "table.csv"
    rows = ["0001_c1_a.jpg,3,1", "0002_c2_d.jpg,x,1", f"0001_c{'9' * 30}_b.jpg,4,1"]
    columns.write_text("\n".join(["path,camera,pid", *(f"{images}/{row}" for row in rows)]))
    assert _run("gallery", "add", tmp_path / "h", "--images", columns, *command[-2:]) == 0
    said = capsys.readouterr().out
    assert "3 added" in said  # "x" is the name of a camera
    with open_gallery(tmp_path / "h") as gallery:
        assert [gallery.info.camera_name(entry.camera) for entry in gallery.entries()] == ["3", "4", "x"]
    columns.write_text(columns.read_text().replace("camera,pid", "camid,pid"))
    assert _run("gallery", "add", tmp_path / "i", "--images", columns, *command[-2:]) == 0
    assert "1 photographs could not be used" in capsys.readouterr().out
    assert "must be a whole number" in (tmp_path / "i.left_out.csv").read_text()


@needs_parquet
def test_one_absurd_row_of_a_table_does_not_stop_an_addition(tmp_path, capsys):
    import pyarrow.parquet

    features = pyarrow.array(np.eye(4, dtype=np.float32).tolist(), pyarrow.list_(pyarrow.float32(), 4))
    paths = ["a.jpg", f"1_c{'9' * 30}.jpg", "odd\x1bname.jpg", "d.jpg"]
    pyarrow.parquet.write_table(pyarrow.table({"path": paths, "features": features}), tmp_path / "f.parquet")
    assert _run("gallery", "add", tmp_path / "g", "--features", tmp_path / "f.parquet") == 0
    assert "2 added" in capsys.readouterr().out
    listed = (tmp_path / "g.left_out.csv").read_text()
    assert "\\x1b" in listed and "\x1b" not in listed and listed.count("\n") == 3
    with open_gallery(tmp_path / "g") as gallery:
        assert [entry.key for entry in gallery.entries()] == ["a.jpg", "d.jpg"]
        np.testing.assert_array_equal(gallery.embeddings(["d.jpg"]), np.eye(4)[3:])


@pytest.fixture
def long_keys(tmp_path) -> Path:
    """A gallery whose keys are longer than a line, one of them with what commands a terminal."""
    import sqlite3

    with open_gallery(tmp_path / "g", create=GalleryInfo(4, "m\x1b[31m", "ab")) as gallery:
        gallery.add(np.eye(4)[:2], [Entry(f"{'a folder/' * 30}{n}.jpg", camera=n) for n in range(2)])
    connection = sqlite3.connect(tmp_path / "g" / "gallery.sqlite", isolation_level=None)
    for table in ("digests", "seal", "sources", "buried", "secret"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("UPDATE state SET format = 1")
    connection.execute("UPDATE entries SET key = 'wipe' || char(27) || '[2J.jpg' WHERE camera = 1")
    connection.close()
    return tmp_path / "g"


def test_keys_are_whole_in_pipes_and_command_no_terminal(long_keys, capsys):
    assert _run("gallery", "list", long_keys) == 0
    said = capsys.readouterr().out
    assert f"{'a folder/' * 30}0.jpg" in said and "wipe\\x1b[2J.jpg" in said and "\x1b" not in said
    assert _run("gallery", "info", long_keys) == 0
    said = capsys.readouterr().out
    assert "m\\x1b[31m" in said and "\x1b" not in said
    assert _run("gallery", "delete", long_keys, "--keys", "\x1b[2J") == 2
    said = capsys.readouterr().err
    assert "holds no entry \\x1b[2J," in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("command", "reader", "buffered"),
    [
        (("gallery", "list", "g", "--limit", "500"), "true", ""),
        (("gallery", "list", "g", "--limit", "500"), "full", "1"),
        (("gallery", "info", "g"), "true", "1"), (("gallery", "info", "g"), "full", ""),
        (("embed", "--help"), "true", ""), (("--help",), "full", ""),
    ],
)  # fmt: skip
def test_the_reader_of_a_pipe_may_end_first(tmp_path, command, reader, buffered):
    keys = [f"{'folder/' * 20}{n}" for n in range(500)]  # more than a pipe holds
    with open_gallery(tmp_path / "g", create=GalleryInfo(4)) as gallery:
        gallery.add(np.ones((len(keys), 4)), [Entry(key) for key in keys])
    if reader == "full":
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full here")
        output = open("/dev/full", "wb")  # noqa: SIM115  # closed below
    else:
        reading, writing = os.pipe()
        os.close(reading)
        output = os.fdopen(writing, "wb")
    with output:
        started = [sys.executable, "-m", "san_tf", *command]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        environment["PYTHONUNBUFFERED"] = buffered
        done = subprocess.run(
            started, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.PIPE, text=True
        )
    if reader == "true":
        assert (done.returncode, done.stderr) == (141, "")
    else:
        told = "Error: The output cannot be written (No space left on device); free some space.\n"
        assert (done.returncode, done.stderr) == (2, told)


def test_checking_from_the_command_line(people, tmp_path, capsys):
    import shutil
    import sqlite3

    gallery = shutil.copytree(people, tmp_path / "g")
    assert _run("gallery", "check", gallery) == 0
    assert "12 entries, all as they were written" in capsys.readouterr().out
    connection = sqlite3.connect(gallery / "gallery.sqlite", isolation_level=None)
    connection.execute("UPDATE entries SET pid = 7 WHERE id = 3")
    connection.close()
    assert _run("gallery", "check", gallery) == 2
    error = capsys.readouterr().err
    assert "1 of 12 entries" in error and "delete them with --drop and add them again" in error
    key = (tmp_path / "g.damaged.csv").read_text().splitlines()[1]
    assert _run("gallery", "check", gallery, "--drop") == 0
    assert "1 damaged entries deleted" in capsys.readouterr().out
    with open_gallery(gallery) as left:
        assert len(left) == 11 and not left.known([key])
