"""Server-sent events: their form, their keep-alive comments and their error bodies."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.errors import ServiceError
from app.protocols.errors import error_body, request_id_of
from retrieval.errors import RetrievalError

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0
"""Proxies cut connections on which nothing is sent for a minute or so."""

SCHEMA = {
    "itemSchema": {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "required": ["data"],
    }
}
"""How OpenAPI describes events whose data is JSON."""


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
    """The body that reports an error after the response has begun; the log has the rest."""
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


def event_stream(
    events: AsyncGenerator[bytes, None],
    *,
    keep_alive_s: float = KEEP_ALIVE_SECONDS,
    ends_with_service: bool = False,
) -> EventSourceResponse:
    """Events from a generator, which is closed after the last one or once the client has gone.

    Args:
        events: made by `event`.
        keep_alive_s: seconds between comments that keep the connection open.
        ends_with_service: whether the stream is cut as soon as the service stops; otherwise it
            may go on for as long as the server waits for running requests.
    """
    return EventSourceResponse(
        events,
        headers={"Cache-Control": "no-store, no-transform"},
        ping=keep_alive_s,
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
        shutdown_grace_period=0 if ends_with_service else math.inf,
    )
