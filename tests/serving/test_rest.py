"""REST against servers of bytes: answers that drip, never end, are huge, or belong to somebody else."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.serving.client import Client, good_picture
from san_tf.serving.rest import RestTransport
from san_tf.serving.retries import Backoff
from san_tf.serving.transport import Model, WrongAnswerError

PICTURE = good_picture().contents
HEAD = b"HTTP/1.1 200 OK\r\n"
QUICK = Backoff(first=0.01, longest=0.05, attempts=3)


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def predictions(*rows: Iterable[float]) -> bytes:
    return answer(json.dumps({"predictions": [list(row) for row in rows]}).encode())


class Asked:
    """What a server of bytes has seen and sent."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.sent = 0


@contextlib.contextmanager
def server(say: Callable[[int], Iterable[bytes]]) -> Iterator[tuple[str, Asked]]:
    """Answers the n-th request by the blocks of `say(n)`, whatever they are; each request is read whole."""
    asked, listening, ended = Asked(), socket.create_server(("127.0.0.1", 0)), threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            file = connection.makefile("rb")
            while line := file.readline():
                number = len(asked.requests)
                asked.requests.append(line.decode().rsplit(" ", 1)[0])
                length = 0
                while (header := file.readline().strip()) != b"":
                    name, _, value = header.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                file.read(length)
                for block in say(number):
                    if ended.is_set():
                        return
                    connection.sendall(block)
                    asked.sent += len(block)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def drip(begin: bytes, drop: bytes) -> Callable[[int], Iterator[bytes]]:
    def say(_: int) -> Iterator[bytes]:
        yield begin
        while True:
            time.sleep(0.02)
            yield drop

    return say


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"", b"H"),  # no line of status
        (HEAD, b"X"),  # a header without an end
        (HEAD, b"X: 1\r\n"),  # headers without an end
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (HEAD + b"\r\n", b" "),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\n", b" "),
    ],
)
@pytest.mark.parametrize("limits", [{"deadline": 0.4}, {"timeout": 0.15, "backoff": QUICK}])
def test_drops_do_not_keep_a_call_past_its_time(begin: bytes, drop: bytes, limits: dict[str, object]) -> None:
    with server(drip(begin, drop)) as (address, _):
        started = time.monotonic()
        with (
            Client(address, "market", **limits) as client,  # type: ignore[arg-type]
            pytest.raises(UserError, match=r"did not answer|answered 1 images wrongly"),
        ):
            client.embed([PICTURE])
        assert time.monotonic() - started < 1.5


