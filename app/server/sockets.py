"""Sockets and the server that runs an app on them: reserved early, stopped with grace."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import math
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from app.security.connection_limits import bounded_http
from retrieval.errors import InvalidInput, PortInUse

# Open tabs and running searches get this long when the server is asked to stop.
GRACE_SECONDS = 3.0
# Connections that wait to be accepted; a burst of clients must not be refused by the kernel.
BACKLOG = 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def loopback_names(host: str) -> list[str]:
    """The names under which a service on a loopback address is called."""
    names = ["127.0.0.1", "localhost", "::1", "[::1]"]
    return names if host in names else [*names, host]


def reserve_port(host: str, port: int) -> socket.socket:
    """Bind the address before any long work begins; the socket is later given to `serve`.

    Raises:
        PortInUse: another process has the port.
        InvalidInput: the address is not of this machine, or may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InvalidInput(
            f"the host {host!r} is not an address of this machine",
            fix="Use --host 127.0.0.1, or 0.0.0.0 with --public for all addresses.",
        ) from None
    sock = socket.socket(family, kind, protocol)
    try:
        # Without it a port stays refused for a minute after its last server ended.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _bind_error(error, host, port) from None
    return sock


def url_of(sock: socket.socket) -> str:
    """Where a browser on this machine finds what is served on a bound socket."""
    host, port = sock.getsockname()[:2]
    # An address for all interfaces is one to listen on, not one to go to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(
    app: FastAPI,
    *,
    ready: Callable[[], None] | None = None,
    stopping: Callable[[], None] | None = None,
    grace_s: float = GRACE_SECONDS,
) -> uvicorn.Server:
    """A server that is given its sockets when it runs.

    Args:
        app: what is served.
        ready: called once the server answers.
        stopping: called before connections are closed.
        grace_s: seconds that requests may still run when the server is asked to stop.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=math.ceil(grace_s),
        server_header=False,
        http=bounded_http(),  # uvicorn's own waits for slow headers without a limit
        ws="none",
    )
    return _Server(config, ready, stopping)


def serve(
    app: FastAPI,
    sock: socket.socket,
    *,
    ready: Callable[[], None] | None = None,
    stopping: Callable[[], None] | None = None,
    grace_s: float = GRACE_SECONDS,
) -> None:
    """Run until SIGINT or SIGTERM; returns when all is closed. Call it in the main thread.

    Args:
        app: what is served.
        sock: from `reserve_port`; closed at the end.
        ready, stopping, grace_s: see `make_server`.

    Raises:
        PortInUse: another process began to listen after the port was reserved.
    """
    host, port = sock.getsockname()[:2]
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_error(error, host, port) from None
    # The server stops at the signal, then raises it again for whoever waits around it.
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app, ready=ready, stopping=stopping, grace_s=grace_s).run(sockets=[sock])


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None] | None,
        stopping: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready is not None and not self.should_exit:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._stopping is not None:
            self._stopping()
        log = logging.getLogger("uvicorn.error")
        before = log.disabled
        # Requests that are cut off now are meant to be, and need no traceback each.
        log.disabled = True
        try:
            await super().shutdown(sockets)
        finally:
            log.disabled = before


def _bind_error(error: OSError, host: str, port: int) -> PortInUse | InvalidInput:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port} on {host} is in use by another process",
            fix=f"Stop that process, or take another port: --port {_other(port)}",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return InvalidInput(
            f"port {port} on {host} may not be opened by this user",
            fix="Take a port from 1024 upwards, such as --port 7860.",
        )
    return InvalidInput(
        f"{host} port {port} cannot be listened on ({error.strerror or error})",
        fix="Use an address of this machine, such as --host 127.0.0.1.",
    )


def _other(port: int) -> int:
    return port + 1 if port < 65535 else 7860
