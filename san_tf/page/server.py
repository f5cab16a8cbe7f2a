"""HTTP server of the page, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import signal
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from san_tf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn

    from san_tf.page.guard import Guard

LOOPBACK = "127.0.0.1"


class Limits(NamedTuple):
    """Limits of connections, so that none can block the others.

    Attributes:
        silence: seconds for the complete head of a request, from the start of the connection or the last
            answer, even if bytes arrive slowly meanwhile.
        reading: seconds for the client to read an answer.
        connections: open connections; one more closes the one that was silent the longest, or else the
            oldest one whose request does not end or whose answer is not read. Twice as many are open if the
            server works on all of them.
    """

    silence: float = 10.0
    reading: float = 60.0
    connections: int = 256


LIMITS = Limits()


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port; call it before anything slow.

    Args:
        host: address or name of this machine.
        port: number of the port; 0 for a free one.

    Raises:
        UserError: the port is in use or reserved, or this machine has no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"{host} is not an address of this machine; leave --host out for this machine alone."
        ) from error
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(128)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"Port {port} is in use; stop its program, or give another (--port 0 finds a free one)."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(
                f"Port {port} is reserved; give one from 1024 (--port 0 finds a free one)."
            ) from error
        raise UserError(
            f"{host} is not an address of this machine ({error.strerror}); leave --host out for it alone."
        ) from error
    return server


def address_of(server: socket.socket, host: str) -> str:
    """Return the address to open in a browser."""
    if ipaddress.ip_address(server.getsockname()[0].partition("%")[0]).is_unspecified:
        host = socket.gethostname()  # 0.0.0.0 and :: cannot be opened in a browser
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.getsockname()[1]}/"


def is_open_to_others(server: socket.socket) -> bool:
    """Return whether other machines can reach the server."""
    return not ipaddress.ip_address(server.getsockname()[0].partition("%")[0]).is_loopback


def own_names(server: socket.socket, host: str) -> list[str]:
    """Return the names that a browser may use; for a server open to others, also the host names."""
    return [host, socket.gethostname(), socket.getfqdn()] if is_open_to_others(server) else [host]


def build_server(application: Guard, ready: Callable[[], None], limits: Limits = LIMITS) -> uvicorn.Server:
    """Return a server that is not running yet.

    Args:
        application: from `build_app`.
        ready: called when the server answers.
        limits: limits of its connections.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    return Server(
        uvicorn.Config(
            application,
            http=_connections(limits),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # do not trust headers about the client
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
    )


def _connections(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with time limits: uvicorn itself would wait forever for a slow head."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from san_tf.page.guard import HEADERS

    class Connection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None
        _since = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()
            if len(self.connections) > limits.connections:
                # Connections that are being answered stay.
                others = cast("set[Connection]", self.connections - {self})
                waiting = [other for other in others if other._timer is not None]
                waiting = waiting or [other for other in others if other._is_slow()]
                # A client of whom the server has everything is told in a sentence if too many wait.
                if not waiting and len(self.connections) > 2 * limits.connections:
                    waiting = [self]
                if waiting:
                    min(waiting, key=lambda other: other._since).transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._timer, self._stuck):
                if timer is not None:
                    timer.cancel()
            self._timer = self._stuck = None
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stuck is None:
                self._stuck = self.loop.call_later(limits.reading, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None

        def _is_slow(self) -> bool:
            """Return whether a request is still arriving, or answers wait to be read."""
            return self._stuck is not None or (self.cycle is not None and self.cycle.more_body)

        def _watch(self) -> None:
            """Run the timer while the client must act; single bytes do not stop it."""
            if self.cycle is not None and not self.cycle.response_complete:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            elif self._timer is None and not self.transport.is_closing():
                self._since = self.loop.time()
                self._timer = self.loop.call_later(limits.silence, self._expired)

        def _expired(self) -> None:
            reading = self.loop.time() - self._since < limits.reading
            if reading and self.transport.get_write_buffer_size():
                self._timer = self.loop.call_later(limits.silence, self._expired)
            else:
                self.transport.abort()

        def _should_upgrade(self) -> bool:
            return False  # only HTTP, and no warning in the terminal for each attempt

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.abort()  # an answer is on its way already
                return
            content = json.dumps({"error": "The request cannot be read."}).encode()
            own = {**HEADERS, "content-type": "application/json", "connection": "close"}
            headers = [*own.items(), ("content-length", str(len(content)))]
            events: tuple[Any, ...] = (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection


def serve(application: Guard, server: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; call it in the main thread.

    Args:
        application: from `build_app`.
        server: socket from `listen`; closed at the end.
        ready: called when the server answers.
    """
    # uvicorn finishes its answers and raises the signal again. SIGTERM would then end the process without
    # cleaning up, so it is handled like Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            build_server(application, ready).run(sockets=[server])
    finally:
        signal.signal(signal.SIGTERM, before)
        server.close()
