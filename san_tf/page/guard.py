"""Guard of the page: refuses foreign, oversized and stalled requests, and sets security headers.

The page has no login, because it is for the person at the machine. So no other web page in that person's
browser may send requests in their name. The guard refuses requests

- whose `Host` is not a name of this server, for example a foreign name that points at 127.0.0.1 (DNS
  rebinding);
- that come from another site (`Origin`, `Sec-Fetch-Site`), or could come from a form on it (media type);
- whose body is larger than the path allows, before it is read;
- whose body does not arrive in time, or stalls while others need the memory.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

UPLOADS = "/api/uploads"
_QUESTION_BYTES = 1 << 20
# Bytes of all request bodies in memory, arriving or waiting: uploads, and other requests.
HELD_BYTES, _HELD_QUESTIONS = 96 * 2**20, 16 * 2**20
_TYPES = {UPLOADS: "application/octet-stream"}
_JSON = "application/json"

HEADERS = {
    # Everything comes from this server; scripts are files, and text never becomes markup.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Refusal(NamedTuple):
    """Status and sentence for a refused request."""

    status: int
    sentence: str


class Patience(NamedTuple):
    """Time limits for the arrival of a request, in seconds.

    Attributes:
        body: for the whole body, after the head.
        still: without any byte, while others need the memory.
    """

    body: float = 60.0
    still: float = 1.0


PATIENCE = Patience()


class _Body:
    """A request's body; `dropped` is set when it must be discarded."""

    def __init__(self, now: float) -> None:
        self.content = bytearray()
        self.size, self.last = 0, now
        self.dropped: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Bodies:
    """Request bodies in memory with a common limit; stalled ones are dropped for others."""

    def __init__(self, most: int, patience: Patience) -> None:
        self._most, self._still, self._held = most, patience.still, 0
        self._arriving: dict[_Body, None] = {}

    def begin(self, now: float) -> _Body:
        body = _Body(now)
        self._arriving[body] = None
        return body

    def add(self, body: _Body, part: bytes, now: float) -> bool:
        """Add a part of a body; return whether there was room."""
        del self._arriving[body]  # the body with the latest part goes to the end
        self._arriving[body] = None
        body.last = now
        self._held += len(part)
        body.size += len(part)
        for other in list(self._arriving):
            if self._held <= self._most or now - other.last < self._still:
                break
            if other is not body:
                self.end(other)
                if not other.dropped.done():
                    other.dropped.set_result(None)
        if self._held > self._most:
            return False
        body.content += part
        return True

    def arrived(self, body: _Body) -> bytes:
        """Return the whole body; its bytes count until `end`."""
        self._arriving.pop(body, None)
        content = bytes(body.content)
        body.content = bytearray()
        return content

    def end(self, body: _Body) -> None:
        """Discard a body."""
        self._arriving.pop(body, None)
        self._held -= body.size
        body.size, body.content = 0, bytearray()


