"""For those who run the service: is it alive, is it ready, what is it doing."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.observability.metrics import CONTENT_TYPE, Metrics
from app.protocols.requests import caller_of
from app.types import Backend, Caller, Readiness

log = logging.getLogger(__name__)

# A store that does not answer must not hold up who asks whether it does.
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
        description="What is missing, by part: models, index, writes, jobs. Sentences are for "
        "callers with a key, where the service has keys."
    )


def router(backend: Backend, metrics: Metrics) -> APIRouter:
    """`/healthz`, `/readyz` and `/metrics`.

    Args:
        backend: is asked whether it is ready.
        metrics: what `/metrics` shows.
    """
    routes = APIRouter(tags=["operations"])
    running: asyncio.Task[Readiness] | None = None

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
        nonlocal running
        # Open to everyone, so however many ask at once, one check runs.
        if running is None or running.done():
            running = asyncio.create_task(_checked(backend))
        found = await asyncio.shield(running)
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


async def _checked(backend: Backend) -> Readiness:
    try:
        async with asyncio.timeout(READY_SECONDS):
            return await backend.ready()
    except TimeoutError:
        return Readiness(False, {"index": f"The check took longer than {READY_SECONDS:.0f} s."})
    except Exception:
        # Whoever asks must be told "no", not an error of some other kind.
        log.exception("the check whether the service is ready failed")
        return Readiness(False, {"service": "The check failed; the log says why."})


def _may_know(caller: Caller) -> bool:
    """Whether to say sentences, which can name folders and servers (`app.security.middleware`)."""
    return caller.collections != ()
