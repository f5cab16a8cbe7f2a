"""The client against a stand-in server over real sockets: its answers, and what goes wrong."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from PIL import Image
from stand_in import Fault, Models, serve_grpc, serve_rest, sleep_at, unavailable

from san_tf.data.upright import upright
from san_tf.errors import UserError
from san_tf.serving.client import Client
from san_tf.serving.rest import RestTransport
from san_tf.serving.retries import Backoff, TransientError
from san_tf.serving.transport import Model

QUICK = Backoff(first=0.01, longest=0.05, attempts=6)
Server = tuple[str, Callable[[], None]]


@pytest.fixture(scope="module")
def loaded(served_models: Path) -> Models:
    return Models(served_models)


@pytest.fixture
def models(loaded: Models) -> Models:
    loaded.reset()
    return loaded


@pytest.fixture(params=["grpc", "rest"])
def serve(request: pytest.FixtureRequest, models: Models) -> Callable[..., Server]:
    if request.param == "grpc":
        pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
        return serve_grpc
    return serve_rest


@pytest.fixture
def address(serve: Callable[..., Server], models: Models) -> Iterator[str]:
    where, stop = serve(models)
    yield where
    stop()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, "market", batch_size=8, backoff=QUICK, timeout=10) as made:
        yield made


def test_same_embeddings_as_the_export(
    client: Client, models: Models, photographs: list[bytes], tmp_path: Path
) -> None:
    for number, contents in enumerate(photographs):
        (tmp_path / f"{number}.jpg").write_bytes(contents)
    paths = [tmp_path / f"{number}.jpg" for number in range(len(photographs))]
    mixed = [
        str(path) if n % 3 else contents
        for n, (path, contents) in enumerate(zip(paths, photographs, strict=True))
    ]
    found = client.embed(mixed)
    assert found.dtype == np.float32 and found.shape == (40, 8)
    np.testing.assert_allclose(found, models.expected(photographs, 1), atol=1e-5)
    assert sorted(models.sizes) == [8] * 5
    assert set(models.answered.values()) == {1}


def test_the_guides_example(
    models: Models, photographs: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text()
    (example,) = re.findall(
        r"^```python\n(from san_tf\.serving\.client .*?)^```$", guide, re.DOTALL | re.MULTILINE
    )
    names = re.findall(r"\w+\.jpg", example)
    assert len(names) == 2
    for name, content in zip(names, photographs, strict=False):
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    models.labels = {"stable": 2}
    where, stop = serve_rest(models)
    room: dict[str, Any] = {}
    exec(example.replace("http://localhost:8501", where), room)
    stop()
    np.testing.assert_allclose(room["embeddings"], models.expected(photographs[:2], 2), atol=1e-5)


def test_parts_of_a_batch_and_nothing(client: Client, models: Models, photographs: list[bytes]) -> None:
    np.testing.assert_allclose(client.embed(photographs[:9]), models.expected(photographs[:9], 1), atol=1e-5)
    assert sorted(models.sizes) == [1, 8]
    for nothing in ([], (), iter([]), np.empty((0, 9, 9, 3), np.uint8)):
        found = client.embed(nothing)
        assert found.shape == (0, 8) and found.dtype == np.float32


def test_stream_takes_images_as_they_are_needed(
    client: Client, models: Models, photographs: list[bytes]
) -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(None)
            yield photographs[len(taken) % 40]

    stream = client.stream(endless())
    first, second = next(stream), next(stream)
    expected = models.expected([photographs[n % 40] for n in range(1, 17)], 1)
    np.testing.assert_allclose(np.concatenate([first.embeddings, second.embeddings]), expected, atol=1e-5)
    assert len(taken) <= 8 * 7  # two answered and five waiting
    stream.close()
    time.sleep(0.3)
    asked = models.requests
    time.sleep(0.1)
    assert models.requests == asked  # nothing goes on behind one's back


def test_version_and_label(address: str, models: Models, photographs: list[bytes]) -> None:
    models.labels = {"canary": 2}
    few = photographs[:3]
    for choice, version in (({"version": 2}, 2), ({"label": "canary"}, 2), ({"version": 1}, 1)):
        with Client(address, "market", **choice) as client:  # type: ignore[arg-type]
            np.testing.assert_allclose(client.embed(few), models.expected(few, version), atol=1e-5)
    assert np.abs(models.expected(few, 1) - models.expected(few, 2)).max() > 1e-2


def test_busy_server_is_asked_again(client: Client, models: Models, photographs: list[bytes]) -> None:
    def busy(number: int) -> None:
        if number < 5:
            raise unavailable()

    models.before = busy
    np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 1), atol=1e-5)
    assert models.requests == 5 + 5
    assert set(models.answered.values()) == {1}


def test_server_that_stays_busy(client: Client, models: Models, photographs: list[bytes]) -> None:
    def busy(number: int) -> None:
        raise unavailable()

    models.before = busy
    with pytest.raises(
        UserError, match=r"did not answer: .*queue is full \(6 tries\); check that the server runs"
    ):
        client.embed(photographs[:4])
    assert models.requests == QUICK.attempts


def test_slow_request_is_asked_again(address: str, models: Models, photographs: list[bytes]) -> None:
    models.before = sleep_at(1, seconds=1.2)
    with Client(address, "market", batch_size=8, backoff=QUICK, timeout=0.7) as client:
        found = client.embed(photographs)
    np.testing.assert_allclose(found, models.expected(photographs, 1), atol=1e-5)
    assert models.requests >= 6


def test_slow_server_meets_the_deadline(address: str, models: Models, photographs: list[bytes]) -> None:
    models.before = lambda number: time.sleep(1.5)
    begin = time.monotonic()
    with (
        Client(address, "market", backoff=QUICK, timeout=5, deadline=0.3) as client,
        pytest.raises(UserError, match=r"did not answer: no answer in time .*deadline passed"),
    ):
        client.embed(photographs[:2])
    assert time.monotonic() - begin < 1.4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_dead_server(serve: Callable[..., Server], photographs: list[bytes]) -> None:
    head = "http://" if serve is serve_rest else ""
    address = f"{head}127.0.0.1:{free_port()}"
    with (
        Client(address, "market", backoff=QUICK) as client,
        pytest.raises(UserError, match=rf"{address} did not answer: .*refused.* \(6 tries\)"),
    ):
        client.embed(photographs[:2])


def test_server_that_is_started_again(
    serve: Callable[..., Server], models: Models, photographs: list[bytes]
) -> None:
    address, stop = serve(models)
    port = int(address.rsplit(":", 1)[1])
    patient = Backoff(first=0.05, longest=0.2, attempts=50)
    stops: list[Callable[[], None]] = []
    with Client(address, "market", batch_size=4, backoff=patient, timeout=5) as client:
        np.testing.assert_allclose(
            client.embed(photographs[:4]), models.expected(photographs[:4], 1), atol=1e-5
        )
        stop()
        threading.Timer(0.3, lambda: stops.append(serve(models, port)[1])).start()
        models.answered.clear()
        np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 1), atol=1e-5)
        assert set(models.answered.values()) == {1}
    stops[0]()


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (lambda e: e[:-1], r"answered 4 images wrongly: there are 3 embeddings"),
        (lambda e: np.concatenate([e, e]), r"there are 8 embeddings"),
        (lambda e: e[:, :, None], r"the shape \(4, 8, 1\) instead of"),
        (lambda e: e[:, 0], r"the shape \(4,\) instead of"),
        (lambda e: np.where(np.arange(8) == 3, np.nan, e).astype(np.float32), "holds NaN or infinity"),
        (lambda e: np.where(np.arange(8) == 3, np.inf, e).astype(np.float32), "holds NaN or infinity"),
        (lambda e: np.where(np.arange(len(e))[:, None] == 2, 0, e).astype(np.float32), "holds only zeros"),
        (
            lambda e: np.concatenate([e] * 2500, axis=1),
            "20,000 numbers, more than 16,384|more than embeddings",
        ),
        (lambda e: e[:, :5], r"embeddings of 5 numbers where 8 were expected"),
    ],
)
def test_lying_server(
    lie: Callable[[np.ndarray], np.ndarray],
    sentence: str,
    address: str,
    models: Models,
    photographs: list[bytes],
) -> None:
    models.lie = lie
    with (
        Client(address, "market", backoff=QUICK, embedding_size=8) as client,
        pytest.raises(UserError, match=sentence),
    ):
        client.embed(photographs[:4])
    assert models.requests == 1  # a lie is not asked for again


def test_length_that_changes(client: Client, models: Models, photographs: list[bytes]) -> None:
    lengths = iter([8, 5, 8, 8, 8])
    models.lie = lambda embeddings: embeddings[:, : next(lengths)]
    with pytest.raises(UserError, match=r"embeddings of \d numbers where \d were expected"):
        list(client.stream(photographs))


@pytest.mark.parametrize(
    "raw", [b"<html>", b"[]", b'{"outputs": 1}', b'{"predictions": [[1, 2], [3]]}', b'{"pre']
)
def test_rest_answers_that_are_none(raw: bytes, models: Models, photographs: list[bytes]) -> None:
    models.raw = raw
    address, stop = serve_rest(models)
    with Client(address, "market") as client, pytest.raises(UserError, match="answered 2 images wrongly"):
        client.embed(photographs[:2])
    stop()


def test_rest_connections_are_kept(models: Models, photographs: list[bytes]) -> None:
    address, stop = serve_rest(models)
    with Client(address, "market", batch_size=8) as client:
        for _ in range(4):
            client.embed(photographs[:24])
    assert models.requests == 12
    assert models.connections <= 2  # no more than requests under way
    transport = RestTransport(address, Model("market"))
    transport.predict(photographs[:1], 10.0)
    models.before = lambda number: time.sleep(1.5)
    begin = time.monotonic()
    with pytest.raises(TransientError, match="no answer in time"):
        transport.predict(photographs[:1], 0.2)  # the connection is the one of before, the patience is not
    assert time.monotonic() - begin < 1.4
    transport.close()
    stop()


def test_undecodable_file_is_named(client: Client, photographs: list[bytes], tmp_path: Path) -> None:
    # A good head and nothing behind it: only who decodes the file can tell.
    broken = tmp_path / "cut.jpg"
    broken.write_bytes(photographs[1][: photographs[1].index(b"\xff\xda")])
    with pytest.raises(UserError, match=rf"{broken} was refused by .*leave it out or repair it"):
        client.embed([*photographs[:5], broken, *photographs[5:9]])


def test_stranger_in_the_same_run_is_survived(
    client: Client, models: Models, photographs: list[bytes]
) -> None:
    def refuse(number: int) -> None:
        if number < 2:
            raise Fault("INVALID_ARGUMENT", 400, "Invalid PNG data")

    models.before = refuse
    np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 1), atol=1e-5)
    assert set(models.answered.values()) == {1}


def test_swap_under_load_loses_nothing(
    address: str, models: Models, photographs: list[bytes], serve: Callable[..., Server]
) -> None:
    """Many callers, a version that changes between their requests, a server that is busy while it does."""

    def busy(number: int) -> None:
        time.sleep(0.002)
        if number == 32:
            models.current = 2
        if number in (32, 33, 34):
            raise unavailable()

    models.before = busy
    wanted = {version: models.expected(photographs, version) for version in (1, 2)}
    models.answered.clear()

    def embed(number: int) -> list[int]:
        # Each caller has the photographs in an order of its own, so that a mix-up shows.
        order = np.random.default_rng(number).permutation(40)
        with Client(address, "market", batch_size=8, backoff=QUICK, timeout=10) as client:
            if serve is serve_grpc:
                found = client.embed([photographs[n] for n in order])
                ((version, _),) = [
                    (v, 0) for v in (1, 2) if np.allclose(found, wanted[v][order], rtol=0, atol=1e-5)
                ]
                return [version]
            # REST does not tell the version: each batch is of one, and the caller is the judge.
            batches = [answer.embeddings for answer in client.stream(photographs[n] for n in order)]
            return [
                version
                for place, found in enumerate(batches)
                for version in (1, 2)
                if np.allclose(found, wanted[version][order[8 * place : 8 * place + 8]], rtol=0, atol=1e-5)
            ]

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(embed, range(12)))
    flat = [version for found in versions for version in found]
    assert set(flat) == {1, 2}, "the swap came in the middle"
    assert len(flat) == (12 if serve is serve_grpc else 60)
    total = sum(models.answered.values())
    if serve is serve_grpc:
        # Callers that met the swap had what version 1 had answered answered again by version 2. A batch that
        # was retried over the swap may be answered twice: version 1 had answered the batch behind it before.
        switched = flat.count(2)
        assert all(switched <= models.answered[contents, 2] <= 2 * switched for contents in photographs)
        assert 40 * switched <= sum(models.answered[contents, 2] for contents in photographs) <= 48 * switched
        assert 12 * 40 <= total < 2 * 12 * 40
    else:
        assert total == 12 * 40
        assert all(models.answered[c, 1] + models.answered[c, 2] == 12 for c in photographs)


def test_swap_in_the_middle_of_a_call(models: Models, photographs: list[bytes]) -> None:
    pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    address, stop = serve_grpc(models)
    with Client(address, "market", batch_size=8, in_flight=1) as client:
        # Of the five batches, version 1 answers two; or only the last, so that the others look stale.
        for by_first, again in (((0, 1), 2), ((4,), 5)):
            models.reset()

            def swap(number: int, by_first: tuple[int, ...] = by_first) -> None:
                models.current = 1 if number in by_first else 2

            models.before = swap
            np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 2), atol=1e-5)
            assert models.requests == 5 + again
    stop()


def test_stream_tells_the_version(models: Models, photographs: list[bytes]) -> None:
    pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")

    def swap(number: int) -> None:
        models.current = 1 if number < 2 else 2

    models.before = swap
    address, stop = serve_grpc(models)
    with Client(address, "market", batch_size=8, in_flight=1) as client:
        assert [answer.version for answer in client.stream(photographs)] == [1, 1, 2, 2, 2]
        models.before = lambda number: setattr(models, "current", 1 + number % 2)
        with pytest.raises(UserError, match="answers by versions 1 and 2 in turn"):
            client.embed(photographs)
    stop()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_one_embedding_of_a_file_that_lies_on_its_side(
    kind: str, client: Client, models: Models, tmp_path: Path
) -> None:
    """The client turns it, as `san-tf embed` does; the export does, too, whoever sends a JPEG or PNG file."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 4, 3), dtype=np.uint8))
    picture = picture.resize((32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    path, standing = tmp_path / "phone", io.BytesIO()
    on_its_side = picture.transpose(Image.Transpose.ROTATE_90)
    on_its_side.save(path, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {"quality": 98}))
    picture.save(standing, "PNG")
    wanted, lying = client.embed([standing.getvalue(), path])
    bulk = models.loaded[1](image_bytes=tf.constant([upright(path.read_bytes())]))["embedding"].numpy()[0]
    np.testing.assert_allclose(lying, bulk, atol=1e-6)
    assert float(wanted @ lying) > (0.99 if kind == "JPEG" else 0.999999)
    if kind in ("JPEG", "PNG"):
        raw = models.loaded[1](image_bytes=tf.constant([path.read_bytes()]))["embedding"].numpy()[0]
        np.testing.assert_allclose(raw, bulk, atol=1e-3)


def test_what_never_ends_is_not_read(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(UserError, match=f"{name} cannot be read .is a pipe or a device, not a file"):
            client.embed([tmp_path / name])


def png_header(height: int, width: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_nothing_is_sent_that_is_no_image(
    client: Client, models: Models, photographs: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "huge.png").write_bytes(png_header(20_000, 20_000))
    for name, sentence in (
        ("text.jpg", "text.jpg is not an image in a supported format, or is damaged; leave it out"),
        ("empty.png", "empty.png is empty"),
        ("huge.png", "huge.png has 20000 x 20000 pixels, more than 50 million"),
        ("absent.jpg", r"absent.jpg cannot be read \(No such file or directory\)"),
        (".", r"cannot be read \(Is a directory\)"),
    ):
        with pytest.raises(UserError, match=sentence):
            client.embed([tmp_path / name])
    with pytest.raises(UserError, match="Image 1 is empty"):
        client.embed([photographs[0], b""])
    assert models.requests == 0


@pytest.mark.parametrize(
    ("model", "choice", "sentence"),
    [
        ("other", {}, r"does not serve the model 'other' \(.*Latest\(other\)\); see the names"),
        ("market", {"version": 2}, r"does not serve version 2 of the model 'market' \(.*\(market, 2\)\)"),
        ("market", {"label": "stabel"}, r"has no version with the label 'stabel' \(.*Unrecognized.*\); see"),
    ],
)  # fmt: skip
def test_unknown_models_versions_and_labels(
    address: str, models: Models, photographs: list[bytes], model: str, choice: dict[str, Any], sentence: str
) -> None:
    models.unloaded = {2}
    with Client(address, model, **choice) as client, pytest.raises(UserError, match=sentence):
        client.embed(photographs)  # two batches
    assert models.requests == 1


@pytest.mark.parametrize(
    ("code", "number", "told", "sentence", "requests"),
    [
        # predict_util.cc and http_rest_api_handler.cc of TensorFlow Serving
        ("FAILED_PRECONDITION", 400, 'Serving signature name: "serving_bytes" not found in signature def',
         "serves another kind of model as the model 'market', without the signature serving_bytes", 1),
        ("INVALID_ARGUMENT", 400, "input tensor alias not found in signature: image_bytes. Inputs expected "
         "to be in the set {images}.", "serves another kind of model", 1),
        ("INVALID_ARGUMENT", 400, "output tensor alias not found in signature: embedding Outputs expected to "
         "be in the set {y}.", "serves another kind of model", 1),
        ("INVALID_ARGUMENT", 400, "input size does not match signature: 1!=2 len({image_bytes}) != "
         "len({a,b}). Sent extra: {image_bytes}. Missing but required: {a,b}.",
         "serves another kind of model", 1),
        # json_tensor.cc
        ("INVALID_ARGUMENT", 400, "JSON object: does not have named input: image_bytes",
         "serves another kind of model", 1),
        ("INVALID_ARGUMENT", 400, 'JSON Value: {"b64": "iVBO"} Type: Object is not of expected type: uint8',
         "serves another kind of model", 1),
        ("INVALID_ARGUMENT", 400, "Malformed request: POST /v1/models/market/labels/stable:predict",
         "does not know the path of the request for the model 'market' .*; see the address", 1),
        # words that nobody foresaw: a grey picture shows that no picture would do, twice for strangers' sake
        ("INVALID_ARGUMENT", 400, "Expects arg[0] to be string but uint8 is provided",
         r"refuses a plain grey image as well \(.*Expects arg\[0\].*\); check that the model", 3),
        ("RESOURCE_EXHAUSTED", 413, "SERVER: Received message larger than max (90 vs. 10)",
         "finds a request of one small image too large .*; raise its limit, or that of the proxy", 2),
        ("PERMISSION_DENIED", 403, "who are you?", "needs a permission that the client does not have", 1),
        ("UNAUTHENTICATED", 401, "who are you?", "needs a permission that the client does not have", 1),
        ("UNIMPLEMENTED", 501, "unknown service", "unknown service", 1),
    ],
)  # fmt: skip
def test_no_picture_is_blamed_for_the_server(
    address: str, models: Models, photographs: list[bytes],
    code: str, number: int, told: str, sentence: str, requests: int,
) -> None:  # fmt: skip
    def refuse(_: int) -> None:
        raise Fault(code, number, told)

    models.before = refuse
    with (
        Client(address, "market", batch_size=32, deadline=20) as client,
        pytest.raises(UserError, match=sentence) as caught,
    ):
        client.embed(photographs)
    assert models.requests == requests
    assert "leave it out" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "number", "told", "most"),
    [
        ("INVALID_ARGUMENT", 400, "Task size {} is larger than maximum batch size 3", 3),
        ("INVALID_ARGUMENT", 400, "Task size {} is larger than maximum input batch size 3", 3),
        ("RESOURCE_EXHAUSTED", 429, "OOM when allocating tensor with shape[{},64,128,3]", 5),
        ("RESOURCE_EXHAUSTED", 429, "SERVER: Received message larger than max ({}000000 vs. 4194304)", 5),
        ("RESOURCE_EXHAUSTED", 413, "Received message larger than max ({}000000 vs. 4194304)", 1),
    ],
)
def test_batches_that_are_too_large_are_divided(
    address: str, models: Models, photographs: list[bytes], code: str, number: int, told: str, most: int
) -> None:
    def refuse(request: int) -> None:
        if models.sizes[request] > most:
            raise Fault(code, number, told.format(models.sizes[request]))

    models.before = refuse
    with Client(address, "market", batch_size=16, backoff=QUICK, deadline=20) as client:
        np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 1), atol=1e-5)
        # It is learnt from: with a number told, nothing is refused any more.
        models.sizes.clear()
        models.requests = 0
        np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 1), atol=1e-5)
    assert max(models.sizes) < 16
    if "batch size" in told:
        assert max(models.sizes) <= most


