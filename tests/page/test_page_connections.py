"""Connections that idle, drip, lie or go away, and many at once: against a server that really listens."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time

import pytest
from plain_people import StandIn, crop, make_gallery

from san_tf.page.app import build_app
from san_tf.page.guard import Patience
from san_tf.page.server import Limits, build_server, listen
from san_tf.page.service import PageService

OWN = b"Host: localhost\r\n"
GET = b"GET /assets/page.js HTTP/1.1\r\n" + OWN + b"\r\n"
LIMITS = Limits(silence=0.4, reading=0.8, connections=20)
PATIENCE = Patience(body=0.6, still=0.02)
UPLOAD, HELD = 100_000, 250_000


@pytest.fixture(scope="module")
def served(folder):
    guard = build_app(
        PageService(make_gallery(folder), StandIn(), "people"),
        upload_bytes=UPLOAD, patience=PATIENCE, held_bytes=HELD,
    )  # fmt: skip
    server, started = listen("127.0.0.1", 0), threading.Event()
    running = build_server(guard, started.set, LIMITS)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [server]}, daemon=True)
    thread.start()
    assert started.wait(20)
    yield server.getsockname()[1], guard
    running.should_exit = True
    thread.join(10)
    server.close()


@pytest.fixture
def port(served, caplog):
    with caplog.at_level(logging.ERROR):
        yield served[0]
    assert caplog.records == []  # no traceback, whatever the other side did


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def _all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def _asked(port: int, request: bytes) -> bytes:
    with _connect(port) as connection:
        connection.sendall(request.replace(OWN, OWN + b"Connection: close\r\n", 1))
        return _all(connection)


def _upload(content: bytes, stated: int | None = None) -> bytes:
    size = len(content) if stated is None else stated
    return (
        b"POST /api/uploads HTTP/1.1\r\n" + OWN + b"Content-Type: application/octet-stream\r\n"
        b"Content-Length: %d\r\n\r\n" % size
    ) + content  # fmt: skip


def _is_closed(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(65536) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "begin", [b"", b"G", GET[:-2], GET + b"GET / HT"], ids=["idle", "drip", "head", "second"]
)
def test_a_head_that_does_not_come_ends_the_connection(port, begin):
    with _connect(port) as connection:
        connection.sendall(begin)
        began = time.monotonic()
        if begin.startswith(GET):
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        # Bytes that drip in do not make it longer.
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 5:
                connection.sendall(b"x")
                connection.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(65536):
                        break
        assert LIMITS.silence * 0.7 < time.monotonic() - began < 4


def test_idle_connections_keep_nobody_out(port):
    idle = [_connect(port) for _ in range(3 * LIMITS.connections)]
    for connection in idle[::2]:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: lo")
    for _ in range(5):
        assert _asked(port, GET).startswith(b"HTTP/1.1 200")
    # Those that were too many went at once, the first ones first, the others when their time was over.
    assert all(_is_closed(connection, 3) for connection in idle)


@pytest.mark.parametrize("slow", ["body", "chunks", "unread"])
def test_slow_requests_and_answers_keep_nobody_out(port, slow):
    """They are not silent: each sends a byte now and then, or takes none of what it asked for."""
    chunked = _upload(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    begin = {"body": _upload(b"x", UPLOAD), "chunks": chunked, "unread": GET * 40}[slow]
    dripping = []
    for _ in range(LIMITS.connections + 10):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.send(begin)
        dripping.append(connection)
    for _ in range(5):
        for connection in dripping:
            with contextlib.suppress(OSError):
                connection.send({"body": b"x", "chunks": b"1\r\nx\r\n", "unread": b""}[slow])
        assert _asked(port, GET).startswith(b"HTTP/1.1 200")
    for connection in dripping:
        connection.close()


def test_a_body_that_drips_is_told_and_closed(port):
    for content in (b"", b"x" * (UPLOAD - 1)):
        with _connect(port) as connection:
            connection.sendall(_upload(content, UPLOAD))
            began = time.monotonic()
            answer = _all(connection)
            assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive in time" in answer
            assert time.monotonic() - began < 4


def test_bodies_that_stand_still_hold_no_memory_and_keep_nobody_out(served, port):
    guard, most = served[1], 0
    stalled = []
    for _ in range(12):
        connection = _connect(port)
        connection.sendall(_upload(b"x" * (UPLOAD - 1), UPLOAD))
        stalled.append(connection)
        time.sleep(2 * PATIENCE.still)
        most = max(most, guard._uploads._held)
    assert UPLOAD < most <= HELD
    assert _asked(port, _upload(crop(1))).startswith(b"HTTP/1.1 200")
    for connection in stalled:
        assert b" 408 " in _all(connection)[:20]
        connection.close()
    assert guard._uploads._held == 0 and not guard._uploads._arriving


def test_lengths_that_lie(port):
    # Less than was said, and gone.
    with _connect(port) as connection:
        connection.sendall(_upload(b"x" * 10, 1000))
    # More than was said: what follows is not a request.
    answer = _asked(port, _upload(crop(1), 5) + b"\r\n")
    assert answer.count(b"HTTP/1.1 ") <= 2 and b" 200 " not in answer
    for length in (b"-1", b"1e3", b"0x10", b"+5", b"5, 6", b"9" * 5000, b""):
        answer = _asked(port, _upload(b"").replace(b"Content-Length: 0", b"Content-Length: " + length))
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413"), length
        assert b'{"error": ' in answer and b"content-security-policy" in answer.lower()
    # Too large by its length, and the body still to come: read away, for a while.
    with _connect(port) as connection:
        connection.sendall(_upload(b"x" * 1000, 10**9))
        began = time.monotonic()
        assert _all(connection).startswith(b"HTTP/1.1 413") and time.monotonic() - began < 4


def test_who_takes_no_answer_is_let_go(port):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 8:
                with contextlib.suppress(BlockingIOError):
                    connection.send(GET * 100)
                time.sleep(0.02)
        assert time.monotonic() - began < 6  # the sending failed: nobody is there any more


def test_requests_behind_each_other_are_answered_in_their_order(port):
    second = b"GET /nothing HTTP/1.1\r\n" + OWN + b"\r\n"
    answer = _asked(port, GET.replace(OWN, OWN, 1))
    with _connect(port) as connection:
        connection.sendall(GET + second + GET.replace(OWN, OWN + b"Connection: close\r\n"))
        together = _all(connection)
    assert [part[:3] for part in together.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]
    assert together.endswith(answer.partition(b"\r\n\r\n")[2])


def test_heads_ranges_and_upgrades(port):
    whole = _asked(port, GET)
    head, _, body = whole.partition(b"\r\n\r\n")
    asked = _asked(port, GET.replace(b"GET", b"HEAD", 1))
    without_clock = [line for line in head.split(b"\r\n") if not line.startswith(b"date:")]
    assert [line for line in asked.split(b"\r\n") if not line.startswith(b"date:")] == [
        *without_clock,
        b"",
        b"",
    ]
    for more in (
        b"Range: bytes=0-9\r\n", b"Range: bytes=" + b"0-1," * 5000 + b"2-3\r\n", b"Expect: 100-continue\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n",
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ):  # fmt: skip
        answer = _asked(port, GET.replace(OWN, OWN + more)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(body), more[:30]


def test_a_thousand_parameters_and_long_names(port):
    address = b"/api/picture?" + b"key=x&" * 9000 + b"key=0001_c1.png"
    answer = _asked(port, b"GET " + address + b" HTTP/1.1\r\n" + OWN + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400") and b"key" in answer and len(answer) < 2000
    answer = _asked(port, b"GET /api/picture?key=0001_c1.png HTTP/1.1\r\n" + OWN + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and b"PNG" in answer
    for key in (b"x" * 5000, b"%ff" * 1000, b"%00", b"\xe2\x80\xae"):
        answer = _asked(port, b"GET /api/picture?key=" + key + b" HTTP/1.1\r\n" + OWN + b"\r\n")
        assert answer[9:12] in (b"400", b"404", b"422") and len(answer) < 2000
    assert b" 400 " in _asked(port, b"GET / HTTP/1.1\r\n" + OWN + b"X: " + b"x" * 200_000 + b"\r\n\r\n")[:20]


def test_browsers_that_go_away_are_not_waited_for(served, port):
    question = json.dumps({"key": "0001_c1.png", "top": 50}).encode()
    for path in (b"/api/search", b"/api/export/png"):
        for _ in range(5):
            with _connect(port) as connection:
                connection.sendall(
                    b"POST " + path + b" HTTP/1.1\r\n" + OWN + b"Content-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(question), question)
                )  # fmt: skip
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )  # as by a crash
    assert _asked(port, GET).startswith(b"HTTP/1.1 200")


def test_sixty_four_at_once(folder):
    service = PageService(make_gallery(folder), StandIn(), "people")
    server, started = listen("127.0.0.1", 0), threading.Event()
    running = build_server(build_app(service), started.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [server]}, daemon=True)
    thread.start()
    assert started.wait(20)
    port, answers = server.getsockname()[1], []
    question = b'{"key": "0001_c1.png", "top": 3}'
    search = (
        b"POST /api/search HTTP/1.1\r\n" + OWN + b"Content-Type: application/json\r\nOrigin: http://localhost\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(question), question)
    )  # fmt: skip
    picture = b"GET /api/picture?key=0002_c1.png HTTP/1.1\r\n" + OWN + b"\r\n"
    requests = [search, picture, GET, _upload(crop(2))] * 16
    together = [
        threading.Thread(target=lambda request=request: answers.append(_asked(port, request)[:12]))
        for request in requests
    ]
    for one in together:
        one.start()
    for one in together:
        one.join(30)
    running.should_exit = True
    thread.join(10)
    server.close()
    assert answers == [b"HTTP/1.1 200"] * 64
