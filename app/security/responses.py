"""What the guard sends: the app's answers with the request's id, and its own to what it refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Scope, Send

from app.errors import error_code, http_status, retry_after
from app.security.body_limits import Body, drained
from retrieval.errors import RetrievalError


class Stats(Protocol):
    """What the guard counts of a request; `app.observability.requests.RequestStats` is one."""

    status: int
    sent_bytes: int
    received_bytes: int


class GuardedAnswer:
    """What goes out: adds the request's id, counts, and closes after what is refused."""

    def __init__(self, send: Send, request_id: str, stats: Stats, body: Body) -> None:
        self._send = send
        self._id = request_id.encode()
        self._stats = stats
        self._body = body
        self.started = False

    async def send(self, message: Message) -> None:
        """The app's own answer; held back once its body was refused."""
        if self._body.refusal is not None and not self.started:
            return
        await self._pass(message)

    async def refusal(self, response: Response, *, close: bool) -> None:
        """A whole answer; what the client is still sending is read for a while and dropped.

        A connection that is closed with bytes unread is reset, and the client may lose the
        answer before it has read it.
        """
        body = bytes(response.body)
        head = [*response.raw_headers]
        if close:
            head.append((b"connection", b"close"))
        await self._pass(
            {"type": "http.response.start", "status": response.status_code, "headers": head}
        )
        await self._pass({"type": "http.response.body", "body": body, "more_body": True})
        await drained(self._body)
        await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._stats.status = message["status"]
            names = [pair for pair in message.get("headers", []) if pair[0] != b"x-request-id"]
            message = {**message, "headers": [*names, (b"x-request-id", self._id)]}
        elif message["type"] == "http.response.body":
            self._stats.sent_bytes += len(message.get("body", b""))
        await self._send(message)


async def fault_response(scope: Scope, error: Exception) -> Response:
    """The answer to an unexpected error."""
    handler = getattr(scope.get("app"), "exception_handlers", {}).get(Exception)
    scope["state"].setdefault("error_code", "internal")
    if handler is None:
        return JSONResponse({"error": {"code": "internal"}}, 500)
    response: Response = await handler(Request(scope), error)
    return response


async def error_response(scope: Scope, error: RetrievalError) -> Response:
    """The answer in the form of the route's protocol, by the app's own handler of errors."""
    handlers: dict[Any, Callable[[Request, Exception], Response | Awaitable[Response]]]
    handlers = getattr(scope.get("app"), "exception_handlers", {})
    handler = handlers.get(RetrievalError)
    if handler is not None:
        answer = handler(Request(scope), error)
        response = answer if isinstance(answer, Response) else await answer
    else:
        response = JSONResponse(
            {"error": {"message": str(error), "code": error_code(error)}}, http_status(error)
        )
    seconds = retry_after(error)
    if seconds is not None and "retry-after" not in response.headers:
        response.headers["retry-after"] = str(max(1, round(seconds + 0.5)))
    return response
