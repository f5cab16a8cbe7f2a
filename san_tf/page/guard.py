"""Guard of the page and the API: refuses foreign, oversized and stalled requests, and sets security headers.

On 127.0.0.1 no login is needed, because the server is for the person at the machine. So no other web page in
that person's browser may send requests in their name. The guard refuses requests

- whose `Host` is not a name of this server, for example a foreign name that points at 127.0.0.1 (DNS
  rebinding);
- without a token that allows them, if there are tokens;
- that come from another site (`Origin`, `Sec-Fetch-Site`), or could come from a form on it (media type);
- that come too often;
- whose body is larger than the path allows, before it is read;
- whose body does not arrive in time, or stalls while others need the memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from san_tf.errors import UserError, one_line
from san_tf.retrieval.entries import ASKING

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

UPLOADS, ANSWERS = "/api/uploads", "/api/answers"
API, HEALTH, METRICS, ASSETS = "/api/v1", "/healthz", "/metrics", "/assets/"
DOCS, OPENAPI = f"{API}/docs", f"{API}/openapi.json"
# Paths whose body is a picture, and those whose body may be a table of embeddings.
_PICTURES = {UPLOADS, f"{API}/search/picture", f"{API}/entries/picture", f"{API}/delete/picture"}
_TABLES = {f"{API}/entries"}
_QUESTION_BYTES, _TABLE_BYTES = 1 << 20, 4 << 20
# Bytes of all request bodies in memory, arriving or waiting: uploads, and other requests.
HELD_BYTES, _HELD_QUESTIONS = 96 * 2**20, 16 * 2**20
_JSON, _BYTES = "application/json", "application/octet-stream"
_OPEN = {HEALTH, DOCS, OPENAPI}

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
    """Status and sentence for a refused request, and one more header."""

    status: int
    sentence: str
    header: tuple[str, str] | None = None


SCOPES = ("read", "write", "delete", "metrics")
# What the one who asks may do, for the application behind the guard.
SCOPE: ContextVar[frozenset[str]] = ContextVar("SCOPE", default=frozenset())
_NAME, _TOKEN = re.compile(r"[\w.@-]{1,60}"), re.compile(r"[!-~]{20,200}")
_HASHED = "sha256:"


def scope_of(method: str, path: str) -> str | None:
    """Return the scope that a request needs; None if it needs none."""
    if path in _OPEN or path.startswith(ASSETS):
        return None
    if path == METRICS:
        return "metrics"
    if method == "DELETE" or path.startswith(f"{API}/delete"):
        return "delete"
    if path.startswith(ANSWERS):
        return "write"
    if path.startswith(f"{API}/entries") and method not in ("GET", "HEAD"):
        return "write"
    return "read"


class Holder(NamedTuple):
    """Name and scopes of somebody who may ask."""

    name: str
    scopes: frozenset[str]


class Tokens:
    """Tokens and what they allow. Only their SHA-256 digests are kept.

    Args:
        text: a line per token with a name, scopes and the token, such as `door read,write 5VxR...`. The token
            may be given as `sha256:` and its digest in hexadecimal digits. Lines that begin with `#` are
            comments; a `;` ends a line, too.
        source: name of the file or variable, for messages.

    Raises:
        UserError: a line cannot be used; the message never holds the token.

    Example:
        >>> tokens = Tokens("door read,write 0123456789abcdefghij", "tokens.txt")
        >>> tokens.holder_of("Bearer 0123456789abcdefghij").name
        'door'
    """

    def __init__(self, text: str, source: str) -> None:
        self._holders: dict[bytes, Holder] = {}
        for number, line in enumerate(re.split(r"[\n;]", text), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            where = f"Line {number} of {source}"
            words = line.split()
            if len(words) != 3:
                raise UserError(f"{where} has {len(words)} words; write a name, scopes and a token.")
            name, scopes, token = words
            unknown = sorted(set(scopes.split(",")) - set(SCOPES))
            if not _NAME.fullmatch(name) or name in {holder.name for holder in self._holders.values()}:
                raise UserError(f"{where} has a name that is taken or has odd letters; give another one.")
            if unknown:
                raise UserError(
                    f"{where} names the scope {one_line(unknown[0], 20)!r}; choose from {', '.join(SCOPES)}."
                )
            if token.startswith(_HASHED):
                if not re.fullmatch("[0-9a-f]{64}", token.removeprefix(_HASHED)):
                    raise UserError(f"{where} has a digest that is not 64 hexadecimal digits; make it anew.")
                digest = bytes.fromhex(token.removeprefix(_HASHED))
            elif not _TOKEN.fullmatch(token):
                raise UserError(
                    f"{where} has a token that is too short or has odd letters; make one with "
                    "`openssl rand -hex 32`."
                )
            else:
                digest = hashlib.sha256(token.encode()).digest()
            if digest in self._holders:
                raise UserError(f"{where} repeats a token; give each name its own.")
            self._holders[digest] = Holder(name, frozenset(scopes.split(",")))
        if not self._holders:
            raise UserError(f"{source} holds no token; write a line with a name, scopes and a token.")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokens:
        """Read a file of tokens.

        Raises:
            UserError: the file cannot be read or used.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(f"The file of tokens {path} cannot be read ({reason}); see --tokens.") from error
        return cls(text, str(path))

    @property
    def scopes(self) -> frozenset[str]:
        """All scopes that some token has."""
        return frozenset().union(*(holder.scopes for holder in self._holders.values()))

    def holder_of(self, authorization: str) -> Holder | None:
        """Return whose token an `Authorization` header holds; None for nobody's.

        `Bearer TOKEN` is for programs. Browsers ask for a name and a password, and send both as `Basic`; the
        password is the token.
        """
        kind, _, value = authorization.strip().partition(" ")
        token = value.strip().encode("latin-1", "replace")
        if kind.lower() == "basic":
            try:
                token = base64.b64decode(token, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return None
        elif kind.lower() != "bearer":
            return None
        digest, found = hashlib.sha256(token).digest(), None
        for known, holder in self._holders.items():
            # All are compared, each in constant time, so that the time tells nothing.
            if hmac.compare_digest(known, digest):
                found = holder
        return found


class _Rate:
    """Token bucket for each of a few names: so many requests a second, and twice as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left: dict[str, tuple[float, float]] = {}

    def passes(self, name: str) -> bool:
        if self._rate <= 0:
            return True
        now, most = time.monotonic(), max(1.0, 2 * self._rate)
        left, since = self._left.get(name, (most, now))
        left = min(most, left + (now - since) * self._rate)
        self._left[name] = (left - 1 if left >= 1 else left, now)
        return left >= 1


RATE = 50.0


class Access(NamedTuple):
    """Who may ask for what.

    Attributes:
        tokens: the tokens; None needs none, which is for 127.0.0.1 alone.
        writable: whether entries may be added and deleted without tokens.
        public_names: names under which a proxy with TLS is reached.
        rate: requests to the API a second, for each token; 0 for no limit.
        answers: whether answers may be given without tokens: whoever starts the page named a file for them.
    """

    tokens: Tokens | None = None
    writable: bool = False
    public_names: tuple[str, ...] = ()
    rate: float = RATE
    answers: bool = False

    @property
    def changes(self) -> bool:
        """Whether anybody may add or delete."""
        return self.writable if self.tokens is None else bool(self.tokens.scopes & {"write", "delete"})


class Patience(NamedTuple):
    """Time limits for the arrival of a request, in seconds.

    Attributes:
        body: for the whole body, after the head.
        still: without any byte, while others need the memory.
    """

    body: float = 60.0
    still: float = 1.0


PATIENCE = Patience()
_LATER = ("retry-after", "1")
_MEANS = {
    "read": "read",
    "write": "add entries or answer",
    "delete": "delete entries",
    "metrics": "read metrics",
}


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
        access: who may ask for what.
        observe: called after each answer with method, path, status and seconds.
    """

    def __init__(
        self,
        application: Application,
        names: Sequence[str],
        addresses: bool,
        upload_bytes: int,
        patience: Patience = PATIENCE,
        held_bytes: int = HELD_BYTES,
        access: Access | None = None,
        observe: Callable[[str, str, int, float], None] | None = None,
    ) -> None:
        self._application = application
        self._access = access or Access()
        self._public = {name.lower().removesuffix(".") for name in self._access.public_names}
        self._names = {"localhost", *(name.lower() for name in names), *self._public}
        self._addresses = addresses
        self._limits = {**dict.fromkeys(_TABLES, _TABLE_BYTES), **dict.fromkeys(_PICTURES, upload_bytes)}
        self._rate, self._failures = _Rate(self._access.rate), _Rate(10.0)
        self._observe = observe
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
        began, status = time.perf_counter(), 500

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if message["type"] == "http.response.body" and head:
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [item for item in message.get("headers", ()) if item[0].decode() not in HEADERS]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        try:
            await self._answer(scope, receive, guarded_send, head)
        finally:
            if self._observe is not None:
                self._observe(scope["method"], scope["path"], status, time.perf_counter() - began)

    async def _answer(
        self, scope: MutableMapping[str, Any], receive: Receive, guarded_send: Send, head: bool
    ) -> None:
        headers = _single(scope["headers"])
        problem = self._problem(scope, headers)
        if problem is not None:
            await _refuse(guarded_send, problem)
            return
        bodies = self._uploads if scope["path"] in _PICTURES else self._questions
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
        path = scope["path"]
        problem = self._problem_of_access(scope["method"], path, headers)
        if problem is not None or path in _OPEN or not path.startswith(("/api/", METRICS)):
            return problem
        foreign = Refusal(403, "The request comes from another web site; only this page may send requests.")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return foreign
        own = f"{scope['scheme']}://{host}".lower()
        # A proxy with TLS passes the request on without it.
        owns = {own, f"https://{host}".lower()} if _name(host) in self._public else {own}
        if headers.get("origin", own).lower() not in owns:
            return foreign
        if scope["method"] != "POST":
            return None
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if path in _PICTURES and path != UPLOADS:
            # A form on another site can send neither.
            if kind != _BYTES and not kind.startswith("image/"):
                return Refusal(
                    415, "The request needs a picture as its body, of type image/jpeg, image/png or "
                    f"{_BYTES}; give it as Content-Type."
                )  # fmt: skip
            return None
        wanted = _BYTES if path == UPLOADS else _JSON
        return None if kind == wanted else Refusal(415, f"The request needs a body of type {wanted}.")

    def _problem_of_access(self, method: str, path: str, headers: dict[str, str]) -> Refusal | None:
        """Return why somebody may not ask for this, or not now."""
        wanted, tokens = scope_of(method, path), self._access.tokens
        if wanted is None:
            return None
        if tokens is None:
            ASKING.set("")
            SCOPE.set(frozenset(SCOPES))
            if path.startswith(ANSWERS):
                if not self._access.answers:
                    return Refusal(403, "The page keeps no answers; start it with --answers FILE.")
            elif wanted in ("write", "delete") and not self._access.writable:
                return Refusal(403, "The server was started for reading only; start it with --writable.")
            holder = Holder("", frozenset(SCOPES))
        else:
            found = tokens.holder_of(headers.get("authorization", ""))
            if found is None:
                if headers.get("authorization") and not self._failures.passes(""):
                    return Refusal(429, "Too many wrong tokens were sent; wait a moment.", _LATER)
                scheme = "Bearer" if path.startswith((f"{API}/", METRICS)) else "Basic"
                return Refusal(
                    401, "A valid token is needed; send it as `Authorization: Bearer TOKEN`, or as the "
                    "password in a browser.",
                    ("www-authenticate", f'{scheme} realm="san_tf gallery"'),
                )  # fmt: skip
            holder = found
            ASKING.set(holder.name)
            SCOPE.set(holder.scopes)
            if wanted not in holder.scopes and not (wanted == "metrics" and "read" in holder.scopes):
                return Refusal(403, f"This token does not allow to {_MEANS[wanted]}; ask for another one.")
        if path.startswith(f"{API}/") and not self._rate.passes(holder.name):
            return Refusal(429, "Too many requests came in a short time; ask again in a moment.", _LATER)
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
    if problem.header is not None:
        headers.append((problem.header[0].encode(), problem.header[1].encode()))
    if problem.status == 408:
        headers.append((b"connection", b"close"))
    if problem.status == 503:
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
