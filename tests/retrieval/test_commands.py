"""`san-tf gallery` and `san-tf search`: photographs in, ranked lists out, mistakes in one sentence."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_tf.__main__ import main
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

    from san_tf.serving.export import export_encoder

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
    assert sum(seen) == 7 and "7 added; 5 were in it already; 12 entries now" in capsys.readouterr().out
    assert _run(*command) == 0
    assert "0 added; 12 were in it already" in capsys.readouterr().out


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
    for told in ("cut.jpg,is damaged", "text.jpg,is neither", "empty.png,is empty", "20000 x 20000", "odd"):
        assert told in listed
    with open_gallery(tmp_path / "g") as gallery:
        assert [entry.key for entry in gallery.entries()] == ["fine.jpg", "one_pixel.png"]
        assert gallery.tags() == ["new"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "is empty"),
        (b"a shopping list", "is not an image of a format that is read here"),
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
    assert _run("gallery", "delete", tmp_path / "g", "--keys", "0000_c1s1_000001_00.jpg", "nobody") == 0
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
        (["gallery", "list", "a file.txt"], "a file.txt is no gallery, but something else"),
        (["gallery", "add", "g"], "Give --images and --model, or --features"),
        (["gallery", "add", "g", "--images", "nowhere", "--model", "m"], "nowhere does not exist"),
        (["gallery", "add", "g", "--features", "nowhere"], "There is no file nowhere"),
        pytest.param(
            ["gallery", "add", "g", "--features", "a file.txt"],
            "is broken or no Parquet",
            marks=needs_parquet,
        ),
        (["gallery", "add", "g", "--features", "x", "--camera_pattern", "("], "is no regular expression"),
        (["gallery", "add", "g", "--features", "x", "--camera_pattern", "x"], "has no group"),
        (["gallery", "delete", "g"], "Name the entries to delete"),
        (["gallery", "delete", "g", "--all", "--keys", "a"], "Name the entries to delete"),
        (["gallery", "list", "g", "--since", "monday"], "'monday' is no time"),
        (["gallery", "list", "g", "--since", "9", "--until", "8"], "--since 9 is not before --until 8"),
        (["gallery", "export", "g", "--out", "x.csv"], "There is no gallery g"),
        (["gallery", "remove", "g"], "invalid choice: 'remove'"),
        (["search", "--gallery", "nowhere", "--query", "a file.txt"], "There is no gallery nowhere"),
        (["search", "--gallery", "g", "--query", "q", "--top", "0"], "--top is 0"),
        (["search", "--gallery", "g", "--query", "q", "--rerank", "5"], "--rerank is 5; give a number from"),
        (["search", "--gallery", "g", "--query", "q", "--figure", "x.doc"], "is no name of a figure"),
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
    assert f"{gallery}: 1 added" in said and f"{gallery}.left_out.csv says which" in said
    assert _run("gallery", "list", gallery) == 0
    assert "a[red]b[1].jpg" in capsys.readouterr().out
    assert _run("search", "--gallery", gallery, "--query", folder / "a[red]b[1].jpg") == 0
    said = capsys.readouterr().out
    assert f"{folder / 'a[red]b[1].jpg'}: 1 found" in said and said.count("a[red]b[1].jpg") == 2
