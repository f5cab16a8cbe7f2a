"""Answers by gRPC that claim more than they hold, or hold something else."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from san_tf.errors import UserError
from san_tf.serving.client import Client, good_picture

grpc = pytest.importorskip("grpc")
predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
PICTURE = good_picture().contents


class Service:
    """PredictionService with an answer of bytes that a test chooses."""

    def __init__(self) -> None:
        self.answer, self.requests = b"", 0
        self.compression: Any = None

    def service(self, details: Any) -> Any:
        def predict(request: bytes, context: Any) -> bytes:
            self.requests += 1
            if self.compression is not None:
                context.set_compression(self.compression)
            return self.answer

        return grpc.unary_unary_rpc_method_handler(predict)


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Service, str]]:
    service = Service()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, f"127.0.0.1:{port}"
    server.stop(None)


def ask(started: tuple[Service, str], tensor: Any, images: int = 1) -> np.ndarray:
    service, address = started
    response = predict_pb2.PredictResponse()
    if isinstance(tensor, bytes):
        service.answer = tensor
    else:
        response.outputs["embedding"].CopyFrom(tensor)
        service.answer = response.SerializeToString()
    service.requests = 0
    with Client(address, "market", deadline=60) as client:
        return client.embed([PICTURE] * images)


def tensor(dtype: int, shape: tuple[int, ...], **values: Any) -> Any:
    found = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in shape:
        found.tensor_shape.dim.add(size=size)
    return found


FLOAT, VARIANT, HALF, STRING = 1, 21, 19, 7


@pytest.mark.parametrize(
    ("claimed", "sentence"),
    [
        (tensor(FLOAT, (1, 500_000_000), float_val=[1.0]), "has 500,000,000 numbers, more than 16,384"),
        (tensor(FLOAT, (500_000_000, 1), float_val=[1.0]), "there are 500000000 embeddings"),
        (tensor(FLOAT, (1, 2**62), float_val=[1.0]), "more than 16,384"),
        (tensor(FLOAT, (1, -1), float_val=[1.0]), "the shape"),
        (tensor(FLOAT, (1,) * 200, float_val=[1.0]), "the shape"),
        (tensor(FLOAT, (), float_val=[1.0]), "the shape"),
        (tensor(FLOAT, (1, 0)), "the shape"),
        (tensor(FLOAT, (1, 3)), "other numbers than its shape says"),
        (tensor(FLOAT, (1, 3), float_val=[1.0] * 4), "other numbers than its shape says"),
        (tensor(FLOAT, (1, 3), tensor_content=b"1234" * 2), "other numbers than its shape says"),
        (tensor(FLOAT, (1, 3), tensor_content=b"1234" * 3 + b"5"), "other numbers than its shape says"),
        (tensor(FLOAT, (1, 3), float_val=[0.0]), "only zeros"),
        (tensor(FLOAT, (1, 3), float_val=[np.nan]), "NaN or infinity"),
        (tensor(VARIANT, (1, 3)), "its embeddings are DT_VARIANT instead of float32"),
        (tensor(HALF, (1, 3), half_val=[1] * 3), "its embeddings are DT_HALF instead of float32"),
        (tensor(STRING, (1, 3), string_val=[b"1"] * 3), "its embeddings are DT_STRING"),
        (tensor(987, (1, 3)), "its embeddings are 987 instead of float32"),
        (tensor(FLOAT, (1, 10**6), tensor_content=bytes(4_000_000)), "its answer has 4,000,[0-9]{3} bytes"),
    ],
)  # fmt: skip
def test_claims(started: tuple[Service, str], claimed: Any, sentence: str) -> None:
    tracemalloc.start()
    with pytest.raises(UserError, match=f"answered 1 images wrongly: .*{sentence}"):
        ask(started, claimed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6 and started[0].requests == 1


def test_bytes_that_are_no_answer(started: tuple[Service, str]) -> None:
    with pytest.raises(UserError, match="INTERNAL"):
        ask(started, b"\xff" * 50)
    with pytest.raises(UserError, match="its answer has no `embedding`"):
        ask(started, b"")


def test_a_small_answer_that_unfolds_is_refused(started: tuple[Service, str]) -> None:
    service, _ = started
    service.compression = grpc.Compression.Gzip
    try:
        # Some 20 KB on the way.
        with pytest.raises(UserError, match="gzip"):
            ask(started, tensor(FLOAT, (1, 10**6), tensor_content=bytes(4_000_000)))
    finally:
        service.compression = None


def test_all_ways_to_write_numbers(started: tuple[Service, str]) -> None:
    rows = np.float32([[1, 2, 2], [3, 4, 4]])
    for written in (
        tf.make_tensor_proto(rows),
        tensor(FLOAT, (2, 3), float_val=rows.ravel()),
        tensor(FLOAT, (2, 3), float_val=rows.ravel()[:5]),  # the last number stands for the rest
    ):
        np.testing.assert_array_equal(tf.make_ndarray(written), rows)
        np.testing.assert_array_equal(ask(started, written, 2), rows)


def test_a_proxy_that_finds_requests_too_large() -> None:
    """nginx before gRPC answers 413 by HTTP/2, without gRPC's own status; here byte by byte (RFC 9113)."""
    refused: list[int] = []

    def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
        return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body

    def answer(connection: socket.socket) -> None:
        file = connection.makefile("rb")
        file.read(24)  # the preface
        connection.sendall(frame(4, 0, 0) + frame(8, 0, 0, (2**30).to_bytes(4, "big")))
        while head := file.read(9):
            body, kind, stream = (
                file.read(int.from_bytes(head[:3], "big")),
                head[3],
                int.from_bytes(head[5:], "big"),
            )
            if kind == 1:  # headers: answered by `:status: 413`, a literal with the name of the static table
                refused.append(stream)
                connection.sendall(frame(1, 5, stream, b"\x08\x03413"))
            elif kind == 6 and not head[4]:
                connection.sendall(frame(6, 1, 0, body))

    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with (
            Client(f"127.0.0.1:{server.getsockname()[1]}", "market", deadline=20) as client,
            pytest.raises(UserError, match=r"one small image too large .*413.*raise its limit"),
        ):
            client.embed([PICTURE] * 4)
    assert len(refused) == 2
