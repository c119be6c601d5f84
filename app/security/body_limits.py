"""Bodies as they arrive: counted, timed, and refused when they are too large or too slow."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from app.errors import BodyTimeout, BodyTooLarge, ServiceError

# What a client may still send after it was refused: enough for it to see the answer. One that
# was too slow already gets no more time for it.
DRAIN_SECONDS = 2.0
SLOW_DRAIN_SECONDS = 0.1
DRAIN_BYTES = 64_000_000

# A body of unknown length, chunked: larger than any other.
UNKNOWN = 1 << 62


class Refused(Exception):
    """Raised to the app that reads a body on; the guard has the reason and answers itself."""


class Body:
    """A request's body on its way to the app.

    Args:
        receive: where it comes from.
        headers: of the request.
        limit: largest number of bytes.
        seconds: how long the service waits for it in all; what the app does meanwhile is not
            counted.
    """

    def __init__(self, receive: Receive, headers: Headers, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._left = seconds
        length = headers.get("content-length", "")
        self.declared = 0
        if "transfer-encoding" in headers:
            self.declared = UNKNOWN
        elif length.isdecimal():
            self.declared = int(length)
        self.ended = self.declared == 0
        self.received = 0
        self.refusal: ServiceError | None = None

    def check_declared(self) -> None:
        """Raise BodyTooLarge where the length that the client declares is too large already."""
        if UNKNOWN > self.declared > self._limit:
            raise self._too_large(f"{self.declared:,} bytes")

    async def receive(self) -> Message:
        """The next message for the app.

        Raises:
            Refused: the body is too large, or too slow; `refusal` says which.
        """
        if self.refusal is not None:
            raise Refused
        if self.ended:
            return await self._receive()  # nothing more, or that the client has gone
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._left)):
                message = await self._receive()
        except TimeoutError:
            self.refusal = BodyTimeout(
                f"the body did not arrive within {self._seconds:g} seconds",
                fix="Send it faster or in smaller parts; the setting is body_timeout_s.",
            )
            raise Refused from None
        finally:
            self._left -= time.monotonic() - began
        if self.count(message) > self._limit:
            self.refusal = self._too_large("more")
            raise Refused
        return message

    async def skip(self) -> bool:
        """Drop the next part; whether there may be more."""
        if not self.ended:
            self.count(await self._receive())
        return not self.ended

    def count(self, message: Message) -> int:
        """Take note of a message; the bytes received so far."""
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        else:
            self.ended = True  # the client has gone
        return self.received

    def _too_large(self, size: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body has {size}, and this address takes up to {self._limit:,} bytes",
            fix="Send less at once, or raise the setting max_body_mb, or max_upload_mb for files.",
        )


async def drained(body: Body) -> None:
    """Drop what the client still sends of a refused body: for a while, and up to a size."""
    slow = isinstance(body.refusal, BodyTimeout)
    try:
        async with asyncio.timeout(SLOW_DRAIN_SECONDS if slow else DRAIN_SECONDS):
            while body.received < DRAIN_BYTES and await body.skip():
                pass
    except TimeoutError:
        return
