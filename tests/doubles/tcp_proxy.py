"""A TCP proxy that a test puts between a client and a server, to cut, delay and reset for real.

    with qdrant_http() as server, tcp_proxy(server.url) as proxy:
        client = QdrantClient(url=proxy.url)
        proxy.reset_after(1000)  # RST in the middle of a large request

It knows nothing of what it carries (HTTP, TLS, gRPC). It runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal
from urllib.parse import urlsplit

from .fault_layer import reset_on_close
from .ports import free_port

Direction = Literal["up", "down"]
"""`up`: from the client to the server; `down`: the answers."""

_CHUNK = 2**16
_TICK = 0.005


class TcpProxy:
    """One proxy, from a local port to one target."""

    def __init__(self, target: str | int) -> None:
        parts = urlsplit(f"tcp://127.0.0.1:{target}" if isinstance(target, int) else target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6333)
        self._scheme = parts.scheme
        self.port = free_port()
        self.accepted = 0
        """Connections so far."""
        self.carried: dict[Direction, int] = {"up": 0, "down": 0}
        """Bytes so far, by direction."""
        self._delay = 0.0
        self._left: dict[Direction, int | None] = {"up": None, "down": None}
        self._open: set[asyncio.WriteTransport] = set()
        self._listening: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._thread.start()
        try:
            self.restore()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The target's URL with the proxy's port (the scheme that was given)."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """Client connections that are open now."""
        return int(self._call(self._count()))

    def cut(self) -> None:
        """Reset the open connections and refuse new ones until `restore`."""
        self._call(self._cut())

    def restore(self) -> None:
        """Listen (again) on the same port."""
        self._call(self._listen())

    def drop_connections(self) -> None:
        """Reset the open connections, and go on accepting new ones."""
        self._call(self._abort_all())

    def reset_after(self, n_bytes: int, direction: Direction = "up") -> None:
        """Once: pass on `n_bytes` more in this direction, then reset the connection that sends.

        Counted over all connections from now on; both the client and the server see an RST.
        """

        async def arm() -> None:
            self._left[direction] = n_bytes

        self._call(arm())

    def delay(self, seconds: float) -> None:
        """Hold back every piece of data for so long, both ways; 0 lets what is held back go.

        A delay longer than the client's patience makes the proxy a black hole.
        """

        async def change() -> None:
            self._delay = seconds

        self._call(change())

    def close(self) -> None:
        """Reset everything and end the thread."""
        if self._thread.is_alive():
            self._call(self._cut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            for task in (left := asyncio.all_tasks(self._loop)):
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = await asyncio.start_server(
                self._connected, "127.0.0.1", self.port, reuse_address=True
            )

    async def _cut(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
        await self._abort_all()

    async def _abort_all(self) -> None:
        for transport in list(self._open):
            _reset(transport)
        while self._open:  # their pumps notice, and leave the set
            await asyncio.sleep(0)

    async def _count(self) -> int:
        return len(self._open)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.transport
        self.accepted += 1
        self._open.add(client)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(*self._target)
            server = upstream.transport
            _no_nagle(client)
            _no_nagle(server)
            up = asyncio.ensure_future(self._pump(reader, upstream, "up"))
            down = asyncio.ensure_future(self._pump(answers, writer, "down"))
            _, rest = await asyncio.wait({up, down}, return_when=asyncio.FIRST_EXCEPTION)
            for pump in rest:
                pump.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            if any(not p.cancelled() and p.exception() is not None for p in (up, down)):
                _reset(client)
                _reset(server)
        except OSError:  # the target refuses or resets: so does the proxy
            _reset(client)
        finally:
            self._open.discard(client)
            for side in (writer, upstream):
                if side is not None:
                    side.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while data := await reader.read(_CHUNK):
            arrived = time.monotonic()
            while (rest := arrived + self._delay - time.monotonic()) > 0:
                await asyncio.sleep(min(_TICK, rest))
            left = self._left[direction]
            if left is not None:
                data = data[:left]
                self._left[direction] = left - len(data)
            writer.write(data)
            self.carried[direction] += len(data)
            await writer.drain()
            if self._left[direction] == 0:
                self._left[direction] = None
                raise ConnectionResetError("as asked")
        if writer.can_write_eof():  # a half-closed connection stays half open
            writer.write_eof()


@contextmanager
def tcp_proxy(target: str | int) -> Iterator[TcpProxy]:
    """A running proxy in front of a URL (`http://127.0.0.1:6333`) or a local port."""
    proxy = TcpProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


def _reset(transport: asyncio.WriteTransport) -> None:
    if not transport.is_closing():
        with suppress(OSError):
            reset_on_close(transport.get_extra_info("socket"))
    transport.abort()


def _no_nagle(transport: asyncio.WriteTransport) -> None:
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