class Guard:
    """ASGI middleware that guards an application.

    Args:
        application: the guarded ASGI application.
        names: names of this machine that `Host` may hold, beside its loopback addresses.
        addresses: whether `Host` may be any numeric address, for a server open to other machines. Unlike a
            name, such an address cannot be pointed elsewhere.
        upload_bytes: largest size of an uploaded picture.
        patience: time limits for the arrival of requests.
        held_bytes: largest size of all uploads in memory together.
    """

    def __init__(
        self,
        application: Application,
        names: Sequence[str],
        addresses: bool,
        upload_bytes: int,
        patience: Patience = PATIENCE,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._application = application
        self._names = {"localhost", *(name.lower() for name in names)}
        self._addresses = addresses
        self._limits = {UPLOADS: upload_bytes}
        self._patience = patience
        self._uploads, self._questions = _Bodies(held_bytes, patience), _Bodies(_HELD_QUESTIONS, patience)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        # HEAD gets the answer of GET without its body.
        head = scope["method"] == "HEAD"

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.body" and head:
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [item for item in message.get("headers", ()) if item[0].decode() not in HEADERS]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        headers = _single(scope["headers"])
        problem = self._problem(scope, headers)
        if problem is not None:
            await _refuse(guarded_send, problem)
            return
        bodies = self._uploads if scope["path"] == UPLOADS else self._questions
        body = bodies.begin(asyncio.get_running_loop().time())
        try:
            problem = await self._take_in(bodies, body, scope["path"], headers, receive)
            if problem is not None:
                await _refuse(guarded_send, problem)
                return
            method = "GET" if head else scope["method"]
            whole = _replayed(bodies.arrived(body), receive)
            await self._application({**scope, "method": method}, whole, guarded_send)
        finally:
            bodies.end(body)

    def _problem(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> Refusal | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return Refusal(
                421, "This page answers only to its own address; open the one that its terminal shows."
            )
        if not scope["path"].startswith("/api/"):
            return None
        foreign = Refusal(403, "The request comes from another web site; only this page may send requests.")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return foreign
        own = f"{scope['scheme']}://{host}".lower()
        if headers.get("origin", own).lower() != own:
            return foreign
        if scope["method"] in ("GET", "HEAD"):
            return None
        wanted = _TYPES.get(scope["path"], _JSON)
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != wanted:
            return Refusal(415, f"The request needs a body of type {wanted}.")
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._addresses or address.is_loopback

    async def _take_in(
        self, bodies: _Bodies, body: _Body, path: str, headers: dict[str, str], receive: Receive
    ) -> Refusal | None:
        limit = self._limits.get(path, _QUESTION_BYTES)
        shown = f"{limit / 2**20:.0f} MB" if limit >= 2**20 else f"{limit:,} bytes"
        too_large = Refusal(413, f"The request exceeds the limit of {shown}; choose a smaller file.")
        stated = headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdigit():
            return Refusal(400, "The request's length is not valid.")
        if len(stated.lstrip("0")) > 18 or int(stated) > limit:
            return too_large
        clock = asyncio.get_running_loop().time
        end = clock() + self._patience.body
        while True:
            message = await _before(receive, body.dropped, end - clock())
            if message is None:
                return Refusal(408, "The request did not arrive in time; send it again.")
            if message["type"] != "http.request":
                return Refusal(400, "The request broke off.")
            part = message.get("body", b"")
            if body.size + len(part) > limit:
                return too_large
            if not bodies.add(body, part, clock()):
                return Refusal(503, "Too many requests are arriving now; try again in a moment.")
            if not message.get("more_body", False):
                return None


async def _before(receive: Receive, dropped: asyncio.Future[None], seconds: float) -> Message | None:
    """Return the next message; None if none came in time, or if the body was dropped."""
    message = asyncio.ensure_future(receive())
    either: set[asyncio.Future[Any]] = {message, dropped}
    try:
        await asyncio.wait(either, timeout=max(0.0, seconds), return_when="FIRST_COMPLETED")
        return message.result() if message.done() and not dropped.done() else None
    finally:
        message.cancel()


def _single(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name; the values of a repeated one are joined, so that they match nothing."""
    found: dict[str, str] = {}
    for key, value in headers:
        name, text = key.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _name(host: str) -> str | None:
    """Return the name or address in a `Host` header, without port and brackets; None if malformed."""
    name, colon, port = host, "", ""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or (rest and colon != ":") or ":" not in name:
            return None
    elif ":" in host:
        name, colon, port = host.partition(":")
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        return None
    if "%" in name:  # the zone of an IPv6 address, which may be any text
        return None
    return name.lower().removesuffix(".") or None


def _replayed(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def replay() -> Message:
        if not left:
            return await receive()
        # Popped, so that it is not kept in memory here.
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    return replay


async def _refuse(send: Send, problem: Refusal) -> None:
    content = json.dumps({"error": problem.sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if problem.status == 408:
        headers.append((b"connection", b"close"))
    if problem.status == 503:
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
