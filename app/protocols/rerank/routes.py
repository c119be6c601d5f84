"""Re-ranking as Cohere, Jina and vLLM have it: `/v1/rerank` and `/v2/rerank`.

All of them take a query and texts, and give indices into the texts with a score from 0 to 1, best
first. `/v1/rerank` is one superset: what Jina, vLLM and Cohere's first version send is understood,
and what each of their clients reads is in the answer. `/v2/rerank` is Cohere's second version.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request

from app.errors import BadRequest, error_code
from app.protocols.errors import responses
from app.protocols.requests import caller_of, until_gone
from app.protocols.rerank.schemas import (
    ApiVersion,
    BilledUnits,
    CohereError,
    CohereRerankRequest,
    CohereRerankResponse,
    Document,
    Meta,
    MetaTokens,
    RankedDocument,
    RerankRequest,
    RerankResponse,
    TruncatedDocument,
    Usage,
)
from app.types import Backend, Caller, ModelInfo, Reranked
from retrieval import RetrievalError

TEXTS_PER_UNIT = 100
"""Cohere counts one search unit a query with up to as many documents."""


def cohere_error_body(error: RetrievalError, request_id: str) -> dict[str, Any]:
    """The body of every error under `/v2/`."""
    return CohereError(id=request_id, message=str(error), code=error_code(error)).model_dump()


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores of all texts, and the indices of the best, best first."""

    scored: Reranked
    order: list[int]
    max_length: int | None


async def rank(
    request: Request,
    backend: Backend,
    query: str,
    texts: Sequence[str],
    *,
    model: str | None = None,
    top_n: int | None = None,
    timeout_ms: float | None = None,
) -> Ranking:
    """Score texts and put them in order: by falling raw score, then by index.

    Raises:
        BadRequest: a text that no model can read.
    """
    check_text("query", query)
    for at, text in enumerate(texts):
        check_text(f"document {at}", text, may_be_blank=True)
    caller = caller_of(request)
    scored = await until_gone(
        request,
        backend.rerank(caller, query, texts, model=model or None, timeout_ms=timeout_ms),
    )
    # a stable sort of the negated scores leaves equal ones in the order they were given in
    order: list[int] = np.argsort(-scored.scores, kind="stable")[:top_n].tolist()
    info = reranker_named(backend, caller, scored.model)
    return Ranking(scored, order, None if info is None else info.max_length)


def check_text(name: str, text: str, *, may_be_blank: bool = False) -> None:
    """Refuse what no model can read.

    Raises:
        BadRequest: the text is blank, holds the character NUL or half of a surrogate pair.
    """
    if not (may_be_blank or text.strip()):
        raise BadRequest(f"{name} is blank, expected a text", fix="Send what is searched for.")
    if "\0" in text:
        raise BadRequest(f"{name} holds the character NUL", fix="Leave it out of the request.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"{name} holds half of a surrogate pair at character {error.start}, which is no text",
            fix="Send whole characters: in JSON, both escapes of the pair.",
        ) from None


def reranker_named(backend: Backend, caller: Caller, model: str) -> ModelInfo | None:
    """What is known of a reranker; None where nothing is."""
    known = (info for info in backend.models(caller) if info.kind == "reranker")
    return next((info for info in known if model in info.names), None)


async def rerank_documents(
    request: Request, backend: Backend, body: RerankRequest
) -> RerankResponse:
    """The answer of `/v1/rerank`, also to vLLM's `/rerank`."""
    texts = document_texts(body.documents, body.rank_fields)
    ranking = await rank(
        request,
        backend,
        body.query,
        texts,
        model=body.model,
        top_n=body.top_n,
        timeout_ms=body.timeout_ms,
    )
    tokens = int(ranking.scored.tokens.sum())
    return RerankResponse(
        id=f"rerank-{uuid.uuid4().hex}",
        model=ranking.scored.model,
        results=_results(ranking, body.documents if body.return_documents else None),
        usage=Usage(total_tokens=tokens, prompt_tokens=tokens),
        meta=_meta("1", ranking, "truncate_prompt_tokens", body.truncate_prompt_tokens),
        truncated=_truncated(ranking),
    )