def test_a_lack_of_memory_for_one_picture_is_waited_for(
    client: Client, models: Models, photographs: list[bytes]
) -> None:
    def refuse(number: int) -> None:
        if number < 3:
            raise Fault("RESOURCE_EXHAUSTED", 429, "OOM when allocating tensor with shape[1,64,128,3]")

    models.before = refuse
    np.testing.assert_allclose(client.embed(photographs[:1]), models.expected(photographs[:1], 1), atol=1e-5)
    assert models.requests == 4


def test_a_server_that_hangs_up_on_large_requests(models: Models) -> None:
    """A few servers and proxies close the connection instead of answering 413."""
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 256, (200, 200, 3), dtype=np.uint8) for _ in range(8)]
    address, stop = serve_rest(models)
    models.most_bytes = 700_000
    with Client(address, "market", batch_size=8, backoff=QUICK, deadline=20) as client:
        found = client.embed(pictures)
        np.testing.assert_allclose(found, client.embed(pictures), atol=1e-6)
    assert max(models.sizes) == 4 and models.sizes[0] == 1  # the grey picture
    # One that hangs up on everything is not there.
    models.most_bytes = 0
    with (
        Client(address, "market", batch_size=8, backoff=QUICK, deadline=20) as client,
        pytest.raises(UserError, match=r"did not answer: .*(closed|reset)"),
    ):
        client.embed(pictures)
    stop()


