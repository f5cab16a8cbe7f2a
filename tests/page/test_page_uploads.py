"""What is taken, and what is refused before it costs anything."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import tempfile
import threading
import time
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from plain_people import CLOTHES, HOSTILE, ORIGIN, StandIn, crop, make_gallery, upload

from san_tf.page import app
from san_tf.page.app import build_app
from san_tf.page.service import PageService, for_page, pixels_for_page
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.image_files import NoPictureError

BYTES = {"content-type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "The picture is empty."),
        (b"a shopping list", "The picture is not an image in a supported format, or is damaged."),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
            "The picture is not an image in a supported format, or is damaged.",
        ),
        (crop(1, kind="JPEG")[:60], "The picture is a JPEG file that is cut off or damaged."),
        (crop(1, size=(200, 400), kind="JPEG")[:1800], "The picture is damaged: it cannot be decoded."),
        (b"x" * 100_001, "The request exceeds the limit of 100,000 bytes; choose a smaller file."),
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
    assert kind == "image/png" and b"secret place" in turned and b"secret place" not in content
    assert Image.open(io.BytesIO(content)).size == (32, 64)
    assert Image.open(io.BytesIO(for_page(crop(2, size=(600, 3000)))[0])).size == (102, 512)
    small = crop(2)
    shown, kind = for_page(small)
    assert kind == "image/png"
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown)), Image.open(io.BytesIO(small)))
    with pytest.raises(NoPictureError, match="cannot be decoded"):
        for_page(crop(2, size=(600, 3000), kind="JPEG")[:3000])


def _with_everything(kind: str, size: tuple[int, int]) -> bytes:
    """A picture with a secret in each place that has room for one."""
    exif = Image.Exif()
    exif[0x010E] = "secret description"
    exif.get_ifd(0x8825)[1] = "secret north"
    options: dict = {"exif": exif, "icc_profile": b"secret profile" * 20}
    if kind == "JPEG":
        options |= {"comment": b"secret comment", "xmp": b"<x>secret xmp</x>"}
    else:
        text = PngInfo()
        text.add_text("Comment", "secret text")
        text.add_itxt("XML:com.adobe.xmp", "secret xmp")
        text.add(b"prVt", b"secret chunk")
        options["pnginfo"] = text
    content = crop(2, size=size, kind=kind, **options)
    if kind == "JPEG":
        # Late EXIF: a second segment behind 8 kB of another, before the picture begins.
        late = b"Exif\0\0secret late"
        filler = b"\xff\xe4" + struct.pack(">H", 8002) + b"secret" + bytes(7994)
        segment = b"\xff\xe1" + struct.pack(">H", len(late) + 2) + late
        content = content[:2] + filler + segment + content[2:]
    return content + b"secret behind the end"


@pytest.mark.parametrize("size", [(32, 64), (600, 1200)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_nothing_but_pixels_goes_to_the_page(folder, kind, size):
    content = _with_everything(kind, size)
    name = f"everything.{kind.lower()}"
    (folder / "images" / name).write_bytes(content)
    gallery = make_gallery(folder)
    gallery.add(np.ones((1, 6)), [Entry(name, name)])
    with TestClient(build_app(PageService(gallery, StandIn(), "people")), base_url=ORIGIN) as client:
        shown = client.get("/api/picture", params={"key": name}).content
        texture = client.get("/api/texture", params={"key": name}).content
        sheet = client.post("/api/export/png?textures=true", json={"key": name}).content
    (folder / "images" / name).unlink()
    assert content.count(b"secret") >= (7 if kind == "JPEG" else 5)
    picture = Image.open(io.BytesIO(shown))
    assert np.abs(np.asarray(picture)[2, 2].astype(int) - CLOTHES[2][0]).max() <= 3
    assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    for sent in (shown, texture, sheet):
        for mark in (b"secret", b"Exif", b"eXIf", b"iCCP", b"tEXt", b"iTXt", b"ICC_PROFILE", b"xmp"):
            assert mark not in sent, mark


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    busy, most, lock = [0], [0], threading.Lock()

    def slow(content: bytes) -> bytes:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.03)
        with lock:
            busy[0] -= 1
        return content

    monkeypatch.setattr("san_tf.page.service.upright", slow)

    def together(content: bytes) -> int:
        most[0] = 0
        threads = [threading.Thread(target=for_page, args=(content,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return most[0]

    assert together(crop(1, size=(1000, 2002))) == 1
    assert together(crop(1)) > 1  # crops wait for nobody


def test_animations_show_their_first_picture_and_the_page_goes_on(client):
    frames = [Image.open(io.BytesIO(crop(person))) for person in (1, 2, 3)]
    target = io.BytesIO()
    frames[0].save(target, "PNG", save_all=True, append_images=frames[1:])
    found = client.post("/api/search", json={"upload": upload(client, target.getvalue()), "top": 3}).json()
    assert {hit["key"][:4] for hit in found["hits"]} <= {"0001", HOSTILE[:4]}
    for kind in ("GIF", "WEBP"):
        target = io.BytesIO()
        frames[0].save(target, kind, save_all=True, append_images=frames[1:])
        shown = Image.open(io.BytesIO(for_page(target.getvalue())[0]))
        assert np.abs(np.asarray(shown)[4, 4].astype(int) - CLOTHES[1][0]).max() <= 3
        name = upload(client, target.getvalue())
        found = client.post("/api/search", json={"upload": name, "top": 3}).json()
        assert {hit["key"][:4] for hit in found["hits"]} <= {"0001", HOSTILE[:4]}


def test_sheets_are_drawn_one_at_a_time_and_do_not_pile_up(folder, monkeypatch):
    began, going = threading.Event(), threading.Event()

    def slow(*_) -> bytes:
        began.set()
        assert going.wait(20)
        return b"drawn"

    monkeypatch.setattr(app, "_sheet", slow)
    service, answers = PageService(make_gallery(folder), StandIn(), "people"), []
    with TestClient(build_app(service), base_url=ORIGIN) as client:

        def ask() -> None:
            answers.append(client.post("/api/export/png", json={"key": "0001_c1.png"}))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert began.wait(20)
        while sum(answer.status_code == 503 for answer in answers) < 3:
            time.sleep(0.01)
        # Nobody else waits for them.
        assert client.get("/api/picture", params={"key": "0001_c1.png"}).status_code == 200
        assert client.post("/api/search", json={"key": "0001_c1.png"}).status_code == 200
        going.set()
        for thread in threads:
            thread.join()
    told = [answer.json()["error"] for answer in answers if answer.status_code == 503]
    assert told == ["Too many requests are waiting already; try again in a moment."] * 3
    assert [answer.content for answer in answers if answer.status_code == 200] == [b"drawn"] * 5


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
    assert answer.status_code == 422 and answer.json()["error"].startswith("The request is not valid (")


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
