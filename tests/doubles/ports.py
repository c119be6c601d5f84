"""Ports of this machine for doubles to listen on."""

from __future__ import annotations

import errno
import random
import socket


def free_port() -> int:
    """A free port below the range that the system gives to outgoing connections.

    A port of that range could be taken by another connection while a double is stopped, and a
    client that tries to reach it could even be connected to itself.
    """
    for port in random.sample(range(20_000, 32_000), 200):
        try:
            bound(port).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    raise RuntimeError("no free port between 20000 and 32000")


def bound(port: int) -> socket.socket:
    """A socket bound to the local port, not listening yet; the port can be taken up again."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio does it for sockets of its own; without it answers on a kept connection wait 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(("127.0.0.1", port))
    except BaseException:
        listener.close()
        raise
    return listener