def test_a_single_picture_that_is_too_large(client: Client, models: Models, photographs: list[bytes]) -> None:
    def refuse(number: int) -> None:
        if number != 1:  # the grey picture that shows whether the server takes any
            raise Fault("RESOURCE_EXHAUSTED", 413, "Received message larger than max (5 vs. 4)")

    models.before = refuse
    size = f"{len(photographs[0]):,}"
    with pytest.raises(UserError, match=rf"Image 0 has {size} bytes, more than .*; send a smaller image, or"):
        client.embed(photographs[:2])
    assert models.requests == 3


def test_words_of_the_server_do_not_steer_the_terminal(
    client: Client, models: Models, photographs: list[bytes]
) -> None:
    def refuse(_: int) -> None:
        raise Fault("PERMISSION_DENIED", 403, "\x1b[2J\x1b]0;owned\x07 \u202egnp.exe\r\n" + "long " * 500)

    models.before = refuse
    with pytest.raises(UserError) as caught:
        client.embed(photographs[:2])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert r"\x1b[2J" in str(caught.value)


def test_arrays_and_pictures(client: Client, models: Models) -> None:
    rng = np.random.default_rng(5)
    arrays = rng.integers(0, 256, (4, 30, 20, 3), dtype=np.uint8)
    served = models.models[1].signatures["serving_default"]
    wanted = served(images=tf.constant(arrays))["embedding"].numpy()
    pictures = [PIL.Image.fromarray(array) for array in arrays]
    for images in (arrays, list(arrays), pictures, (array for array in arrays), arrays[:, ::-1][:, ::-1]):
        np.testing.assert_allclose(client.embed(images), wanted, atol=1e-5)


