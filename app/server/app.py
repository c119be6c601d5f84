"""One process, one port: the FastAPI app that carries every protocol, MCP and the page."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import retrieval
from app.answering.answer import Answering
from app.answering.llm_client import LanguageModel
from app.backend.backend import Backend
from app.observability.metrics import Metrics
from app.observability.requests import observed
from app.protocols import errors, health
from app.protocols.dify import routes as dify_routes
from app.protocols.mcp import server as mcp_server
from app.protocols.native import answer
from app.protocols.native import search as native_routes
from app.protocols.openai import chat, embeddings, vector_stores
from app.protocols.rerank import routes as rerank_routes
from app.protocols.tei import errors as tei_errors
from app.protocols.tei import routes as tei_routes
from app.security.api_keys import KeyRing
from app.security.headers import SecurityHeaders
from app.security.middleware import Guard
from app.settings.settings import Settings

DESCRIPTION = """\
Search for RAG in two stages: vectors and BM25 find candidates, a re-ranker puts them in order.

Every address under `/v1` answers errors with `{"error": {"message", "type", "code", "problem",
"fix", "request_id"}}`; the addresses of other protocols answer in those protocols' own form.
With API keys configured, send one as `Authorization: Bearer KEY`.
"""


ERROR_FORMS = (rerank_routes.ERROR_FORM, tei_errors.ERROR_FORM, dify_routes.ERROR_FORM)
"""Of the protocols that answer errors in another form than `/v1`."""


def protect(app: FastAPI, *, hosts: Sequence[str] | None = None) -> None:
    """Add the security headers to every answer, and refuse foreign names.

    Args:
        app: what is protected.
        hosts: names that the service answers to; None answers to any. On a loopback address this
            keeps foreign web pages from reaching it through a name of theirs (DNS rebinding).
    """
    app.add_middleware(SecurityHeaders)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)


def create_app(
    backend: Backend,
    settings: Settings,
    *,
    metrics: Metrics | None = None,
    keys: KeyRing | None = None,
    language_model: LanguageModel | None = None,
    hosts: Sequence[str] | None = None,
) -> FastAPI:
    """The whole service, except the page, which `app.ui.page.mount` puts at `/` last.

    Args:
        backend: answers; shared by all protocols. It is opened, where it is not yet, when the
            app starts to serve, and closed when the app ends.
        settings: limits, allowed origins, and what answers need.
        metrics: what `/metrics` shows; None makes new ones.
        keys: API keys; None lets everyone in who can reach the address.
        language_model: writes answers; None where none is configured.
        hosts: see `protect`.
    """
    metrics = metrics or Metrics()
    mcp = mcp_server.build_server(backend, settings)
    answering = Answering(backend, settings, language_model)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with mcp_server.running(mcp), backend.running():
            yield

    app = FastAPI(
        title="two-stage-retrieval",
        version=retrieval.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    errors.install(app, ERROR_FORMS)
    app.include_router(health.router(backend, metrics))
    app.include_router(native_routes.router(backend, settings))
    app.include_router(embeddings.router(backend))
    app.include_router(vector_stores.router(backend))
    app.include_router(rerank_routes.router(backend))
    app.include_router(tei_routes.router(backend))
    app.include_router(dify_routes.router(backend))
    app.include_router(answer.router(answering))
    app.include_router(chat.router(answering))
    app.router.routes.append(mcp_server.route(mcp))

    app.add_middleware(
        Guard,
        keys=keys,
        settings=settings,
        observe=functools.partial(observed, metrics),
        shed=metrics.shed,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    protect(app, hosts=hosts)
    return app
