"""Re-ranking in the forms of Cohere, Jina and vLLM: `/v1/rerank` and `/v2/rerank`.

All of them take a query and texts, and give indices into the texts with a score from 0 to 1, best
first. `/v1/rerank` is one superset: it understands what clients of Jina, vLLM and Cohere's first
version send, and its answer has what each of them reads. `/v2/rerank` is Cohere's second version.
"""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request

from app.backend.backend import Backend
from app.errors import error_code
from app.protocols.errors import ErrorForm
from app.protocols.openapi_responses import responses
from app.protocols.rerank.core import document_texts, rank, rerank_documents
from app.protocols.rerank.schemas import (
    CohereError,
    CohereRerankRequest,
    CohereRerankResponse,
    RerankRequest,
    RerankResponse,
)
from retrieval import RetrievalError


def cohere_error_body(error: RetrievalError, request_id: str) -> dict[str, Any]:
    """The body of every error under `/v2/`."""
    return CohereError(id=request_id, message=str(error), code=error_code(error)).model_dump()


ERROR_FORM = ErrorForm(("/v2/",), cohere_error_body)


def router(backend: Backend) -> APIRouter:
    """The routes of re-ranking."""
    routes = APIRouter(tags=["Rerank"])

    @routes.post(
        "/v1/rerank",
        response_model_exclude_none=True,
        responses=responses(404),
        operation_id="rerank",
        summary="Rank documents for a query (Jina, vLLM, Cohere v1)",
    )
    async def rerank(request: Request, body: RerankRequest) -> RerankResponse:
        return await rerank_documents(request, backend, body)

    @routes.post(
        "/v2/rerank",
        response_model_exclude_none=True,
        responses=responses(404, model=CohereError),
        operation_id="cohere_rerank",
        summary="Rank documents for a query (Cohere v2)",
    )
    async def cohere_rerank(request: Request, body: CohereRerankRequest) -> CohereRerankResponse:
        ranking = await rank(
            request,
            backend,
            body.query,
            document_texts(body.documents),
            model=body.model,
            top_n=body.top_n,
            timeout_ms=body.timeout_ms,
        )
        return CohereRerankResponse(
            id=str(uuid.uuid4()),
            results=ranking.results(body.documents if body.return_documents else None),
            meta=ranking.meta("2", "max_tokens_per_doc", body.max_tokens_per_doc),
            model=ranking.scored.model,
            truncated=ranking.truncated,
        )

    return routes
