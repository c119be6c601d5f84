"""In front of every route: the caller, their rights and rate, and limits of size and time.

Pure ASGI, so that streams stay streams; bodies are counted as they pass and never kept. The app's
handler of errors answers what the guard refuses, in the form of the route's own protocol.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BodyTimeout, Forbidden, RateLimited, ServiceError, error_code
from app.security.body_limits import Body, Refused
from app.security.credentials import is_page, token_of
from app.security.rate_limit import RateLimits
from app.security.responses import GuardedAnswer, Stats, error_response, fault_response
from app.types import Caller
from retrieval.errors import RetrievalError

if TYPE_CHECKING:
    from app.security.api_keys import KeyRing
    from app.security.key_file import Key
    from app.settings.settings import Settings

log = logging.getLogger(__name__)

OPEN = ("/healthz", "/readyz", "/health")
"""Answered without a key, because load balancers ask them."""

STRANGER = Caller("anonymous", write=False, collections=())
"""Somebody without a key, at an open address of a service that has keys."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_UPLOADS = re.compile(r"/v1/(?:collections/[^/]+/)?ingest/?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MB = 1_000_000
# A refused body up to this size is read to its end, so that the connection can be kept.
_SMALL_BODY = 65_536


class Guard:
    """Middleware: lets a request through, or answers it with 401, 403, 408, 413 or 429.

    Sets `scope["state"]`: "request_id", and "caller" (a `Caller`) once the caller is known.

    Args:
        app: what it guards; asked for its handler of `RetrievalError`.
        keys: API keys; None lets everyone in.
        settings: limits, and the origins of pages that may call.
        observe: counts, traces and logs a request, from its start to the end of the context.
        shed: counts a request that is refused, by reason.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing | None,
        settings: Settings,
        observe: Callable[[Scope], AbstractContextManager[Stats]],
        shed: Callable[[str], None],
    ) -> None:
        self._app = app
        self._keys = keys
        self._observe = observe
        self._shed = shed
        self._rate = settings.rate_limit
        self._collection = settings.collection
        self._rates = RateLimits()
        self._origins = frozenset(settings.cors_origins)
        self._body_bytes = round(settings.max_body_mb * _MB)
        self._upload_bytes = max(round(settings.max_upload_mb * _MB), self._body_bytes)
        self._body_seconds = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # nothing here speaks it, and it has no guard
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        sent_id = headers.get("x-request-id", "")
        request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex
        state["request_id"] = request_id
        with self._observe(scope) as stats:
            limit = self._body_bytes
            if _UPLOADS.fullmatch(scope["path"]) and _is_multipart(headers):
                limit = self._upload_bytes
            body = Body(receive, headers, limit, self._body_seconds)
            answer = GuardedAnswer(send, request_id, stats, body)
            try:
                self._admit(scope, headers)
                body.check_declared()
            except RetrievalError as error:
                await self._refuse(scope, body, answer, error)
                return
            finally:
                stats.received_bytes = body.received
            try:
                await self._app(scope, body.receive, answer.send)
            except Refused:
                pass  # the body was refused while the app was reading it
            except Exception as error:
                if body.refusal is None:
                    # Answered here, so that it has the headers of all answers; raised for the log.
                    if not answer.started:
                        await answer.refusal(await fault_response(scope, error), close=False)
                    raise
                # else: the app's way to say that it could not read the body
            finally:
                stats.received_bytes = body.received
            if body.refusal is not None and not answer.started:
                await self._refuse(scope, body, answer, body.refusal)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Identify the caller, and check that they may call now.

        Raises:
            Unauthorized, Forbidden, RateLimited
        """
        path: str = scope["path"]
        self._check_origin(scope, headers)
        key = self._key(scope, headers)
        if path in OPEN:
            return
        rate = self._rate if key is None or key.rate is None else key.rate
        if rate is None:
            return
        # Without keys, everybody behind one address shares a rate.
        client = f"key {key.id}" if key is not None else f"at {(scope.get('client') or ('?',))[0]}"
        wait = self._rates.wait(client, rate)
        if wait > 0:
            self._shed("rate_limited")
            raise RateLimited(
                f"more than {rate} requests were sent",
                fix="Send the request again after the time in Retry-After, and fewer in all.",
                retry_after_s=wait,
            )

    def _key(self, scope: Scope, headers: Headers) -> Key | None:
        if self._keys is None:
            return None
        try:
            key = self._keys.find(token_of(scope["path"], headers))
        except ServiceError:
            if scope["path"] not in OPEN:
                raise
            scope["state"]["caller"] = STRANGER
            return None
        if is_page(scope["path"]):
            self._check_page(key)
        scope["state"]["caller"] = key.caller
        return key

    def _check_page(self, key: Key) -> None:
        """The page searches the default collection, without a caller."""
        allowed = key.caller.collections
        if key.caller.tenant is not None or not (allowed is None or self._collection in allowed):
            raise Forbidden(
                f"the key {key.id!r} may not use the page, which searches {self._collection!r}",
                fix="Use a key that may use that collection and is bound to no tenant.",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what a web page elsewhere makes a browser send, which may be on this machine."""
        if scope["method"] in _SAFE_METHODS:
            return
        # Few requests have one, and to miss a name in `Headers` is slow.
        origin = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"origin"), None)
        if origin is None:
            return
        low = origin.lower()
        own = low.partition("://")[2]
        if own and own in _names(headers.get("host", "").lower(), low):
            return
        if low in self._origins or "*" in self._origins:
            return
        raise Forbidden(
            f"a page of {origin[:100]!r} may not call this service",
            fix="Add its origin to the setting cors_origins, if it may.",
        )

    async def _refuse(
        self, scope: Scope, body: Body, answer: GuardedAnswer, error: RetrievalError
    ) -> None:
        response = await error_response(scope, error)
        if response.status_code == 401:
            # A browser asks its user for a key on the page alone; programs are not to be asked.
            kind = (
                'Basic realm="retrieval", charset="UTF-8"' if is_page(scope["path"]) else "Bearer"
            )
            response.headers["www-authenticate"] = kind
        scope["state"].setdefault("error_code", error_code(error))
        log.info("refused: %s", error.problem)
        slow = isinstance(error, BodyTimeout)
        close = not body.ended and (slow or body.declared > _SMALL_BODY)
        await answer.refusal(response, close=close)


def _is_multipart(headers: Headers) -> bool:
    return headers.get("content-type", "").lower().startswith("multipart/form-data")


def _names(host: str, origin: str) -> tuple[str, ...]:
    """The forms of the own host in an Origin header, with and without the scheme's own port."""
    port = ":443" if origin.startswith("https:") else ":80"
    return (host, host.removesuffix(port), host + port)