def test_what_is_no_list_of_images(client: Client, models: Models, tmp_path: Path) -> None:
    array = np.zeros((30, 20, 3), np.uint8)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for images, sentence in (
        ("a.jpg", r"are a single path; put it into a list: \[path\]"),
        (tmp_path / "a.jpg", "are a single path"),
        (b"\xff\xd8", "are a single image"),
        (array, "are a single image"),
        (PIL.Image.fromarray(array), "are a single image"),
        ({"a.jpg", "b.jpg"}, "are a set; give a list"),
        ({"a.jpg": 1}, "are a dict; give a list"),
        (np.array("a.jpg"), "are a single path"),
        (tf.constant(b"\xff\xd8"), "are a single path"),
        (io.BytesIO(b"\xff\xd8"), "are an open file; put its path"),
        ([io.BytesIO(b"\xff\xd8")], "Image 0 is a BytesIO; give the path or the contents"),
        (None, "are a NoneType; give a list"),
        (7, "are a int; give a list"),
        ([None], "Image 0 is a NoneType; give the path or the contents"),
        ([1.5], "Image 0 is a float; give"),
        ([array / 255], r"Image 0 is a float64 array \(30, 20, 3\); give uint8"),
        ([array[..., 0]], r"Image 0 is a uint8 array \(30, 20\); give uint8"),
        ([array[:0]], "Image 0 has no pixels"),
        ([PIL.Image.new("F", (3, 3))], r"in the mode F; give image.convert\('RGB'\)"),
        (["a\0b"], "cannot be read"),
        ([fifo], "fifo cannot be read .is a pipe or a device"),
        (["/dev/zero"], "/dev/zero cannot be read .is a pipe or a device"),
        ([os.fsdecode(b"n\xe4me\x1b[2J.jpg")], r"n\\udce4me\\x1b\[2J.jpg cannot be read"),
    ):
        for embed in (client.embed, lambda images: list(client.stream(images))):
            with pytest.raises(UserError, match=sentence):
                embed(images)
    assert models.requests == 0


