"""The page on a port of this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import signal
import socket
from typing import TYPE_CHECKING

from san_tf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn

    from san_tf.page.guard import Guard

LOOPBACK = "127.0.0.1"


def listen(host: str, port: int) -> socket.socket:
    """Take a port, before anything slow is done.

    Args:
        host: address or name of this machine.
        port: 0 takes a free one.

    Raises:
        UserError: the port is taken or may not be taken, or there is no such address here.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"{host} is no address of this machine; leave --host out for this machine alone."
        ) from error
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(128)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"Port {port} is in use; end what uses it, or give another (--port 0 finds a free one)."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(
                f"Port {port} is reserved; give one from 1024 (--port 0 finds a free one)."
            ) from error
        raise UserError(
            f"{host} is no address of this machine ({error.strerror}); leave --host out to stay on this one."
        ) from error
    return server


def address_of(server: socket.socket, host: str) -> str:
    """What to open in a browser."""
    if ipaddress.ip_address(server.getsockname()[0].partition("%")[0]).is_unspecified:
        host = socket.gethostname()  # all addresses of this machine: none that could be opened
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.getsockname()[1]}/"


def is_open_to_others(server: socket.socket) -> bool:
    """Whether other machines may reach it."""
    return not ipaddress.ip_address(server.getsockname()[0].partition("%")[0]).is_loopback


def own_names(server: socket.socket, host: str) -> list[str]:
    """Names by which a browser may know this machine: for a server open to others, also its own."""
    return [host, socket.gethostname(), socket.getfqdn()] if is_open_to_others(server) else [host]


def build_server(application: Guard, ready: Callable[[], None]) -> uvicorn.Server:
    """A server that is not running yet.

    Args:
        application: from `build_app`.
        ready: called when it answers.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    return Server(
        uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody else's word for who asks
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=2,
            limit_concurrency=200,
        )
    )


def serve(application: Guard, server: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until Ctrl-C or SIGTERM, which both are the way to end it; in the main thread.

    Args:
        application: from `build_app`.
        server: from `listen`; closed at the end.
        ready: called when it answers.
    """
    # uvicorn answers what it was asked and raises the signal again; SIGTERM would end the process there and
    # then, with whatever it has to clear away.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            build_server(application, ready).run(sockets=[server])
    finally:
        signal.signal(signal.SIGTERM, before)
        server.close()