def test_a_wait_that_nothing_can_end_does_not_keep_a_call_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name has no time limit in the operating system."""
    ended = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *_: ended.wait(5))
    started = time.monotonic()
    with (
        Client("http://127.0.0.1:1", "market", deadline=0.1) as client,
        pytest.raises(UserError, match=r"did not answer: no answer in time \(the deadline passed\)"),
    ):
        client.embed([PICTURE])
    assert time.monotonic() - started < 1.5
    ended.set()


def endless(begin: bytes, block: bytes) -> Callable[[int], Iterator[bytes]]:
    def say(_: int) -> Iterator[bytes]:
        yield begin
        while True:
            yield block

    return say


BLOCK = b" " * 2**20


@pytest.mark.parametrize(
    ("begin", "block"),
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + BLOCK + b"\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n100000000\r\n", BLOCK),  # one chunk of 4 GB
        (HEAD + b"Content-Length: 4000000000\r\n\r\n", BLOCK),
        (HEAD + b"\r\n", BLOCK),
        (HEAD + b"\r\n", b"[" * 2**20),
    ],
)
def test_answers_larger_than_embeddings_are_not_read(begin: bytes, block: bytes) -> None:
    with server(endless(begin, block)) as (address, asked):
        tracemalloc.start()
        with (
            Client(address, "market", deadline=20) as client,
            pytest.raises(
                UserError, match=r"answered 1 images wrongly: its answer has more than [\d,]+ bytes"
            ),
        ):
            client.embed([PICTURE])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # One embedding of 16,384 numbers of 40 letters.
    assert peak < 10e6 and asked.sent < 20e6 and len(asked.requests) == 1


def test_errors_larger_than_words_are_cut() -> None:
    with server(
        endless(b"HTTP/1.1 400 No\r\nContent-Length: 4000000000\r\n\r\n", b"word " * 2**17)
    ) as served:
        address, asked = served
        with (
            Client(address, "market", deadline=20) as client,
            pytest.raises(UserError, match=r"HTTP 400: word word .*…") as caught,
        ):
            client.embed([PICTURE])
        assert len(str(caught.value)) < 500 and asked.sent < 30e6


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 50_000,
        b'{"predictions": ' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"predictions": [[' + b"9" * 400 + b"]]}",
        b'{"predictions": [[' + b"9" * 5_000 + b"]]}",
        b'{"predictions": [[1e999]]}',
        b'{"predictions": [[1e39]]}',
        b'{"predictions": [[NaN]]}',
        b'{"predictions": [["1.5"]]}',
        b'{"predictions": [[true]]}',
        b'{"predictions": [[true, 1.5]]}',
        b'{"predictions": [[null]]}',
        b'{"predictions": [[{}]]}',
        b'{"predictions": [[[1.5], 2]]}',
        b'{"predictions": [[]]}',
        b'{"predictions": []}',
        b'{"predictions": {}}',
        b'{"predictions": "a"}',
        b'{"predictions": 1}',
        b'{"predictions": [{"other": [1.5]}]}',
        b'{"outputs": [[1.5]]}',
        b'{"predictions": [[1.5]]',
        b"\xff\xfe",
        b"",
    ],
)
def test_answers_that_are_no_embeddings(body: bytes) -> None:
    with server(lambda _: [answer(body)]) as (address, asked):
        with (
            Client(address, "market", deadline=20) as client,
            pytest.raises(UserError, match="answered 1 images wrongly"),
        ):
            client.embed([PICTURE])
        assert len(asked.requests) == 1


def test_rows_that_name_their_outputs() -> None:
    body = json.dumps({"predictions": [{"texture": 1, "embedding": [1.5, -2]}]}).encode()
    with server(lambda _: [answer(body)]) as (address, _), Client(address, "market") as client:
        np.testing.assert_array_equal(client.embed([PICTURE]), np.float32([[1.5, -2]]))


def test_an_answer_that_nobody_asked_for_is_not_the_next_one() -> None:
    """A second answer on a kept connection would give one image the embedding of another."""

    def say(number: int) -> list[bytes]:
        return [predictions([number + 1.0]) + predictions([-7.0])]

    with server(say) as (address, asked), Client(address, "market") as client:
        for number in range(3):
            assert client.embed([PICTURE])[0, 0] == number + 1
        assert len(asked.requests) == 3


def test_a_body_that_ends_early_is_asked_for_again() -> None:
    def say(number: int) -> Iterator[bytes]:
        whole = predictions([1.5, 2.5])
        yield whole if number else whole[:-4]
        if not number:
            raise OSError

    with server(say) as (address, asked), Client(address, "market", backoff=QUICK) as client:
        np.testing.assert_array_equal(client.embed([PICTURE]), np.float32([[1.5, 2.5]]))
        assert len(asked.requests) == 2


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent"])
def test_pictures_do_not_follow_redirects(status: str) -> None:
    with server(lambda _: [predictions([1.5])]) as (other, asked_there):
        told = answer(b"", status, f"Location: {other}/v1/models/market:predict")
        with server(lambda _: [told]) as (address, asked):
            for images in ([PICTURE], [PICTURE] * 3):
                with (
                    Client(address, "market", batch_size=2) as client,
                    pytest.raises(
                        UserError, match=rf"sends on to {other}/.* \(HTTP 3\d\d\), where no pictures"
                    ),
                ):
                    client.embed(images)
            assert len(asked.requests) == 2 and not asked_there.requests


def test_what_is_no_http() -> None:
    with (
        server(lambda _: [b"SSH-2.0-OpenSSH_9.9\x1b[2J\r\n"]) as (address, asked),
        Client(address, "market") as client,
    ):
        with pytest.raises(UserError, match=r"does not speak HTTP \(it says .*SSH-2.0") as caught:
            client.embed([PICTURE])
        assert str(caught.value).isprintable() and len(asked.requests) == 1


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "407 Proxy Authentication Required"])
def test_permissions(status: str) -> None:
    body = b"The request signature we calculated does not match the signature name you provided."
    with (
        server(lambda _: [answer(body, status)]) as (address, asked),
        Client(address, "market") as client,
        pytest.raises(UserError, match="needs a permission that the client does not have"),
    ):
        client.embed([PICTURE])
    assert len(asked.requests) == 1


def test_current_version() -> None:
    def told(*states: tuple[object, str]) -> bytes:
        status = [{"version": version, "state": state} for version, state in states]
        return answer(json.dumps({"model_version_status": status}).encode())

    answers = [
        (told(("1", "AVAILABLE"), ("12", "AVAILABLE"), ("20", "END"), ("30", "LOADING")), 12),
        (told(("1", "END")), None),
        (told(("x", "AVAILABLE")), None),
        (answer(b"[" * 20_000), None),
        (answer(b"{}"), None),
        (answer(b"{}", "404 Not Found"), None),
        (answer(b"", "405 Method Not Allowed"), None),
    ]
    with server(lambda number: [answers[number][0]]) as (address, asked):
        transport = RestTransport(address, Model("a b", label="stable"))
        assert [transport.current_version(5.0) for _ in answers] == [version for _, version in answers]
        assert set(asked.requests) == {"GET /v1/models/a%20b/labels/stable"}
        assert RestTransport(address, Model("a", 7)).current_version(5.0) == 7
        transport.close()


def test_answers_of_a_named_length(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(lambda _: [predictions(np.arange(1.0, 20_001.0))]) as (address, _):
        with Client(address, "market", embedding_size=20_000) as client:
            assert client.embed([PICTURE]).shape == (1, 20_000)
        transport = RestTransport(address, Model("market"))
        with pytest.raises(WrongAnswerError, match="more than"):
            transport.predict([PICTURE], 5.0)
        transport.close()