def test_pictures_in_memory_are_turned_upright(client: Client) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(pixels).transpose(PIL.Image.Transpose.ROTATE_90).save(stream, "PNG", exif=exif)
    turned, plain = client.embed([PIL.Image.open(stream), pixels])
    np.testing.assert_allclose(turned, plain, atol=1e-6)


def test_exchanged_ports(models: Models, photographs: list[bytes]) -> None:
    pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    grpc_address, stop_grpc = serve_grpc(models)
    rest_address, stop_rest = serve_rest(models)
    begin = time.monotonic()
    for address, sentence in (
        (f"http://{grpc_address}", "speaks gRPC, not REST; write grpc://HOST:8500"),
        (
            rest_address.removeprefix("http://"),
            "does not speak gRPC; if it is a server's REST port, write http",
        ),
        (rest_address.replace("http", "https"), "cannot be asked by TLS"),
        (f"grpcs://{grpc_address}", "cannot be asked by TLS"),
    ):
        with Client(address, "market") as client, pytest.raises(UserError, match=sentence):
            client.embed(photographs[:2])
    assert time.monotonic() - begin < 3  # at the first request: pauses would add up to ten seconds
    assert models.requests == 0
    stop_grpc()
    stop_rest()


def test_rest_swap_in_the_middle_of_a_call(models: Models, photographs: list[bytes]) -> None:
    """Versions are named in requests; one that is unloaded meanwhile has its batches asked again."""
    address, stop = serve_rest(models)

    with Client(address, "market", batch_size=8, in_flight=1) as client:
        for unloaded, version in ((set[int](), 1), ({1}, 2)):
            models.reset()

            def swap(number: int, unloaded: set[int] = unloaded) -> None:
                models.current = 1 if number < 2 else 2
                models.unloaded = unloaded if number >= 2 else set()

            models.before = swap
            found = client.embed(photographs)
            np.testing.assert_allclose(found, models.expected(photographs, version), atol=1e-5)
    models.reset()
    models.labels = {"stable": 2}
    with Client(address, "market", label="stable", batch_size=8) as client:
        models.before = lambda number: models.labels.update(stable=1)
        np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 2), atol=1e-5)
        models.labels = {"stable": 2}
        assert [each.version for each in client.stream(photographs)] == [2] * 5
    stop()


