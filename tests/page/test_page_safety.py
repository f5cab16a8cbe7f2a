"""Who is answered, what is taken, what is never served, and what a browser is told to forbid."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import socket
import struct
import tempfile
import threading
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plain_people import CLOTHES, HOSTILE, ORIGIN, StandIn, crop, make_gallery, upload

from san_tf.page.app import build_app
from san_tf.page.guard import HEADERS, Guard, _name
from san_tf.page.pictures import NoPictureError, for_page, pixels_for_page, read_inside
from san_tf.page.server import build_server, listen
from san_tf.page.service import PageService
from san_tf.retrieval.entries import Entry

BYTES = {"content-type": "application/octet-stream"}

# --- no path outside the folder of images


@pytest.mark.parametrize(
    "name",
    [
        "", "../secret.png", "sub/../../secret.png", "/etc/passwd", "//etc/passwd", "~/x.png", "..", ".",
        "sub",
        "out.png", "up/secret.png", "circle.png", "0001_c1.png\0.jpg", "\0", "C:\\secret.png", "C:secret.png",
        "\\\\host\\share\\x.png", "\\windows\\win.ini", "%2e%2e/secret.png", "..%2fsecret.png",
        "....//secret.png",
        "0001_c1.png/../../secret.png", "nothing.png", "x" * 5000, "file:///etc/passwd",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(folder, name):
    with pytest.raises(NoPictureError) as caught:
        read_inside(folder / "images", name)
    # Nobody learns from the message where the gallery lies, or whether there is such a file elsewhere.
    assert str(folder) not in str(caught.value) and "secret" not in str(caught.value)


def test_names_inside_are_read_links_that_stay_inside_too(folder, tmp_path):
    wanted = (folder / "images" / "sub" / "hostile.png").read_bytes()
    assert read_inside(folder / "images", "sub/hostile.png") == wanted
    assert read_inside(folder / "images", "sub/../sub/./hostile.png") == wanted
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    assert read_inside(tmp_path / "linked", "b.png") == b"a"
    # A folder whose name only begins alike is another one.
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "x").write_bytes(b"x")
    with pytest.raises(NoPictureError):
        read_inside(tmp_path / "a", "../ab/x")


def test_pipes_and_devices_and_giants_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(NoPictureError, match="is no file"):
        read_inside(tmp_path, "pipe.png")
    with (tmp_path / "giant.png").open("wb") as file:
        file.truncate(2**40)  # a hole, no bytes
    with pytest.raises(NoPictureError, match="larger than 64 MB"):
        read_inside(tmp_path, "giant.png")


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["..", ".", "", "sub", "up", "/", "out.png"])).map("/".join)
)
def test_whatever_the_name_what_is_read_lies_inside(folder, name):
    inside = {path.read_bytes() for path in (folder / "images").rglob("*.png") if not path.is_symlink()}
    with contextlib.suppress(NoPictureError):
        assert read_inside(folder / "images", name) in inside


def test_entries_that_point_outside_show_no_picture(folder):
    evil = tuple(
        Entry(f"evil {number}", image)
        for number, image in enumerate(
            ["../secret.png", str(folder / "secret.png"), "out.png", "up/secret.png"]
        )
    )
    service = PageService(make_gallery(folder, evil), StandIn(), "people")
    with TestClient(build_app(service), base_url=ORIGIN) as client:
        for entry in evil:
            for path in ("/api/picture", "/api/texture"):
                answer = client.get(path, params={"key": entry.key})
                assert answer.status_code == 404 and "secret" not in answer.text
        # They can be found all the same, and drawn, without a picture.
        assert client.post("/api/export/png", json={"key": "evil 0"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/..%2fapp.py", "/assets/%2e%2e%2fapp.py",
        "/assets//etc/passwd",
        "/assets/index.html", "/assets/", "/../../etc/passwd", "/etc/passwd", "/docs", "/redoc",
        "/openapi.json",
        "/api/picture?key=../secret.png", "/api/picture?key=sub/hostile.png", "/api/picture?key=%00",
        "/api/picture",
        "/api/picture/0001_c1.png", "/images/0001_c1.png", "/api/texture?key=/etc/passwd",
        "/api/upload-texture?upload=x",
    ],
)  # fmt: skip
def test_addresses_that_serve_nothing(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404, 422)
    assert len(answer.content) < 300 and "Traceback" not in answer.text


def _raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_bytes_that_no_browser_sends(folder):
    service = PageService(make_gallery(folder), StandIn(), "people")
    server = listen("127.0.0.1", 0)
    port = server.getsockname()[1]
    started = threading.Event()
    running = build_server(build_app(service), started.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [server]}, daemon=True)
    thread.start()
    try:
        assert started.wait(20)
        own = b"Host: localhost\r\nConnection: close\r\n"
        assert _raw(port, b"GET / HTTP/1.1\r\n" + own + b"\r\n").startswith(b"HTTP/1.1 200")
        for path in (
            b"/../../../../etc/passwd", b"/assets/../../../../etc/passwd",
            b"/assets/..%2f..%2f..%2fetc%2fpasswd", b"/assets/%2e%2e/%2e%2e/app.py",
            b"/assets/\\..\\app.py", b"//etc/passwd", b"/assets/%00", b"/%ff",
            b"/api/picture?key=..%2fsecret.png", b"/api/picture?key=%2e%2e%2fsecret.png&key=0001_c1.png%00",
            b"file:///etc/passwd", b"*", b"x" * 70_000,
        ):  # fmt: skip
            answer = _raw(port, b"GET " + path + b" HTTP/1.1\r\n" + own + b"\r\n")
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (path[:40], answer[:80])
            assert b"root:" not in answer and b"PNG" not in answer and b"Traceback" not in answer
        # No host at all, and a foreign address in place of the path.
        assert b" 421 " in _raw(port, b"GET / HTTP/1.0\r\n\r\n")
        foreign = (
            b"GET http://evil.example/api/gallery HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        assert _raw(port, foreign).startswith(b"HTTP/1.1 4")
        # Two lengths of one body: what is behind the shorter one must not pass for a request of its own.
        smuggled = (
            b"POST /api/search HTTP/1.1\r\n"
            + own
            + b"Content-Type: application/json\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/gallery HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        assert b"stand-in/1" not in _raw(port, smuggled)
    finally:
        running.should_exit = True
        thread.join(10)
        server.close()


# --- who asks


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8642", "localhost", "LOCALHOST:1", "[::1]:8642", "127.8.8.8", "localhost.:80"]
)
def test_our_own_names(client, host):
    assert client.get("/api/gallery", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example",
        "192.168.1.7:8642", "", "[::1", "127.0.0.1:8642@evil.example", "localhost:80:80",
        "localhost,evil.example", "0x7f000001", "[::1]evil", "127.0.0.1:",
    ],
)  # fmt: skip
def test_a_foreign_name_for_this_machine_is_refused(client, host):
    for path in ("/", "/api/gallery", "/assets/page.js"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421 and "its own address" in answer.json()["error"]


def test_two_hosts_are_none(client):
    answer = client.get("/", headers=[("host", "127.0.0.1:8642"), ("host", "evil.example")])
    assert answer.status_code == 421


def test_a_server_open_to_others_takes_addresses_and_its_names_but_no_others(folder):
    service = PageService(make_gallery(folder), StandIn(), "people")
    with TestClient(build_app(service, ["Shed.local"], addresses=True), base_url=ORIGIN) as client:
        for host, status in (
            ("192.168.1.7:8642", 200),
            ("[fe80::1]:1", 200),
            ("shed.local", 200),
            ("evil.example", 421),
        ):
            assert client.get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1"},
        {"origin": "https://127.0.0.1:8642"}, {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_other_sites_may_not_ask(client, headers):
    answer = client.post("/api/search", json={"key": "0001_c1.png"}, headers=headers)
    assert answer.status_code == 403 and "Another web site" in answer.json()["error"]
    answer = client.post("/api/uploads", content=crop(1), headers={**BYTES, **headers})
    assert answer.status_code == 403


def test_other_sites_may_not_show_pictures_but_may_link_to_the_page(client):
    other = {"sec-fetch-site": "cross-site"}
    assert client.get("/api/picture", params={"key": "0001_c1.png"}, headers=other).status_code == 403
    assert client.get("/", headers=other).status_code == 200
    own = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
    assert client.post("/api/search", json={"key": "0001_c1.png"}, headers=own).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_could_send_is_refused(client, kind):
    body = json.dumps({"key": "0001_c1.png"}).encode()
    assert client.post("/api/search", content=body, headers={"content-type": kind}).status_code == 415
    assert client.post("/api/uploads", content=crop(1), headers={"content-type": kind}).status_code == 415


@given(st.text(max_size=30))
def test_any_host_is_a_name_or_malformed(host):
    name = _name(host)
    assert name is None or name


# --- what is taken


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
    assert for_page(small) == (small, "image/png")
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


# --- what a browser is told


@pytest.mark.parametrize(
    "path", ["/", "/assets/page.js", "/api/gallery", "/nothing", "/api/picture?key=0001_c1.png"]
)
def test_every_answer_carries_the_headers(client, path):
    for headers in ({}, {"host": "evil.example"}):
        answer = client.get(path, headers=headers)
        for name, value in HEADERS.items():
            assert answer.headers.get_list(name) == [value]
        assert "access-control-allow-origin" not in answer.headers and "server" not in answer.headers
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_the_page_has_no_inline_scripts_styles_or_foreign_addresses(client):
    page = client.get("/").text
    for forbidden in (
        "<style",
        " style=",
        "javascript:",
        "onclick",
        "onload",
        "onerror",
        "http://",
        "https://",
    ):
        assert forbidden not in page, forbidden
    assert page.count("<script") == page.count('<script type="module" src="/assets/') == 1
    for name in ("page.js", "cards.js", "detail.js", "filters.js", "keys.js", "server.js", "theme.js"):
        code = client.get(f"/assets/{name}").text
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
        ):
            assert forbidden not in code, (name, forbidden)


def test_hostile_names_stay_text(client):
    listed = client.post("/api/entries", json={"where": {"cameras": [7]}})
    assert listed.headers["content-type"] == "application/json"
    assert listed.json()["entries"][0]["key"] == HOSTILE
    # Their formulas are no formulas in the picture either.
    assert client.post("/api/export/png", json={"key": HOSTILE}).status_code == 200


def test_what_nobody_foresaw_is_one_sentence(folder, monkeypatch):
    service = PageService(make_gallery(folder), StandIn(), "people")
    monkeypatch.setattr(service, "facts", lambda: 1 / 0)
    client = TestClient(build_app(service), base_url=ORIGIN, raise_server_exceptions=False)
    answer = client.get("/api/gallery")
    assert answer.status_code == 500 and "Zero" not in answer.text
    assert answer.json() == {
        "error": "Something went wrong in the program behind this page; its terminal says what."
    }
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_sockets_of_other_kinds_are_closed():
    import asyncio

    sent = []

    async def send(message):
        sent.append(message)

    async def nothing(*_):
        raise AssertionError("it was passed on")

    asyncio.run(
        Guard(nothing, [], False, 1)({"type": "websocket", "path": "/", "headers": []}, nothing, send)
    )
    assert sent == [{"type": "websocket.close", "code": 1008}]
