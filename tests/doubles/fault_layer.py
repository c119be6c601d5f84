"""The ASGI layer in front of the REST double: the log, keys, limits, and faults on the socket."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import to_json

from . import tokens
from .faults import Fault, Faults, Request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/", "/healthz", "/livez", "/readyz"})
"""What a server tells without a key."""


class FaultLayer:
    """Reads each request whole, logs it, and passes it on unless a rule says otherwise."""

    def __init__(
        self, app: App, faults: Faults, api_key: str | None, body_limit: int, limit_status: int
    ) -> None:
        self._app = app
        self._faults = faults
        self._api_key = api_key
        self._body_limit = body_limit
        self._limit_status = limit_status

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # cut in the middle of the request: nothing is applied, nothing logged
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if (frozen := self._faults.frozen) is None:
            await self._take(scope, receive, send, bytes(body))
            return
        self._faults.held += 1
        try:
            # what waits may be cancelled by a server that stops; the thaw is everybody's
            await asyncio.shield(asyncio.wrap_future(frozen))
            await self._take(scope, receive, send, bytes(body))
        finally:
            self._faults.held -= 1

    async def _take(self, scope: Any, receive: Receive, send: Send, body: bytes) -> None:
        request = Request(
            protocol="http",
            method=scope["method"],
            path=scope["path"],
            query=dict(parse_qsl(scope["query_string"].decode())),
            headers={k.decode().lower(): v.decode() for k, v in scope["headers"]},
            body=body,
        )
        fault = self._faults.strike(request)
        answer = _Answer(request, scope, receive, send)
        if fault is None or fault.after:
            await self._serve(answer)
        if fault is not None:
            await asyncio.sleep(fault.delay)
            if fault.drop is not None:
                await _drop(fault, receive, send)
                return
            if fault.status is not None:
                answer.make(*_fault_answer(fault))
            elif not fault.after:
                await self._serve(answer)
        await answer.give()

    async def _serve(self, answer: _Answer) -> None:
        request = answer.request
        if self._api_key is not None and request.path not in OPEN_PATHS:
            given = request.headers.get("api-key") or request.headers.get(
                "authorization", ""
            ).removeprefix("Bearer ")
            access = self._faults.tokens.get(given)
            if access is not None:
                forbidden = tokens.refusal(access, request.method, request.path)
                if forbidden is not None:
                    answer.make(403, *_error(forbidden))
                    return
                await answer.ask(self._app)
                answer.change(lambda body: tokens.filtered(access, request.path, body))
                return
            if given != self._api_key:
                text = (
                    "Invalid API key or JWT"
                    if given
                    else "Must provide an API key or an Authorization bearer token"
                )
                answer.make(401, {"content-type": "text/plain"}, text.encode())
                return
        if request.size > self._body_limit and not request.path.endswith("/snapshots/upload"):
            text = (
                f"Payload error: JSON payload ({request.size} bytes) is larger than allowed "
                f"(limit: {self._body_limit} bytes)."
            )
            answer.make(self._limit_status, *_error(text))
            return
        await answer.ask(self._app)


class _Answer:
    """The answer to one request, held back until it is given."""

    def __init__(self, request: Request, scope: Any, receive: Receive, send: Send) -> None:
        self.request = request
        self._scope = scope
        self._receive = receive
        self._send = send
        self._messages: list[Message] = []

    async def ask(self, app: App) -> None:
        """Let the application answer."""
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                return await self._receive()
            sent = True
            return {"type": "http.request", "body": self.request.body, "more_body": False}

        async def send(message: Message) -> None:
            self._messages.append(message)

        await app(self._scope, receive, send)

    def make(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Answer this instead."""
        raw = [(k.encode(), v.encode()) for k, v in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        self._messages = [
            {"type": "http.response.start", "status": status, "headers": raw},
            {"type": "http.response.body", "body": body},
        ]

    def change(self, change: Callable[[bytes], bytes]) -> None:
        """Another body for the same answer."""
        start = self._messages[0]
        body = change(b"".join(one.get("body", b"") for one in self._messages[1:]))
        kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        start["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        self._messages = [start, {"type": "http.response.body", "body": body}]

    async def give(self) -> None:
        """Send it."""
        self.request.status = self._messages[0]["status"]
        for message in self._messages:
            await self._send(message)


def _error(text: str) -> tuple[dict[str, str], bytes]:
    body = to_json({"status": {"error": text}, "time": 0.0})
    return {"content-type": "application/json"}, body


def _fault_answer(fault: Fault) -> tuple[int, dict[str, str], bytes]:
    assert fault.status is not None
    headers, body = _error(fault.message)
    if fault.retry_after is not None:
        headers["retry-after"] = str(fault.retry_after)
    return fault.status, headers, body


async def _drop(fault: Fault, receive: Receive, send: Send) -> None:
    """End the connection without an answer: by RST, or by an orderly close."""
    # uvicorn hands out a bound method of the cycle that holds the connection
    transport = send.__self__.transport  # type: ignore[attr-defined]
    if fault.drop == "reset":
        reset_on_close(transport.get_extra_info("socket"))
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


def reset_on_close(connection: Any) -> None:
    """Make closing this socket send RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