def router(backend: Backend) -> APIRouter:
    """The routes of re-ranking."""
    routes = APIRouter(tags=["Rerank"])

    @routes.post(
        "/v1/rerank",
        response_model_exclude_none=True,
        responses=responses(400, 404),
        operation_id="rerank",
        summary="Rank documents for a query (Jina, vLLM, Cohere v1)",
    )
    async def rerank(request: Request, body: RerankRequest) -> RerankResponse:
        return await rerank_documents(request, backend, body)

    @routes.post(
        "/v2/rerank",
        response_model_exclude_none=True,
        responses={
            status: {"model": CohereError, "description": what}
            for status, what in _COHERE_STATUSES.items()
        },
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
            results=_results(ranking, body.documents if body.return_documents else None),
            meta=_meta("2", ranking, "max_tokens_per_doc", body.max_tokens_per_doc),
            model=ranking.scored.model,
            truncated=_truncated(ranking),
        )

    return routes


_COHERE_STATUSES = {
    400: "The body, or a text in it, cannot be read.",
    401: "No API key, or an unknown one.",
    403: "The API key may not do this.",
    404: "The service has no such reranker.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "A value cannot be used.",
    429: "Too many requests; Retry-After says when to come back.",
    500: "A part of the service failed.",
    503: "The service cannot answer now.",
    504: "`timeout_ms` has passed.",
}


def document_texts(documents: Sequence[Document], fields: Sequence[str] | None = None) -> list[str]:
    """What the model reads of each document.

    Of an object that is its "text", or the values of `fields` that it has, a line each.

    Raises:
        BadRequest: an object without them, or whose value is no text.
    """
    return [
        one if isinstance(one, str) else _text_of(one, at, fields)
        for at, one in enumerate(documents)
    ]


def _text_of(document: Mapping[str, Any], at: int, fields: Sequence[str] | None) -> str:
    names = fields or ["text"]
    values = [document[name] for name in names if name in document]
    if not values or not all(isinstance(value, str) for value in values):
        wanted = " or ".join(repr(name) for name in names)
        raise BadRequest(
            f"documents[{at}] has the keys {sorted(document)[:20]}, expected a text under {wanted}",
            fix='Send each document as a text or as {"text": …}, or name its keys in rank_fields.',
        )
    try:
        orjson.dumps(document)  # it may have to be sent back
    except (TypeError, ValueError) as error:
        raise BadRequest(
            f"documents[{at}] cannot be written as JSON again: {error}",
            fix="Leave what is not its text out of it.",
        ) from None
    return "\n".join(values)


def _results(ranking: Ranking, documents: Sequence[Document] | None) -> list[RankedDocument]:
    scored = ranking.scored
    results = []
    for at in ranking.order:
        given = None if documents is None else documents[at]
        results.append(
            RankedDocument(
                index=at,
                relevance_score=float(scored.relevance[at]),
                raw_score=float(scored.scores[at]),
                document={"text": given} if isinstance(given, str) else given,
            )
        )
    return results


def _truncated(ranking: Ranking) -> list[TruncatedDocument]:
    return [
        TruncatedDocument(
            index=at, tokens=int(ranking.scored.tokens[at]), max_tokens=ranking.max_length
        )
        for at in np.flatnonzero(ranking.scored.truncated).tolist()
    ]


def _meta(version: str, ranking: Ranking, limit_name: str, limit: int | None) -> Meta:
    scored, most = ranking.scored, ranking.max_length
    warnings = []
    if limit is not None and limit > 0 and (most is None or limit < most):
        warnings.append(
            f"{limit_name}={limit} was not applied: {scored.model} reads up to {most} tokens of "
            "query and document together"
        )
    cut = int(scored.truncated.sum())
    if cut:
        warnings.append(
            f"{cut} of {len(scored.scores)} documents are, with the query, longer than the "
            f"{most} tokens that {scored.model} reads; their ends were not read"
        )
    return Meta(
        api_version=ApiVersion(version=version),
        billed_units=BilledUnits(search_units=-(-len(scored.scores) // TEXTS_PER_UNIT)),
        tokens=MetaTokens(input_tokens=int(scored.tokens.sum())),
        warnings=warnings or None,
    )
