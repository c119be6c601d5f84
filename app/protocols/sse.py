"""Server-sent events that end, and let go of what they hold, when the client has gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio
from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.errors import ServiceError
from app.protocols.errors import error_body, request_id_of
from retrieval.errors import RetrievalError

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0
"""Proxies cut connections that say nothing for a minute or so."""

SCHEMA = {
    "itemSchema": {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "required": ["data"],
    }
}
"""How OpenAPI describes events whose data is JSON."""

_KEEP_ALIVE = b": still working\n\n"


def event(data: Mapping[str, Any] | str, *, name: str | None = None) -> bytes:
    """One event. `data`: JSON, or a text of one line."""
    if isinstance(data, str):
        line = data.encode()
    else:  # metadata may hold whole numbers of any size
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        line = text.encode("utf-8", "replace")
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + line + b"\n\n"


def failed(request: Request, error: Exception) -> dict[str, object]:
    """The body that tells of an error after the response has begun; the log has the rest."""
    request_id = request_id_of(request)
    if isinstance(error, RetrievalError):
        log.warning("request %s failed midway: %s", request_id, error)
    else:
        log.error("request %s failed midway", request_id, exc_info=error)
        error = ServiceError(
            "the service has a fault, and the answer broke off",
            fix=f"Try again; the service's log says more about request {request_id}.",
        )
    return error_body(error, request_id)


class EventStream(StreamingResponse):
    """Events from a generator, which is closed once the last was sent or the client has gone."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._paced = _paced(events)
        super().__init__(
            self._paced,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._paced.aclose()


async def _paced(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events, with comments between them while none comes."""
    waiting: asyncio.Task[bytes | None] | None = None

    async def following() -> bytes | None:
        return await anext(events, None)

    try:
        while True:
            waiting = asyncio.create_task(following())
            while not (await asyncio.wait({waiting}, timeout=KEEP_ALIVE_SECONDS))[0]:
                yield _KEEP_ALIVE
            one = waiting.result()
            if one is None:
                return
            yield one
    finally:
        if waiting is not None and not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})
        await events.aclose()
