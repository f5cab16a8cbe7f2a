"""What is taken, and what is refused before it costs anything."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import tempfile
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from plain_people import CLOTHES, ORIGIN, StandIn, crop, make_gallery, upload

from san_tf.page.app import build_app
from san_tf.page.pictures import for_page, pixels_for_page
from san_tf.page.service import PageService
from san_tf.retrieval.image_files import NoPictureError

BYTES = {"content-type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "The picture is empty."),
        (b"a shopping list", "The picture is neither a JPEG nor a PNG file."),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
            "The picture is neither a JPEG nor a PNG file.",
        ),
        (crop(1, kind="JPEG")[:60], "The picture is a JPEG file that is cut off or damaged."),
        (crop(1, size=(200, 400), kind="JPEG")[:1800], "The picture is damaged: it cannot be decoded."),
        (b"x" * 100_001, "That is more than the 100,000 bytes that are taken; choose a smaller file."),
    ],
    ids=["empty", "text", "svg", "cut in its header", "cut off", "too large"],
)
def test_uploads_that_are_none(client, content, problem):
    answer = client.post("/api/uploads", content=content, headers=BYTES)
    assert answer.status_code in (400, 413) and answer.json() == {"error": problem}


def test_a_body_without_a_length_is_stopped_at_the_limit(client):
    sent = []

    def endless():
        while len(sent) < 1000:
            sent.append(1)
            yield b"x" * 60_000

    assert client.post("/api/uploads", content=endless(), headers=BYTES).status_code == 413
    assert (
        client.post(
            "/api/search", content=b" " * 1_100_000, headers={"content-type": "application/json"}
        ).status_code
        == 413
    )
    for length in ("-1", "1e3", "9" * 30, "٣"):
        headers = [("content-type", "application/octet-stream"), ("content-length", length.encode())]
        assert client.post("/api/uploads", headers=headers).status_code in (400, 413)


def _huge() -> bytes:
    """A PNG file of 20000 x 20000 pixels, one bit each, all black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(2501)) for _ in range(20_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_huge_picture_is_refused_by_its_header(folder):
    service = PageService(make_gallery(folder), StandIn(), "people")
    content = _huge()
    with TestClient(build_app(service), base_url=ORIGIN) as client:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = client.post("/api/uploads", content=content, headers=BYTES)
    assert answer.json() == {"error": "The picture has 20000 x 20000 pixels, more than 50 million."}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    for refuse in (for_page, pixels_for_page):
        with pytest.raises(NoPictureError, match="more than 50 million"):
            refuse(content)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("I;16", "PNG")],
)
def test_unusual_pictures_are_taken(client, mode, kind):
    target = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.full((64, 32), 150 << 8, np.uint16)).save(target, kind)
    else:
        Image.open(io.BytesIO(crop(3))).convert(mode, palette=Image.Palette.ADAPTIVE).save(target, kind)
    assert client.post("/api/search", json={"upload": upload(client, target.getvalue())}).json()["hits"]
    shown = pixels_for_page(target.getvalue()).astype(int)
    wanted = {"L": 215, "LA": 215, "I;16": 150}.get(mode)
    top = np.array(CLOTHES[3][0]) if wanted is None else np.full(3, wanted)
    # The grey of (230, 220, 90) is .299 * 230 + .587 * 220 + .114 * 90 = 208.
    top = np.full(3, 208) if mode in ("L", "LA") else top
    assert np.abs(shown[4, 16] - top).max() <= 6


def test_large_and_turned_pictures_are_made_ready_without_what_the_camera_wrote():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    exif[0x010E] = "a secret place"
    turned = crop(2, size=(64, 32), kind="JPEG", exif=exif)
    content, kind = for_page(turned)
    assert kind == "image/jpeg" and b"secret place" in turned and b"secret place" not in content
    assert Image.open(io.BytesIO(content)).size == (32, 64)
    assert Image.open(io.BytesIO(for_page(crop(2, size=(600, 3000)))[0])).size == (102, 512)
    small = crop(2)
    shown, kind = for_page(small)
    assert kind == "image/png"
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown)), Image.open(io.BytesIO(small)))
    with pytest.raises(NoPictureError, match="cannot be decoded"):
        for_page(crop(2, size=(600, 3000), kind="JPEG")[:3000])


@pytest.mark.parametrize(
    "question",
    [
        {}, {"key": "a", "upload": "b"}, {"key": ""}, {"key": "x" * 5000}, {"key": 7},
        {"key": "0001_c1.png", "top": 0},
        {"key": "0001_c1.png", "top": 10**9}, {"key": "0001_c1.png", "rerank": -1},
        {"key": "0001_c1.png", "more": 1},
        {"key": "0001_c1.png", "where": {"cameras": ["1; drop table"]}},
        {"key": "0001_c1.png", "where": {"since": "now"}},
        {"key": "0001_c1.png", "where": {"cameras": [2**70]}},
        {"key": "0001_c1.png", "where": {"tags": ["x"] * 65}}, [], 7, None,
    ],
)  # fmt: skip
def test_questions_that_make_no_sense(client, question):
    headers = {"content-type": "application/json"}
    answer = client.post("/api/search", content=json.dumps(question), headers=headers)
    assert answer.status_code == 422 and answer.json()["error"].startswith("The question makes no sense (")


def test_infinite_times_and_broken_json(client):
    for body in (b'{"key": "0001_c1.png", "where": {"since": Infinity}}', b"{", b"\xff\xfe", b"[" * 9000):
        answer = client.post("/api/search", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422) and "error" in answer.json()


def test_what_is_not_there(client):
    for question in ({"key": "nobody.png"}, {"upload": "forgotten"}):
        answer = client.post("/api/search", json=question)
        assert answer.status_code in (400, 404) and set(answer.json()) == {"error"}


def test_uploads_are_never_on_disk(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = []
    real = os.open
    monkeypatch.setattr(
        os,
        "open",
        lambda path, flags, *more, **named: opened.append(flags) or real(path, flags, *more, **named),
    )
    service = PageService(make_gallery(folder), StandIn(), "people")
    rng = np.random.default_rng(0)
    target = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (1600, 800, 3), dtype=np.uint8)).save(target, "PNG")
    assert len(target.getvalue()) > 3 * 2**20  # more than web servers keep in memory as a rule
    with TestClient(build_app(service), base_url=ORIGIN) as client:
        name = upload(client, target.getvalue())
        assert client.post("/api/search", json={"upload": name}).status_code == 200
        assert client.get("/api/upload-texture", params={"upload": name}).status_code == 200
    assert list(tmp_path.iterdir()) == []
    assert not [flags for flags in opened if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)]
