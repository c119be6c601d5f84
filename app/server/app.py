"""One process, one port: the FastAPI app that carries every protocol, MCP and the page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import retrieval
from app.security.headers import SecurityHeaders
from retrieval.errors import RetrievalError

if TYPE_CHECKING:
    from app.answering.llm_client import LanguageModel
    from app.observability.metrics import Metrics
    from app.security.api_keys import KeyRing
    from app.settings.settings import Settings
    from app.types import Backend

log = logging.getLogger(__name__)

DESCRIPTION = """\
Search for RAG in two stages: vectors and BM25 find candidates, a re-ranker puts them in order.

Every address under `/v1` answers errors with `{"error": {"message", "type", "code", "problem",
"fix", "request_id"}}`; the addresses of other protocols answer in those protocols' own form.
With API keys configured, send one as `Authorization: Bearer KEY`.
"""


class Opened(Protocol):
    """What the app starts and stops: `app.backend.backend.RetrievalBackend` is one."""

    def open(self) -> None:
        """Load what is needed for the first request; raises the library's errors."""
        ...

    def close(self) -> None:
        """Let what is running end, write what must be written, free the rest."""
        ...


def base_app(*, hosts: list[str] | None = None) -> FastAPI:
    """An app with security headers and `GET /healthz`, and nothing else.

    Args:
        hosts: names the service answers to; None answers to any. On a loopback address this
            keeps foreign web pages from reaching it through a name of theirs (DNS rebinding).
    """
    app = FastAPI(title="two-stage-retrieval", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.add_middleware(SecurityHeaders)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return app


def create_app(
    backend: Backend,
    settings: Settings,
    *,
    metrics: Metrics | None = None,
    keys: KeyRing | None = None,
    language_model: LanguageModel | None = None,
    hosts: list[str] | None = None,
    opened: Opened | None = None,
) -> FastAPI:
    """The whole service, but for the page, which `app.ui.page.mount` puts at `/` last.

    Args:
        backend: what answers; shared by all protocols.
        settings: limits, origins and what else the edges need to know.
        metrics: what `/metrics` shows; None makes one of its own.
        keys: API keys; None lets everyone in who can reach the address.
        language_model: writes answers; None where none is configured.
        hosts: see `base_app`.
        opened: opened, in a thread, when the app starts to serve, and closed when it ends.
    """
    from app.observability.metrics import Metrics
    from app.protocols import errors
    from app.protocols import health as operations
    from app.protocols.dify import routes as dify
    from app.protocols.mcp import server as mcp
    from app.protocols.native import answer as answers
    from app.protocols.native import search as native
    from app.protocols.openai import embeddings as openai
    from app.protocols.openai import vector_stores
    from app.protocols.rerank import routes as rerank
    from app.protocols.tei import routes as tei
    from app.security.middleware import Guard

    metrics = metrics or Metrics()
    server = mcp.build_server(backend, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with mcp.running(server), _open(opened):
            yield

    app = FastAPI(
        title="two-stage-retrieval",
        version=retrieval.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    errors.install(app)
    app.include_router(operations.router(backend, metrics))
    app.include_router(native.router(backend, settings))
    app.include_router(openai.router(backend))
    app.include_router(vector_stores.router(backend))
    app.include_router(rerank.router(backend))
    app.include_router(tei.router(backend))
    app.include_router(dify.router(backend))
    app.include_router(answers.router(backend, settings, language_model))
    app.router.routes.append(mcp.route(server))

    app.add_middleware(Guard, keys=keys, settings=settings, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(SecurityHeaders)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return app


@contextlib.asynccontextmanager
async def _open(opened: Opened | None) -> AsyncIterator[None]:
    """Open beside serving, so that `/healthz` answers while models load, and close at the end."""
    if opened is None:
        yield
        return

    async def load() -> None:
        try:
            await asyncio.to_thread(opened.open)
        except RetrievalError as error:
            # `/readyz` says it, too, and the first request tries again
            log.error("not ready: %s", error)
        except Exception:
            log.exception("not ready")

    loading = asyncio.create_task(load())
    try:
        yield
    finally:
        await loading
        await asyncio.to_thread(opened.close)
