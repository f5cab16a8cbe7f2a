"""What stands before the page: whose requests are answered, how large they may be, what a browser may do.

The page has no login, because it is for the person at the machine. That holds only if no other web page in
that person's browser can ask in her name, so requests are refused

- whose `Host` is a name that is not ours: a foreign name that was pointed at 127.0.0.1 (DNS rebinding);
- that come from another site (`Origin`, `Sec-Fetch-Site`), or could come from a form of one (media type);
- whose body is larger than the path allows, before it is taken in;
- whose body does not arrive in time, or stands still while others want the memory.
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
# Bodies of requests that are in memory at a time, arriving or waiting for their turn.
HELD_BYTES, _HELD_QUESTIONS = 96 * 2**20, 16 * 2**20
_TYPES = {UPLOADS: "application/octet-stream"}
_JSON = "application/json"

HEADERS = {
    # Everything comes from here; scripts are files, and text never becomes markup.
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
    """Status and sentence of a request that is not answered."""

    status: int
    sentence: str


class Patience(NamedTuple):
    """Seconds that a request may take to arrive.

    Attributes:
        body: after its head.
        still: without a byte, where others want the memory.
    """

    body: float = 60.0
    still: float = 1.0


PATIENCE = Patience()


class _Body:
    """A request's body; `dropped` is set when it has to go."""

    def __init__(self, now: float) -> None:
        self.content = bytearray()
        self.size, self.last = 0, now
        self.dropped: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Bodies:
    """Bodies in memory, together at most so many bytes: one that stands still makes room for others."""

    def __init__(self, most: int, patience: Patience) -> None:
        self._most, self._still, self._held = most, patience.still, 0
        self._arriving: dict[_Body, None] = {}

    def begin(self, now: float) -> _Body:
        body = _Body(now)
        self._arriving[body] = None
        return body

    def add(self, body: _Body, part: bytes, now: float) -> bool:
        """Whether there was room for more of it."""
        del self._arriving[body]  # who got something last stands last
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
        """All of it; its bytes count until `end`."""
        self._arriving.pop(body, None)
        content = bytes(body.content)
        body.content = bytearray()
        return content

    def end(self, body: _Body) -> None:
        """Let go of it."""
        self._arriving.pop(body, None)
        self._held -= body.size
        body.size, body.content = 0, bytearray()


class Guard:
    """Stands before an ASGI application.

    Args:
        application: what answers.
        names: of this machine, that `Host` may say beside its loopback addresses.
        addresses: whether `Host` may be any address in numbers: one cannot be pointed elsewhere, as a name
            can. For a server that listens to other machines.
        upload_bytes: that a picture may have.
        patience: how long requests may take to arrive.
        held_bytes: that pictures may have together which arrive or wait.
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

        # Whoever may ask for something may ask for its head alone: the same answer without what it holds.
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
                421, "This page answers to its own address only; open the one that its terminal shows."
            )
        if not scope["path"].startswith("/api/"):
            return None
        foreign = Refusal(403, "Another web site asked; only this page may.")
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
            return Refusal(415, f"This wants a body of the type {wanted}.")
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
        too_large = Refusal(413, f"That is more than the {shown} that are taken; choose a smaller file.")
        stated = headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdigit():
            return Refusal(400, "The request's length makes no sense.")
        if len(stated.lstrip("0")) > 18 or int(stated) > limit:
            return too_large
        clock = asyncio.get_running_loop().time
        end = clock() + self._patience.body
        while True:
            message = await _before(receive, body.dropped, end - clock())
            if message is None:
                return Refusal(408, "What was sent did not arrive in time; send it again.")
            if message["type"] != "http.request":
                return Refusal(400, "The request broke off.")
            part = message.get("body", b"")
            if body.size + len(part) > limit:
                return too_large
            if not bodies.add(body, part, clock()):
                return Refusal(503, "Many others send something just now; try again in a moment.")
            if not message.get("more_body", False):
                return None


async def _before(receive: Receive, dropped: asyncio.Future[None], seconds: float) -> Message | None:
    """The next message; None if there was none in time, or if it is not wanted any more."""
    message = asyncio.ensure_future(receive())
    either: set[asyncio.Future[Any]] = {message, dropped}
    try:
        await asyncio.wait(either, timeout=max(0.0, seconds), return_when="FIRST_COMPLETED")
        return message.result() if message.done() and not dropped.done() else None
    finally:
        message.cancel()


def _single(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; of one that comes twice, both values, which then fit nothing."""
    found: dict[str, str] = {}
    for key, value in headers:
        name, text = key.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _name(host: str) -> str | None:
    """The name or address in a `Host` header, without port and brackets; None if it is malformed."""
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
    if "%" in name:  # a zone of an IPv6 address, behind which anything may stand
        return None
    return name.lower().removesuffix(".") or None


def _replayed(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def replay() -> Message:
        if not left:
            return await receive()
        # Not kept here any longer than it takes to hand it on.
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
