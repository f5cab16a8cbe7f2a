"""The encoder that comes along behind the page, with rendered people."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient
from PIL import Image
from plain_people import ORIGIN, upload

from san_tf.data.images import decode_image
from san_tf.errors import UserError
from san_tf.page.app import build_app
from san_tf.page.demo import demo_gallery, entry_of
from san_tf.page.page_encoder import ExportedNetwork
from san_tf.page.service import PageService
from san_tf.retrieval.adding import add_photographs
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.name_reader import NameReader
from san_tf.retrieval.opening import open_gallery
from san_tf.synthesis.crop_plans import ReidConfig
from san_tf.synthesis.crops import Crop

MODEL = Path(__file__).resolve().parents[2] / "saved_models" / "synthetic" / "1"
FEW = ReidConfig("few", 2, 3, 10, 6, 10, 0, 0, seed=2027)


@pytest.fixture(scope="module")
def network() -> ExportedNetwork:
    return ExportedNetwork(MODEL)


@pytest.fixture(scope="module")
def demo(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo_gallery(folder, network, FEW, to_drop=3)


def test_rendered_people_are_found(network, demo):
    folder, gallery = demo
    assert (network.name, network.size, network.paints) == ("synthetic/1", 512, True)
    dropped = sorted((folder / "to_drop").iterdir())
    assert len(gallery) == 10 and [path.name[:4] for path in dropped] == ["0003", "0004", "0005"]
    served = tf.saved_model.load(str(MODEL)).signatures
    with TestClient(build_app(PageService(gallery, network, "rendered")), base_url=ORIGIN) as client:
        for path in dropped:
            name = upload(client, path.read_bytes())
            question = {"upload": name, "pid": int(path.name[:4])}
            found = client.post("/api/search", json=question).json()["hits"]
            # The gallery holds the same pass of the same person: nothing could be more alike.
            assert found[0]["right"] and found[0]["score"] > 0.8
            # By the exported signatures alone, as anybody would use them.
            image = decode_image(tf.constant(path.read_bytes()))[None]
            query = served["serving_default"](images=image)["embedding"][0].numpy()
            stored = gallery.embeddings([found[0]["key"]])[0]
            assert found[0]["score"] == pytest.approx(float(query @ stored), abs=1e-4)
            answer = client.get("/api/upload-texture", params={"upload": name})
            painted = Image.open(io.BytesIO(answer.content))
            wanted = served["texture"](images=image)["texture"][0].numpy()
            assert np.abs(np.asarray(painted).astype(int) - wanted).max() <= 1
        sheet = client.post("/api/export/png?textures=true", json={"key": found[0]["key"]})
        assert Image.open(io.BytesIO(sheet.content)).width > 800


def test_a_gallery_on_disk_behind_the_page(network, demo, tmp_path):
    folder, _ = demo
    info = GalleryInfo(network.size, network.name, network.fingerprint, str(folder / "images"))
    with open_gallery(tmp_path / "people", create=info) as gallery:
        add_photographs(gallery, [folder / "images"], network.encoder, NameReader())
    with (
        open_gallery(tmp_path / "people", read_only=True) as gallery,
        TestClient(build_app(PageService(gallery, network, "people")), base_url=ORIGIN) as client,
    ):
        listed = client.post("/api/entries", json={}).json()["entries"]
        assert [item["key"] for item in listed] == sorted(path.name for path in (folder / "images").iterdir())
        found = client.post("/api/search", json={"key": listed[0]["key"], "top": 9}).json()["hits"]
        assert len(found) == 9 and found[0]["right"]
        # Asked for before it was shown, as after a reload of the page.
        with TestClient(build_app(PageService(gallery, network, "people")), base_url=ORIGIN) as other:
            answer = other.get("/api/picture", params={"key": listed[3]["key"]})
            shown = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
            assert np.abs(shown - Image.open(folder / "images" / listed[3]["key"])).mean() < 2
            missing = other.get("/api/picture", params={"key": "nobody.jpg"})
            assert missing.status_code == 404 and "does not hold this entry" in missing.json()["error"]


def test_entries_know_time_and_side():
    crop = Crop(b"", 7, 2, "0007_c3s2_000250_01.jpg", 91.0, "phoning", 1.0, b"", np.eye(3, 4))
    # 250 frames at 25 a second after 9 o'clock on the second day: 1780304400 + 86400 + 10.
    assert entry_of(crop).time == 1_780_390_810.0
    assert entry_of(crop).tags == ("phoning", "left") and entry_of(crop).camera == 3


def test_what_it_cannot_use(network):
    for ask in (network.embed, network.paint):
        with pytest.raises(UserError, match="The picture is not an image in a supported format"):
            ask(b"a shopping list")
        target = io.BytesIO()
        Image.effect_noise((200, 400), 90).convert("RGB").save(target, "JPEG")
        with pytest.raises(UserError, match="The picture is damaged: it cannot be decoded"):
            ask(target.getvalue()[:9000])


def test_one_photograph_is_turned_and_embedded_at_a_time(network, monkeypatch):
    busy, most, lock = [0], [0], threading.Lock()

    def slow(content: bytes) -> bytes:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.02)
        with lock:
            busy[0] -= 1
        return content

    monkeypatch.setattr("san_tf.page.page_encoder.upright", slow)
    target = io.BytesIO()
    Image.new("RGB", (64, 128)).save(target, "PNG")
    asked = [network.embed, network.paint] * 4
    threads = [threading.Thread(target=ask, args=(target.getvalue(),)) for ask in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


def test_an_export_without_a_decoder_paints_nothing(network, monkeypatch):
    monkeypatch.setattr(network, "_paint", None)
    with pytest.raises(UserError, match="synthetic/1 paints no textures; export it with --export_texture"):
        network.paint(b"")
