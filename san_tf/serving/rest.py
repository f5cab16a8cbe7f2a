"""The way to a model server by REST: JSON over HTTP, with the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from san_tf.errors import UserError
from san_tf.serving.retries import TransientError
from san_tf.serving.transport import INPUT, SIGNATURE, Model, Prediction, RefusedError, WrongAnswerError

# Timeouts and overload, of the server itself or of a proxy before it.
_TRANSIENT = (408, 429, 502, 503, 504)


class RestTransport:
    """TensorFlow Serving's REST API; connections are kept open for the next request.

    REST does not tell which version answered.

    Args:
        url: such as `http://localhost:8501`; a path in it goes before `/v1/models`.
        model: the model to ask.

    Raises:
        UserError: the URL cannot be used.
    """

    def __init__(self, url: str, model: Model) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise UserError(f"{url} is no address of a REST server; write it as http://localhost:8501.")
        self.address = url
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, port
        path = f"{parts.path.rstrip('/')}/v1/models/{quote(model.name, safe='')}"
        if model.version is not None:
            path += f"/versions/{model.version}"
        elif model.label is not None:
            path += f"/labels/{quote(model.label, safe='')}"
        self._path = f"{path}:predict"
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = False

    def predict(self, files: Sequence[bytes], timeout: float) -> Prediction:
        """Embed JPEG or PNG files; see `Transport.predict`."""
        rows = [{INPUT: {"b64": base64.b64encode(contents).decode()}} for contents in files]
        body = json.dumps({"signature_name": SIGNATURE, "instances": rows}).encode()
        connection = self._connection(timeout)
        try:
            connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise TransientError(_reason(error)) from error
        self._put_back(connection)
        if status != 200:
            self._refuse(status, content)
        try:
            return Prediction(np.array(json.loads(content)["predictions"], np.float32), None)
        except (ValueError, KeyError, TypeError) as error:
            raise WrongAnswerError("its answer holds no table of numbers") from error

    def close(self) -> None:
        """Close the connections that no request uses now, and the others when their requests are over."""
        with self._lock:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            return kind(self._host, self._port, timeout=timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _put_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    def _refuse(self, status: int, content: bytes) -> None:
        message = f"HTTP {status}: {_message(content)}"
        if status in _TRANSIENT:
            raise TransientError(message)
        if status == 400:
            raise RefusedError(message)
        raise UserError(
            f"{self.address}{self._path} cannot be asked ({message}); see the model's name and label."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _message(content: bytes) -> str:
    """The server's own words, on one line; proxies answer with whole pages."""
    try:
        found: Any = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        found = content.decode(errors="replace")
    return " ".join(str(found).split())[:200] or "no reason given"
