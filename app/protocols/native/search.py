"""The native API under `/v1`: search with every option, collections, documents, jobs, models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

import retrieval
from app.backend.backend import Backend
from app.errors import NotHere
from app.protocols.errors import request_id_of
from app.protocols.json_limits import MOST_QUERY
from app.protocols.native import documents as native_documents
from app.protocols.native import jobs as native_jobs
from app.protocols.native.requests import (
    MOST_DOCUMENTS,
    MOST_IDS,
    MOST_QUERIES,
    BatchRequest,
    SearchFields,
    SearchRequest,
)
from app.protocols.native.responses import (
    BatchAnswer,
    ModelBody,
    ModelsBody,
    SearchAnswer,
    ServiceBody,
    model_body,
)
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of, until_gone
from app.protocols.search_fields import options_of
from app.settings.settings import Settings
from retrieval import RetrievalError, result_as_dict


def router(backend: Backend, settings: Settings) -> APIRouter:
    """All routes of the native API."""
    routes = APIRouter()
    routes.include_router(_searching(backend))
    routes.include_router(_about(backend, settings))
    routes.include_router(native_documents.router(backend))
    routes.include_router(native_jobs.router(backend, settings))
    return routes


def _searching(backend: Backend) -> APIRouter:
    routes = APIRouter(prefix="/v1/search", tags=["Search"])

    async def results(
        request: Request, queries: list[str], body: SearchFields
    ) -> tuple[str, list[dict[str, Any]]]:
        """The collection, and a result a query in the library's stable JSON form."""
        caller = caller_of(request)
        collection = body.collection or backend.collections.default(caller)
        found = await until_gone(
            request,
            backend.search(
                caller,
                queries,
                collection=collection,
                timeout_ms=body.timeout_ms,
                on_timeout=body.on_timeout,
                **options_of(body, "http"),
            ),
        )
        return collection, [
            result_as_dict(one, candidates=body.include_candidates) for one in found
        ]

    # Answers are made by the library, so they are not checked once more.
    @routes.post(
        "",
        response_model=SearchAnswer,
        response_model_exclude_unset=True,
        responses=responses(404, 409),
        operation_id="search",
        summary="Search with one question",
    )
    async def search(request: Request, body: SearchRequest) -> JSONResponse:
        collection, (result,) = await results(request, [body.query], body)
        return JSONResponse(
            {**result, "collection": collection, "request_id": request_id_of(request)}
        )

    @routes.post(
        "/batch",
        response_model=BatchAnswer,
        responses=responses(404, 409),
        operation_id="search_batch",
        summary="Search with several questions",
        description=f"At most {MOST_QUERIES}. Their times are shared equally among them; "
        "`budget_ms` is for all together.",
    )
    async def search_batch(request: Request, body: BatchRequest) -> JSONResponse:
        collection, found = await results(request, body.queries, body)
        return JSONResponse(
            {
                "results": found,
                "collection": collection,
                "request_id": request_id_of(request),
            }
        )

    return routes


def _about(backend: Backend, settings: Settings) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["Service"])

    @routes.get(
        "/models",
        response_model=ModelsBody,
        responses=responses(),
        operation_id="list_models",
        summary="The models of the service",
        description="As OpenAI's clients list models, with what more is known of each.",
    )
    async def list_models(request: Request) -> JSONResponse:
        infos = backend.models.infos()
        return JSONResponse({"object": "list", "data": [model_body(info) for info in infos]})

    @routes.get(
        "/models/{model:path}",
        response_model=ModelBody,
        responses=responses(404),
        operation_id="get_model",
        summary="One model",
    )
    async def get_model(request: Request, model: str) -> JSONResponse:
        for info in backend.models.infos():
            if model in info.names:
                return JSONResponse(model_body(info))
        raise NotHere(
            f"the service has no model {model!r}",
            fix="GET /v1/models lists the models and their names.",
            what="model",
        )

    @routes.get(
        "/service",
        response_model=ServiceBody,
        responses=responses(),
        operation_id="get_service",
        summary="What this service is, and its limits",
    )
    async def get_service(request: Request) -> JSONResponse:
        try:
            default: str | None = backend.collections.default(caller_of(request))
        except RetrievalError:  # a key for several collections has none
            default = None
        limits: dict[str, Any] = {
            "query_characters": MOST_QUERY,
            "queries": MOST_QUERIES,
            "documents": MOST_DOCUMENTS,
            "ids": MOST_IDS,
            "body_mb": settings.max_body_mb,
            "upload_mb": settings.max_upload_mb,
            "requests": settings.max_requests,
            "wait_ms": settings.max_wait_ms,
        }
        return JSONResponse(
            {
                "name": "two-stage-retrieval",
                "version": retrieval.__version__,
                "default_collection": default,
                "read_only": settings.read_only,
                "limits": limits,
            }
        )

    return routes
