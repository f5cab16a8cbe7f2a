"""REST transport to a model server: JSON over HTTP, with the standard library only."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from san_tf.errors import UserError, one_line
from san_tf.serving.retries import BrokenOffError, TransientError
from san_tf.serving.transport import (
    INPUT,
    MOST_NUMBERS,
    OUTPUT,
    SIGNATURE,
    GoneError,
    Model,
    Prediction,
    RefusedError,
    TooLargeError,
    WrongAnswerError,
    check_shape,
    refusal,
)

# Type of the first frame of HTTP/2, which gRPC sends; three bytes of length come before it.
_HTTP2_SETTINGS = "\x04"
# Status codes of timeouts and overload, of the server or of a proxy before it.
_TRANSIENT = (408, 429, 502, 503, 504)
# Most bytes of one number of an embedding in JSON, with its comma and line break.
_DIGITS = 40
# Most bytes of other answers: an error, or the versions of a model.
_WORDS = 2**16
_BLOCK = 2**16


class RestTransport:
    """TensorFlow Serving's REST API, with connections kept open.

    Answers do not report their version. So `current_version` asks for it, and `predict` names it.

    Args:
        url: for example `http://localhost:8501`; a path in it goes before `/v1/models`.
        model: the model to use.
        most: most numbers per embedding.

    Raises:
        UserError: the URL cannot be used.
    """

    def __init__(self, url: str, model: Model, most: int = MOST_NUMBERS) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), -1
        plain = url.isprintable() and " " not in url and not (parts.query or parts.fragment)
        if parts.scheme not in ("http", "https") or not parts.hostname or port in (0, -1) or not plain:
            raise UserError(
                f"{one_line(url)} is not an address of a REST server; write it as http://localhost:8501."
            )
        if parts.username is not None or parts.password is not None:
            raise UserError(
                "Names and passwords in the address of a REST server are not sent; leave them out."
            )
        self.address = url
        self.model, self._most = model, most
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, port
        self._path = f"{parts.path.rstrip('/')}/v1/models/{quote(model.name, safe='')}"
        self._choice = ""
        if model.version is not None:
            self._choice = f"/versions/{model.version}"
        elif model.label is not None:
            self._choice = f"/labels/{quote(model.label, safe='')}"
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False

    def predict(self, files: Sequence[bytes], timeout: float, version: int | None = None) -> Prediction:
        """Embed JPEG or PNG files; see `Transport.predict`."""
        rows = [{INPUT: {"b64": base64.b64encode(contents).decode()}} for contents in files]
        body = json.dumps({"signature_name": SIGNATURE, "instances": rows}).encode()
        choice = self._choice if version is None else f"/versions/{version}"
        room = _WORDS + len(files) * self._most * _DIGITS
        status, content = self._request("POST", f"{self._path}{choice}:predict", body, timeout, room)
        if status != 200:
            self._refuse(status, content, version if choice != self._choice else None)
        return Prediction(_decoded(content, len(files), self._most), version or self.model.version)

    def current_version(self, timeout: float) -> int | None:
        """Return the chosen version, or the one served now; None if the server does not report it."""
        if self.model.version is not None:
            return self.model.version
        status, content = self._request("GET", f"{self._path}{self._choice}", None, timeout, _WORDS)
        if status != 200:
            return None  # the request for embeddings will report any problem
        try:
            told = json.loads(content)["model_version_status"]
            return max(int(each["version"]) for each in told if each["state"] == "AVAILABLE")
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def close(self) -> None:
        """Close idle connections now, and the others when their requests end."""
        with self._lock:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _request(
        self, method: str, path: str, body: bytes | None, timeout: float, room: int
    ) -> tuple[int, bytes]:
        """Send a request and return status and body; all of it ends within `timeout` seconds."""
        connection = self._connection()
        connection.until = time.monotonic() + timeout
        try:
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            except (BrokenPipeError, ConnectionResetError):
                # A server may refuse a large request and close the connection before it is fully sent.
                if connection.sock is None:
                    raise
            response = connection.getresponse()
            content = _read(response, room if response.status == 200 else _WORDS)
        except BaseException as error:
            connection.close()
            if isinstance(error, http.client.BadStatusLine):
                self._explain_no_http(error)
            certificate = isinstance(error, ssl.SSLCertVerificationError)
            if certificate or (isinstance(error, ssl.SSLError) and "WRONG_VERSION" in str(error)):
                raise UserError(
                    f"{self.address} cannot be asked by TLS ({one_line(error)}); see its certificate, or "
                    "write http:// if it has none."
                ) from error
            if isinstance(error, (ConnectionError, http.client.RemoteDisconnected)) and connection.was_open:
                raise BrokenOffError(_reason(error)) from error
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise TransientError(_reason(error)) from error
            raise
        if 300 <= response.status < 400:
            connection.close()
            raise UserError(
                f"{self.address} sends on to {one_line(response.getheader('Location', 'nowhere'))} (HTTP "
                f"{response.status}), where no pictures are sent unasked; if that is the server, name it."
            )
        if not response.isclosed():
            connection.close()  # the rest of a cut answer must not be read as the next answer
        self._put_back(connection)
        return response.status, content

    def _connection(self) -> _Connection:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not connection.has_more():
                    return connection
                connection.close()  # closed by the server, or with unexpected data
        return _Connection(self._host, self._port, ssl.create_default_context() if self._secure else None)

    def _put_back(self, connection: _Connection) -> None:
        with self._lock:
            if self._closed or connection.sock is None:
                connection.close()
            else:
                self._idle.append(connection)

    def _explain_no_http(self, error: http.client.BadStatusLine) -> None:
        if isinstance(error, http.client.RemoteDisconnected):
            return
        line = str(error.args[0])
        if line[3:4] == _HTTP2_SETTINGS:
            raise UserError(
                f"{self.address} speaks gRPC, not REST; write grpc://HOST:8500, or name the port of REST."
            ) from error
        raise UserError(
            f"{self.address} does not speak HTTP (it says {one_line(repr(line), 60)}); see the address."
        ) from error

    def _refuse(self, status: int, content: bytes, pinned: int | None) -> None:
        message = f"HTTP {status}: {_message(content)}"
        where = f"{self.address}{self._path}{self._choice}:predict"
        if status in (401, 403, 407):
            raise UserError(f"{where} needs a permission that the client does not have ({message}).")
        found = TooLargeError(message) if status == 413 else refusal(self.address, self.model, message)
        if status in _TRANSIENT and isinstance(found, (RefusedError, UserError)):
            raise TransientError(message)
        if status == 404 and pinned is not None:
            raise GoneError(message)
        if not isinstance(found, RefusedError) or status in (400, 422):
            raise found
        raise UserError(
            f"{where} cannot be asked ({message}); see the address and the model's name and label."
        )


class _Connection(http.client.HTTPConnection):
    """A connection on which every wait (connect, send, receive) ends at `until`."""

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port or (80 if context is None else 443))
        self._context = context
        self.default_port = 80 if context is None else 443
        self.until = 0.0
        self.was_open = False

    def connect(self) -> None:
        sock = socket.create_connection((self.host, self.port), self.left())
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.settimeout(self.left())
                sock = self._context.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise
        self.sock: Any = _TimedSocket(sock, self)
        self.was_open = True

    def left(self) -> float:
        """Return the seconds until `until`.

        Raises:
            TimeoutError: no time is left.
        """
        seconds = self.until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds

    def has_more(self) -> bool:
        """Whether there is unread data; after an answer, it is unexpected."""
        return self.sock is None or self.sock.has_more()


class _TimedSocket:
    """The part of a socket that `http.client` needs, with the remaining time for each wait."""

    def __init__(self, sock: socket.socket, connection: _Connection) -> None:
        self._sock, self._connection = sock, connection

    def sendall(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view:
            self.wait()
            view = view[self._sock.send(view[:_BLOCK]) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock.makefile("rb", buffering=0), self))

    def wait(self) -> None:
        """Limit the next wait to the remaining time."""
        self._sock.settimeout(self._connection.left())

    def has_more(self) -> bool:
        try:
            self._sock.settimeout(0.0)
            # A TLS socket cannot peek, so read: any data is unexpected.
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.recv(1)
            else:
                self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        self._sock.close()


class _TimedReader(io.RawIOBase):
    """Reads the bytes of one answer."""

    def __init__(self, raw: Any, sock: _TimedSocket) -> None:
        self._raw, self._sock = raw, sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.wait()
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()  # the socket itself is closed by the connection
        super().close()


def _read(response: http.client.HTTPResponse, room: int) -> bytes:
    """Read an answer of at most `room` bytes; the text of an error is cut there.

    Raises:
        WrongAnswerError: an answer of embeddings has more.
        http.client.HTTPException: the answer ends too early.
    """
    content = bytearray()
    while len(content) <= room and (block := response.read(_BLOCK)):
        content += block
    if len(content) > room or (response.length or 0) > room:
        if response.status != 200:
            return bytes(content[:room])
        raise WrongAnswerError(f"its answer has more than {room:,} bytes")
    if response.length:  # bytes still missing
        raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def _decoded(content: bytes, rows: int, most: int) -> np.ndarray:
    """Decode the embeddings of an answer: `{"predictions": [[...], ...]}`.

    The number of objects is limited before parsing, by counting brackets and commas.
    """
    nested = content.count(b"[") + content.count(b"{")
    if nested > 64 + 64 * rows or content.count(b",") > 64 + rows * most:
        raise WrongAnswerError("its answer holds more than embeddings")
    try:
        found = json.loads(content)["predictions"]
        # With several outputs, each row is a dict of all.
        found = [row[OUTPUT] if isinstance(row, dict) else row for row in found]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WrongAnswerError("its answer holds no table of numbers") from error
    check_shape(_shape(found), rows, most)
    even = all(isinstance(row, list) and len(row) == len(found[0]) for row in found)
    # Checked here, because NumPy would also convert true and "1.5" to numbers.
    if not even or not {kind for row in found for kind in map(type, row)} <= {int, float}:
        raise WrongAnswerError("its answer holds no table of numbers")
    try:
        with np.errstate(over="ignore"):  # values beyond float32 become infinity, which is refused
            return np.array(found, np.float64).astype(np.float32)
    except OverflowError as error:
        raise WrongAnswerError("an embedding holds a number beyond all measure") from error


def _shape(found: Any) -> list[int]:
    """Lengths of nested lists: of the outer list, of its first item, and so on."""
    shape = []
    while isinstance(found, list):
        shape.append(len(found))
        found = found[0] if found else None
    return shape


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _message(content: bytes) -> str:
    """The server's message on one line; proxies answer with whole pages."""
    try:
        found: Any = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = content.decode(errors="replace")
    return one_line(found) or "no reason given"
