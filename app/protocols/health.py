"""For operators: whether the service is alive, whether it is ready, and its metrics."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.backend.backend import Backend
from app.observability.metrics import CONTENT_TYPE, Metrics
from app.protocols.requests import caller_of
from app.types import Caller, Readiness

log = logging.getLogger(__name__)

# A store that does not answer must not delay the answer about it.
READY_SECONDS = 10.0


class Alive(BaseModel):
    """The process answers."""

    status: str = Field("ok", examples=["ok"])


class Ready(BaseModel):
    """Whether searches can be answered and documents written."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"ready": True, "problems": {}},
                {"ready": False, "problems": {"models": "The models are being loaded."}},
            ]
        }
    )

    ready: bool
    problems: dict[str, str] = Field(
        description="What is missing, by part: models, index, writes, jobs. Where the service "
        "has keys, only callers with a key get the sentences."
    )


def router(backend: Backend, metrics: Metrics) -> APIRouter:
    """`/healthz`, `/readyz` and `/metrics`.

    Args:
        backend: checked for whether it is ready.
        metrics: what `/metrics` shows.
    """
    routes = APIRouter(tags=["operations"])
    check: asyncio.Task[Readiness] | None = None

    @routes.get("/healthz", summary="Is the process alive", response_model=Alive)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get(
        "/readyz",
        summary="Can it search and write",
        response_model=Ready,
        responses={503: {"model": Ready, "description": "It is not ready; says why."}},
    )
    async def readyz(
        response: Response, caller: Annotated[Caller, Depends(caller_of)]
    ) -> dict[str, object]:
        nonlocal check
        # Everybody may ask, so only one check runs at a time.
        if check is None or check.done():
            check = asyncio.create_task(_readiness(backend))
        found = await asyncio.shield(check)
        response.status_code = 200 if found.ready else 503
        response.headers["cache-control"] = "no-store"
        problems = dict(found.problems)
        if not _may_know(caller):
            problems = dict.fromkeys(problems, "Not ready; ask with an API key for the reason.")
        return {"ready": found.ready, "problems": problems}

    @routes.get(
        "/metrics",
        summary="Numbers for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def scrape() -> Response:
        return Response(await run_in_threadpool(metrics.render), media_type=CONTENT_TYPE)

    return routes


async def _readiness(backend: Backend) -> Readiness:
    try:
        async with asyncio.timeout(READY_SECONDS):
            return await backend.ready()
    except TimeoutError:
        return Readiness(False, {"index": f"The check took longer than {READY_SECONDS:.0f} s."})
    except Exception:
        # The answer must be "not ready", and not an error of some other kind.
        log.exception("the check whether the service is ready failed")
        return Readiness(False, {"service": "The check failed; the log says why."})


def _may_know(caller: Caller) -> bool:
    """Whether the caller gets the sentences, which can name folders and servers."""
    return caller.collections != ()
