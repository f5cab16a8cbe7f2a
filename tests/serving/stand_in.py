"""A stand-in for TensorFlow Serving: real protos, sockets and SavedModels, and faults on request.

It is not TensorFlow Serving: no batching, no versions by itself.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class Fault(Exception):
    """An answer by status: gRPC's name, and HTTP's number."""

    def __init__(self, code: str, number: int, details: str) -> None:
        super().__init__(details)
        self.code, self.number, self.details = code, number, details


def unavailable() -> Fault:
    return Fault("UNAVAILABLE", 503, "the queue is full")


class Models:
    """Versions of a model, which of them is served, what was asked, and what goes wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions = sorted(int(entry.name) for entry in folder.iterdir())
        # The model itself is kept, too: a signature alone may outlive its variables.
        self.models = {version: tf.saved_model.load(str(folder / str(version))) for version in self.versions}
        self.loaded = {version: model.signatures["serving_bytes"] for version, model in self.models.items()}
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.current = self.versions[0]
        self.labels: dict[str, int] = {}
        self.before: Callable[[int], None] = lambda number: None
        self.lie: Callable[[np.ndarray], np.ndarray] = lambda embeddings: embeddings
        self.requests = 0
        self.sizes: list[int] = []
        self.answered: Counter[tuple[bytes, int]] = Counter()
        self.raw: bytes | None = None
        self.connections = 0  # by REST
        self.tells_versions = True  # by REST
        self.unloaded: set[int] = set()
        self.most_bytes = 2**62  # by REST: larger requests end without an answer

    def predict(
        self, name: str, files: list[bytes], version: int | None, label: str | None
    ) -> tuple[np.ndarray, int]:
        with self.lock:
            number = self.requests
            self.requests += 1
            self.sizes.append(len(files))
            # Taken now: a slow request must not count in the test that comes after its own.
            answered = self.answered
        self.before(number)
        if name != "market":
            raise Fault("NOT_FOUND", 404, f"Servable not found for request: Latest({name})")
        if label is not None:
            if label not in self.labels:
                raise Fault("INVALID_ARGUMENT", 400, f"Unrecognized servable version label: {label}")
            version = self.labels[label]
        with self.lock:
            version = self.current if version is None else version
            if version in self.unloaded:
                raise Fault("NOT_FOUND", 404, f"Servable not found for request: Specific({name}, {version})")
        try:
            embeddings = self.loaded[version](image_bytes=tf.constant(files))["embedding"].numpy()
        except tf.errors.InvalidArgumentError as error:
            raise Fault("INVALID_ARGUMENT", 400, error.message) from error
        with self.lock:
            answered.update((contents, version) for contents in files)
        return self.lie(embeddings), version

    def expected(self, files: list[bytes], version: int) -> np.ndarray:
        """One by one, past every socket."""
        answers = [self.loaded[version](image_bytes=tf.constant([f]))["embedding"].numpy() for f in files]
        return np.concatenate(answers)


def serve_grpc(models: Models, port: int = 0) -> tuple[str, Callable[[], None]]:
    """Start a server of PredictionService; returns its address and what stops it."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            spec = request.model_spec
            assert spec.signature_name == "serving_bytes"
            version = spec.version.value if spec.HasField("version") else None
            files = list(tf.make_ndarray(request.inputs["image_bytes"]))
            try:
                embeddings, version = models.predict(spec.name, files, version, spec.version_label or None)
            except Fault as fault:
                context.abort(getattr(grpc.StatusCode, fault.code), fault.details)
            response = predict_pb2.PredictResponse()
            response.model_spec.name = spec.name
            response.model_spec.version.value = version
            response.outputs["embedding"].CopyFrom(tf.make_tensor_proto(embeddings))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return f"127.0.0.1:{port}", lambda: server.stop(None).wait()


def serve_rest(models: Models, port: int = 0) -> tuple[str, Callable[[], None]]:
    """Start a server of the REST API's `:predict`; returns its address and what stops it."""

    kept: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with models.lock:
                models.connections += 1
                kept.append(self.connection)

        def do_GET(self) -> None:
            _, _, _, name, *which = self.path.split("/")
            version = models.labels.get(which[1]) if which else models.current
            if not models.tells_versions or name != "market" or version is None:
                status, body = 404, b'{"error": "not here"}'
            else:
                states = {1: "END", version: "AVAILABLE"}
                told = [{"version": str(v), "state": s, "status": {}} for v, s in states.items()]
                status, body = 200, json.dumps({"model_version_status": told}).encode()
            self.answer(status, body)

        def do_POST(self) -> None:
            if int(self.headers["Content-Length"]) > models.most_bytes:
                with models.lock:
                    models.requests += 1
                self.close_connection = True
                return
            content = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, body = 200, models.raw or json.dumps({"predictions": self.rows(content)}).encode()
            except Fault as fault:
                status, body = fault.number, json.dumps({"error": fault.details}).encode()
            self.answer(status, body)

        def answer(self, status: int, body: bytes) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the client did not wait

        def rows(self, content: bytes) -> Any:
            path, verb = self.path.split(":")
            assert verb == "predict"
            _, v1, kind, name, *which = path.split("/")
            assert (v1, kind) == ("v1", "models")
            choice = dict([which]) if which else {}
            version = int(choice["versions"]) if "versions" in choice else None
            request = json.loads(content)
            assert request["signature_name"] == "serving_bytes"
            files = [base64.b64decode(row["image_bytes"]["b64"]) for row in request["instances"]]
            return models.predict(name, files, version, choice.get("labels"))[0].tolist()

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        for connection in kept:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    return f"http://127.0.0.1:{server.server_address[1]}", stop


def sleep_at(*numbers: int, seconds: float) -> Callable[[int], None]:
    """Be slow at the requests of these numbers."""
    return lambda number: time.sleep(seconds) if number in numbers else None
