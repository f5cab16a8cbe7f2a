"""No picture but those inside the gallery's folder is ever served."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from plain_people import ORIGIN, StandIn, make_gallery

from san_tf.page.app import build_app
from san_tf.page.server import build_server, listen
from san_tf.page.service import PageService
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.image_files import ImageFolder, NoPictureError, read_inside

BYTES = {"content-type": "application/octet-stream"}


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


def test_links_that_are_made_later_lead_nowhere(folder, tmp_path, monkeypatch):
    for name in ("images", "images/sub", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(name.encode())
    images = ImageFolder(tmp_path / "images")
    assert images.read("sub/a.png") == b"images/sub"
    real = os.open

    def exchanged(path, *more, **named):
        # Between the look at the name and the opening.
        if str(path).endswith("sub/a.png") and not (tmp_path / "images" / "sub").is_symlink():
            (tmp_path / "images" / "sub").rename(tmp_path / "former")
            (tmp_path / "images" / "sub").symlink_to(tmp_path / "elsewhere")
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", exchanged)
    with pytest.raises(NoPictureError, match="is not inside"):
        images.read("sub/a.png")
    monkeypatch.undo()
    with pytest.raises(NoPictureError, match="is not inside"):
        images.read("sub/a.png")
    # The folder itself: decided when the page was started.
    (tmp_path / "images").rename(tmp_path / "other")
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoPictureError, match="is not inside"):
        images.read("a.png")


def test_the_page_shows_the_folder_that_was_named_at_its_start(folder, tmp_path):
    gallery = make_gallery(folder)
    (tmp_path / "link").symlink_to(folder / "images")
    gallery.info = GalleryInfo(6, "stand-in/1", images=str(tmp_path / "link"))
    with TestClient(build_app(PageService(gallery, StandIn(), "people")), base_url=ORIGIN) as client:
        ask = {"params": {"key": "0001_c1.png"}}
        assert client.get("/api/picture", **ask).status_code == 200
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("/")
        gallery.info = GalleryInfo(6, "stand-in/1", images="/")
        evil = Entry("evil", str(folder / "secret.png").lstrip("/"))
        gallery.add(np.ones((1, 6)), [evil])
        assert client.get("/api/picture", params={"key": "evil"}).status_code == 404
        assert client.get("/api/picture", **ask).status_code == 200


@pytest.mark.parametrize("name", ["\ud800", "a" * 300, "a/" * 3000, "\udcff.png", "\n", "\u202e"])
def test_names_that_no_file_has(folder, name):
    with pytest.raises(NoPictureError):
        read_inside(folder / "images", name)


def test_pipes_and_devices_and_giants_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(NoPictureError, match="is not a file"):
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
