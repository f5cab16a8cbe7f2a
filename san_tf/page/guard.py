"""What stands before the page: whose requests are answered, how large they may be, what a browser may do.

The page has no login, because it is for the person at the machine. That holds only if no other web page in
that person's browser can ask in her name, so requests are refused

- whose `Host` is a name that is not ours: a foreign name that was pointed at 127.0.0.1 (DNS rebinding);
- that come from another site (`Origin`, `Sec-Fetch-Site`), or could come from a form of one (media type);
- whose body is larger than the path allows, before it is taken in.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

UPLOADS = "/api/uploads"
_QUESTION_BYTES = 1 << 20
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


class Guard:
    """Stands before an ASGI application.

    Args:
        application: what answers.
        names: of this machine, that `Host` may say beside its loopback addresses.
        addresses: whether `Host` may be any address in numbers: one cannot be pointed elsewhere, as a name
            can. For a server that listens to other machines.
        upload_bytes: that a picture may have.
    """

    def __init__(
        self, application: Application, names: Sequence[str], addresses: bool, upload_bytes: int
    ) -> None:
        self._application = application
        self._names = {"localhost", *(name.lower() for name in names)}
        self._addresses = addresses
        self._limits = {UPLOADS: upload_bytes}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [item for item in message.get("headers", ()) if item[0].decode() not in HEADERS]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        headers = _single(scope["headers"])
        problem = self._problem(scope, headers)
        if problem is None:
            body, problem = await self._body(scope["path"], headers, receive)
        if problem is not None:
            await _refuse(guarded_send, *problem)
            return
        await self._application(scope, _replayed(body, receive), guarded_send)

    def _problem(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, "This page answers to its own address only; open the one that its terminal shows."
        if not scope["path"].startswith("/api/"):
            return None
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "Another web site asked; only this page may."
        if scope["method"] in ("GET", "HEAD"):
            return None
        if (
            headers.get("origin", f"{scope['scheme']}://{host}").lower()
            != f"{scope['scheme']}://{host}".lower()
        ):
            return 403, "Another web site asked; only this page may."
        wanted = _TYPES.get(scope["path"], _JSON)
        if scope["method"] == "POST" and headers.get("content-type", "").split(";")[0].strip() != wanted:
            return 415, f"This wants a body of the type {wanted}."
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

    async def _body(
        self, path: str, headers: dict[str, str], receive: Receive
    ) -> tuple[bytes, tuple[int, str] | None]:
        limit = self._limits.get(path, _QUESTION_BYTES)
        shown = f"{limit / 2**20:.0f} MB" if limit >= 2**20 else f"{limit:,} bytes"
        too_large = (413, f"That is more than the {shown} that are taken; choose a smaller file.")
        stated = headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdigit():
            return b"", (400, "The request's length makes no sense.")
        if int(stated) > limit:
            return b"", too_large
        parts, held = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"", (400, "The request broke off.")
            held += len(message.get("body", b""))
            if held > limit:
                return b"", too_large
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts), None


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
        if not bracket or (rest and colon != ":"):
            return None
    elif ":" in host:
        name, colon, port = host.partition(":")
    if colon and not (port.isascii() and port.isdigit()):
        return None
    return name.lower().removesuffix(".") or None


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, status: int, sentence: str) -> None:
    content = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
