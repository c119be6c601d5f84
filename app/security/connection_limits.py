"""Connections that send their headers or take their answer too slowly are ended.

uvicorn itself waits for ever for both: it times connections only after an answer
(`timeout_keep_alive`). A connection that was opened and says nothing, or sends a header byte now
and then, would stay until the process has no file descriptors left.
"""

from __future__ import annotations

import asyncio
from typing import Any

# What comes before a request's body: clients send a few hundred bytes in one piece.
HEAD_SECONDS = 15.0
HEAD_BYTES = 65_536
# In this time a client must take what is buffered for it, some 64 kB.
STALL_SECONDS = 60.0

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


def bounded_http(
    *,
    head_seconds: float = HEAD_SECONDS,
    head_bytes: int = HEAD_BYTES,
    stall_seconds: float = STALL_SECONDS,
) -> type[asyncio.Protocol]:
    """The class for `uvicorn.Config(http=…)`: uvicorn's own, with limits.

    Args:
        head_seconds: time for the line of the request and its headers, from the connection's
            start or from the first byte of the next request on.
        head_bytes: their largest size.
        stall_seconds: time for the client to take what waits to be sent to it.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol  # httptools' or h11's, as installed

    limits = {
        "head_seconds": head_seconds,
        "head_bytes": head_bytes,
        "stall_seconds": stall_seconds,
    }
    return type("BoundedHTTP", (_Limits, AutoHTTPProtocol), limits)


# The names that uvicorn's protocol classes have, which are not declared for type checkers.
_Base: Any = object


class _Limits(_Base):  # type: ignore[misc]
    """Stands in front of one of uvicorn's protocol classes, and calls it for everything."""

    head_seconds: float
    head_bytes: int
    stall_seconds: float

    _head = 0  # bytes of the current request's head so far
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch_head(0)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        self._stall_ended()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_ended()
        # `close` would wait until everything is sent
        self._stall_timer = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stall_ended()
        super().resume_writing()

    def _stall_ended(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _watch_head(self, received: int) -> None:
        cycle = self.cycle
        if self.transport.is_closing() or (cycle is not None and not cycle.response_complete):
            self._head_ended()
            return
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._refuse, _TOO_SLOW)
        # After an early answer the rest of a body may still come; it is dropped, and not a head.
        self._head += 0 if cycle is not None and cycle.more_body else received
        if self._head > self.head_bytes:
            self._refuse(_TOO_LARGE)

    def _head_ended(self) -> None:
        self._head = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._head_ended()
        if not self.transport.is_closing():
            # A silent connection is closed without an answer, as one kept alive would be.
            if self.cycle is None or not self.cycle.more_body:
                self.transport.write(answer)
            self.transport.close()
