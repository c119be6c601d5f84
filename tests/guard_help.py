"""A small app behind the real guard, over real sockets."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from app.observability.metrics import Metrics
from app.observability.requests import observed
from app.protocols import errors, health
from app.protocols.requests import caller_of
from app.security.api_keys import KeyRing
from app.security.headers import SecurityHeaders
from app.security.middleware import Guard
from app.server.app import ERROR_FORMS
from app.settings.settings import Settings
from app.types import Readiness
from retrieval.errors import InvalidInput


class Prepared:
    """A backend that says whether it is ready, and nothing else."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.next_part = threading.Event()  # lets `/v1/stream` send what follows its first part

    async def ready(self) -> Readiness:
        return Readiness(not self.problems, self.problems)


def observing(metrics: Metrics) -> dict[str, Any]:
    """What the guard is given to count in."""
    return {"observe": functools.partial(observed, metrics), "shed": metrics.shed}


def guarded(
    *, keys: KeyRing | None = None, metrics: Metrics | None = None, **options: Any
) -> tuple[FastAPI, Prepared]:
    """Routes that echo, stream, fail and wait."""
    metrics = metrics or Metrics()
    backend = Prepared()
    app = FastAPI()
    errors.install(app, ERROR_FORMS)
    app.include_router(health.router(backend, metrics))  # type: ignore[arg-type]

    @app.get("/")
    async def page() -> str:
        return "the page"

    @app.get("/v1/who")
    async def who(request: Request) -> dict[str, Any]:
        caller = caller_of(request)
        return {
            "key_id": caller.key_id,
            "write": caller.write,
            "collections": caller.collections,
            "tenant": caller.tenant,
            "request_id": request.state.request_id,
        }

    @app.post("/v1/echo")
    async def echo(body: dict[str, Any]) -> int:
        return len(str(body))

    @app.post("/v1/ingest")
    async def ingest(request: Request) -> int:
        return sum([len(part) async for part in request.stream()])

    @app.post("/v1/unread")
    async def unread() -> str:
        return "done"

    @app.post("/v1/slow-app")
    async def slow_app(request: Request) -> int:
        await asyncio.sleep(0.6)
        return len(await request.body())

    @app.get("/v1/items/{item}")
    async def item(item: str) -> str:
        if item == "bad":
            raise InvalidInput("the item is bad", fix="Take another.")
        if item == "broken":
            raise RuntimeError("broken with tsr_" + "S" * 43 + " in it")
        return item

    @app.get("/v1/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"part %d\n" % number
                await asyncio.to_thread(backend.next_part.wait, 10)

        return StreamingResponse(parts(), media_type="text/plain")

    app.add_middleware(Guard, keys=keys, settings=Settings(**options), **observing(metrics))
    app.add_middleware(SecurityHeaders)
    return app, backend
