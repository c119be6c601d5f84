"""Connections that send their headers or take their answer too slowly are ended.

uvicorn itself waits for ever for both.
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
    """The class for `uvicorn.Config(http=…)`: uvicorn's own, with limits on what comes first.

    uvicorn times connections only after an answer (`timeout_keep_alive`). One that was opened and
    says nothing, or a header byte now and then, would stay until all file descriptors are used.

    Args:
        head_seconds: time for the line of the request and its headers, from the connection's
            start or from the first byte of the next request on.
        head_bytes: their largest size.
        stall_seconds: time for the client to take what waits to be sent to it.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class BoundedHTTP(base):  # type: ignore[misc]  # httptools' or h11's, as installed
        _patience: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch(0)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch(len(data))

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            self._taken()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._taken()
            # closing would wait until all is sent
            self._stalled = self.loop.call_later(stall_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._taken()
            super().resume_writing()

        def _taken(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _watch(self, received: int) -> None:
            cycle = self.cycle
            if self.transport.is_closing() or (cycle is not None and not cycle.response_complete):
                self._rest()
                return
            if self._patience is None:
                self._patience = self.loop.call_later(head_seconds, self._give_up, _TOO_SLOW)
            # After an early answer the rest of a body may still come: dropped, and no head.
            self._head += 0 if cycle is not None and cycle.more_body else received
            if self._head > head_bytes:
                self._give_up(_TOO_LARGE)

        def _rest(self) -> None:
            self._head = 0
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _give_up(self, answer: bytes) -> None:
            self._rest()
            if not self.transport.is_closing():
                # A silent connection is closed without a word, as one kept alive would be.
                if self.cycle is None or not self.cycle.more_body:
                    self.transport.write(answer)
                self.transport.close()

    return BoundedHTTP
