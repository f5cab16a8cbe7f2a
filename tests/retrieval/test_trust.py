"""A gallery of a stranger: it names an export and a folder, and neither is used because it does."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from san_tf import trusted
from san_tf.__main__ import main
from san_tf.embedding.exported_encoder import ExportedEncoder
from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.opening import open_gallery, open_to_search
from san_tf.serving.encoder_export import read_metadata
from san_tf.serving.fingerprint import fingerprint

SHIPPED = Path(__file__).resolve().parents[2] / "saved_models" / "synthetic" / "1"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A user who has not named anything."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    """A small honest export, `market/1`."""
    import keras

    from san_tf.serving.encoder_export import export_encoder

    keras.utils.set_random_seed(0)
    image = keras.Input((32, 16, 3))
    embedding = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, strides=2)(image))
    folder = tmp_path_factory.mktemp("models") / "market"
    return export_encoder(
        keras.Model(image, {"embedding": embedding}), folder, (32, 16), version=1, warmup_batches=()
    )


def _write_hostile(folder: Path, written: Path, honest: Path) -> None:
    """A SavedModel with the signatures, weights and metadata of an honest one that writes a file."""
    import tensorflow as tf

    class Hostile(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
        def serving_default(self, images):
            tf.io.write_file(str(written), "written by a stranger")
            return {"embedding": tf.ones((tf.shape(images)[0], 8))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serving_bytes(self, image_bytes):
            tf.io.write_file(str(written), "written by a stranger")
            return {"embedding": tf.ones((tf.shape(image_bytes)[0], 8))}

    module = Hostile()
    functions = {"serving_default": module.serving_default, "serving_bytes": module.serving_bytes}
    tf.saved_model.save(module, str(folder), functions)
    for part in ("variables", "assets.extra"):
        shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(honest / part, folder / part)
    # Whoever makes the files can make their digests as well, or leave them out.
    notes = folder / "assets.extra" / "san_tf.json"
    notes.write_text(json.dumps({k: v for k, v in json.loads(notes.read_text()).items() if k != "sha256"}))


def _gallery(path: Path, info: GalleryInfo, size: int = 8) -> Path:
    with open_gallery(path, create=info) as gallery:
        gallery.add(np.eye(size)[:2], [Entry("a.png", "a.png"), Entry("b.png", "b.png")])
    return path


def _run(*argv) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in argv])
    return int(left.value.code or 0)


@pytest.fixture
def query(tmp_path) -> Path:
    from PIL import Image

    Image.new("RGB", (16, 32), (90, 60, 30)).save(tmp_path / "query.png")
    return tmp_path / "query.png"


@pytest.mark.parametrize("name", ["1", "evil", "007", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_a_strangers_gallery_runs_no_program(tmp_path, export, query, capsys, name):
    # Its fingerprint is that of an encoder that the user knows and trusts, its graph is another.
    own = fingerprint(export, read_metadata(export))
    hostile, written = tmp_path / "delivery" / name, tmp_path / "written"
    _write_hostile(hostile, written, export)
    assert fingerprint(hostile, read_metadata(hostile)) == own
    gallery = _gallery(tmp_path / "delivery" / "g", GalleryInfo(8, str(hostile), own))
    assert _run("search", "--gallery", gallery, "--query", query) == 2
    error = capsys.readouterr().err
    assert "an encoder is a program, so name it with --model if you trust it" in error
    assert _run("serve-ui", "--gallery", gallery, "--port", "0") == 2
    assert "name it with --model if you trust it" in capsys.readouterr().err
    # Where the encoder of this fingerprint is known here, it is that one that runs.
    trusted.remember_export(export, own)
    assert _run("search", "--gallery", gallery, "--query", query) == 0
    assert not written.exists()
    # Even named, what opens files is refused, whatever the folder is called.
    with pytest.raises(UserError, match=r"opens files or connections \(WriteFile\)"):
        ExportedEncoder(hostile)
    assert not written.exists()


def test_what_the_user_named_is_known_until_it_changes(tmp_path, export, query, capsys):
    own = fingerprint(export, read_metadata(export))
    moved = shutil.copytree(export, tmp_path / "market" / "1")
    gallery = _gallery(tmp_path / "g", GalleryInfo(8, str(moved), own))
    search = ["search", "--gallery", gallery, "--query", query]
    assert _run(*search) == 2
    assert _run(*search, "--model", tmp_path / "market") == 0
    assert _run(*search) == 0
    (moved / "saved_model.pb").write_bytes((moved / "saved_model.pb").read_bytes() + b"\x12\x00")
    capsys.readouterr()
    assert _run(*search) == 2
    assert "was not named here before, or has changed since" in capsys.readouterr().err


def test_adding_names_the_encoder_and_the_folder(tmp_path, export, query):
    images = tmp_path / "elsewhere" / "photographs"
    images.mkdir(parents=True)
    shutil.copy(query, images / "a.png")
    gallery = tmp_path / "galleries" / "g"
    assert _run("gallery", "add", gallery, "--images", images, "--model", export) == 0
    opened = open_to_search(gallery)
    assert opened.model == str(export.resolve()) and opened.gallery.info.images == str(images)
    assert opened.withheld == ""
    opened.gallery.close()


def test_another_encoder_that_was_named_is_not_taken(tmp_path, export):
    trusted.remember_export(export, fingerprint(export, read_metadata(export)))
    for known in ("", "0123456789abcdef"):
        path = _gallery(tmp_path / f"g{known}", GalleryInfo(8, str(export), known))
        with pytest.raises(UserError, match="name it with --model if you trust it"):
            open_to_search(path)


@pytest.mark.parametrize("known", trusted.SHIPPED_EXPORTS)
def test_shipped_exports_are_known_by_their_digests(tmp_path, monkeypatch, known):
    folder, digest = trusted.SHIPPED_EXPORTS[known]
    assert trusted.export_digest(folder) == digest
    assert fingerprint(folder, read_metadata(folder)) == known
    assert trusted.known_export(known) == folder
    changed = shutil.copytree(folder, tmp_path / "1")
    (changed / "saved_model.pb").write_bytes((changed / "saved_model.pb").read_bytes() + b"\x12\x00")
    monkeypatch.setitem(trusted.SHIPPED_EXPORTS, known, (changed, digest))
    assert trusted.known_export(known) is None


def test_every_export_that_comes_along_is_known():
    folders = {str(path.parent) for path in trusted.SHIPPED_MODELS.glob("*/*/saved_model.pb")}
    assert {str(folder) for folder, _ in trusted.SHIPPED_EXPORTS.values()} <= folders


@pytest.mark.parametrize("harm", ["not JSON", "a list", "open to others", "a pipe", "no home"])
def test_a_record_that_cannot_be_relied_on_trusts_nothing(export, home, monkeypatch, harm):
    own = fingerprint(export, read_metadata(export))
    trusted.remember_export(export, own)
    record = home / "san_tf" / "trusted.json"
    assert trusted.known_export(own) == export.resolve() and record.stat().st_mode & 0o077 == 0
    if harm == "not JSON":
        record.write_text("[" * 100_000)
    elif harm == "a list":
        record.write_text(json.dumps({"exports": [str(export)], "images": 7}))
    elif harm == "open to others":
        record.chmod(0o666)
    elif harm == "a pipe":
        record.unlink()
        os.mkfifo(record)
    else:
        monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
        trusted.remember_export(export, own)  # cannot be remembered
    assert trusted.known_export(own) is None


def test_a_strangers_gallery_shows_no_other_folder(tmp_path, export, monkeypatch):
    known = GalleryInfo(8, str(export), fingerprint(export, read_metadata(export)))
    trusted.remember_export(export, known.fingerprint)
    delivery, secret = tmp_path / "delivery", tmp_path / "secret"
    for folder in (delivery / "photographs", secret):
        folder.mkdir(parents=True)
    (delivery / "link").symlink_to(secret)
    places = {
        str(delivery / "photographs"): True, str(delivery / "g" / "inside"): True, "/": False,
        str(secret): False, str(delivery / "link"): False, str(delivery / ".." / "secret"): False,
        str(delivery): False, ".": False, "": False, "photographs": False,
    }  # fmt: skip
    for number, (place, shown) in enumerate(places.items()):
        path = delivery / f"g{number}"
        place = place.replace("/g/", f"/g{number}/")
        _gallery(path, replace(known, images=place))
        opened = open_to_search(path)
        opened.gallery.close()
        assert opened.gallery.info.images == (place if shown else None), place
        assert bool(opened.withheld) != shown, place
    # In the home folder everything lies beside a gallery.
    monkeypatch.setenv("HOME", str(delivery))
    opened = open_to_search(delivery / "g0")
    assert opened.gallery.info.images is None
    opened.gallery.close()
    # Whoever names it, sees it, and from then on, as long as the gallery names the same.
    opened = open_to_search(delivery / "g3", images=str(secret))
    opened.gallery.close()
    again = open_to_search(delivery / "g3")
    again.gallery.close()
    assert opened.gallery.info.images == again.gallery.info.images == str(secret)
    shutil.rmtree(delivery / "g3")
    _gallery(delivery / "g3", replace(known, images="/"))
    other = open_to_search(delivery / "g3")
    other.gallery.close()
    assert other.gallery.info.images is None
    with pytest.raises(UserError, match="nowhere is not a folder"):
        open_to_search(delivery / "g3", images="nowhere")


def test_a_figure_of_withheld_photographs_is_refused(tmp_path, export, query, capsys):
    known = fingerprint(export, read_metadata(export))
    gallery = _gallery(tmp_path / "delivery" / "g", GalleryInfo(8, str(export), known, "/"))
    search = ["search", "--gallery", gallery, "--query", query, "--model", export]
    assert _run(*search, "--figure", tmp_path / "lists.png") == 2
    assert "says that its photographs are in /," in capsys.readouterr().err
    assert not (tmp_path / "lists.png").exists()
    figure = ["--figure", tmp_path / "lists.png", "--images", tmp_path]
    assert _run(*search, *figure) == 0 and (tmp_path / "lists.png").exists()