def test_rest_swap_that_nobody_tells(models: Models, photographs: list[bytes]) -> None:
    address, stop = serve_rest(models)
    models.tells_versions = False
    with Client(address, "market", batch_size=8, in_flight=1) as client:
        np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 1), atol=1e-5)
        assert models.requests == 5 + 1
        asked = models.requests
        models.before = lambda number: setattr(models, "current", 1 if number < asked + 2 else 2)
        np.testing.assert_allclose(client.embed(photographs), models.expected(photographs, 2), atol=1e-5)
        models.before = lambda number: setattr(models, "current", 1 + number % 2)
        with pytest.raises(UserError, match=r"answers by several models in turn.*name one with version="):
            client.embed(photographs[:24])
    stop()


@pytest.mark.parametrize(
    ("server", "values", "sentence"),
    [
        ("ftp://host", {}, "is not an address of a server"),
        ("grpc://", {}, "is not an address of a server"),
        ("http://", {}, "is not an address of a REST server"),
        ("http://host:port", {}, "is not an address of a REST server"),
        ("http://host", {"version": 1, "label": "stable"}, "not both"),
        ("http://host", {"batch_size": 0}, "batch_size must be at least 1; received 0"),
        ("http://host", {"in_flight": 0}, "in_flight must be at least 1"),
        ("http://host", {"timeout": 0}, "must be above 0 s"),
        ("http://host", {"deadline": -1}, "must be above 0 s"),
        ("http://host", {"timeout": float("nan")}, "timeout must be above 0 s"),
        ("http://host", {"deadline": float("inf")}, "at most 1,000,000 s"),
        ("http://host", {"batch_size": 2.5}, "batch_size must be at least 1; received 2.5"),
        ("http://host", {"embedding_size": 0}, "embedding_size must be at least 1"),
        ("http://host", {"version": 0}, "version must be a number from 1"),
        ("http://host", {"label": ""}, "label must be a name"),
        ("http://me:secret@host", {}, "Names and passwords .* are not sent; leave them out"),
        ("http://host?x=1", {}, "is not an address of a REST server"),
        ("http://[::1", {}, "is not an address of a REST server"),
        ("http://host\x1b[2J", {}, "server must be a name"),
        ("localhost", {}, "does not give the server's port; write grpc://HOST:8500"),
        ("localhost:grpc", {}, "does not give the server's port"),
        ("", {}, "server must be a name"),
    ],
)
def test_impossible_values(server: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Client(server, "market", **values)


def test_grpc_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tensorflow_serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    with pytest.raises(UserError, match=r'pip install "san-tf\[serving\]".*or use REST'):
        Client("localhost:8500", "market")


def test_progress_counts_batches(
    client: Client, photographs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def with_bar(items: Any, description: str | None, total: int) -> Iterator[Any]:
        seen.append((description, total))
        for item in items:
            seen.append(len(item))
            yield item

    monkeypatch.setattr("san_tf.serving.client.with_bar", with_bar)
    client.embed(photographs[:20], progress="Embedding")
    assert seen == [("Embedding", 3), 1, 1, 1]
