"""Hugging Face Text Embeddings Inference: `/embed`, `/embed_sparse`, `/rerank`, `/info`, `/health`.

`/rerank` speaks TEI where the body has `texts`, and vLLM's form where it has `documents`.

As in TEI, a text that is longer than the model reads is an error unless `truncate` is true, and a
text is a passage unless `prompt_name` is "query".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

import retrieval
from app.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlinePassed,
    NotHere,
    ServiceError,
    Stopping,
    http_status,
    retry_after,
)
from app.protocols.requests import caller_of, until_gone
from app.protocols.rerank import routes as rerank
from app.protocols.rerank.schemas import MOST_DOCUMENTS, RerankRequest, RerankResponse
from app.protocols.tei.schemas import (
    MOST_INPUTS,
    AnyRerankRequest,
    EmbeddingModel,
    EmbedRequest,
    EmbedSparseRequest,
    ErrorType,
    Info,
    Rank,
    RerankerInfo,
    SparseValue,
    TeiError,
)
from app.types import Backend, Caller, ModelInfo, TextKind
from retrieval import RetrievalError
from retrieval.errors import Fault, ModelFault, ModelNotFound

_PROMPTS: dict[str, TextKind] = {"query": "query", "passage": "passage", "document": "passage"}


class EmptyBatch(BadRequest):
    """A list without a text in it."""

    code = "empty_batch"


class TooManyInputs(BodyTooLarge):
    """More texts than are taken at once."""

    code = "too_many_inputs"


class InputTooLong(BodyTooLarge):
    """A text is longer than the model reads, and was not to be truncated."""

    code = "input_too_long"


class Unhealthy(ServiceError):
    """The service cannot answer now."""

    status, code = 503, "unhealthy"


def error_body(error: RetrievalError, request_id: str) -> dict[str, Any]:
    """The body of every error of these routes. The request's id is in the header X-Request-ID."""
    text = str(error)
    return TeiError(error=text, error_type=_error_type(error), message=text).model_dump()


def error_status(error: RetrievalError) -> int:
    """TEI's own status for an error: 424 where the model cannot do it, else the service's."""
    return 424 if isinstance(error, (NotHere, ModelFault)) else http_status(error)


def _error_type(error: RetrievalError) -> ErrorType:
    if isinstance(error, EmptyBatch):
        return "Empty"
    if isinstance(error, (Unhealthy, Stopping)):
        return "Unhealthy"
    if isinstance(error, DeadlinePassed) or retry_after(error) is not None:
        return "Overloaded"
    if isinstance(error, (NotHere, Fault, ModelNotFound)) or http_status(error) >= 500:
        return "Backend"
    return "Validation"


def router(backend: Backend) -> APIRouter:
    """The routes of TEI."""
    routes = APIRouter(tags=["Text Embeddings Inference"])

    @routes.post(
        "/embed",
        response_model=list[list[float]],
        responses=_ERRORS,
        operation_id="tei_embed",
        summary="Embed texts",
    )
    async def embed(request: Request, body: EmbedRequest) -> Response:
        started = time.perf_counter()
        texts = _texts(body.inputs)
        kind = _kind(body.prompt_name)
        _check_direction(body.truncate, body.truncation_direction)
        caller = caller_of(request)
        embedded = await until_gone(
            request, backend.embed(caller, texts, kind=kind, dimensions=body.dimensions)
        )
        if not body.truncate:
            cut = np.flatnonzero(embedded.truncated)
            limit = _max_length(backend, caller, "encoder", embedded.model)
            _refuse_long("inputs", cut, embedded.tokens, limit)
        vectors = _scaled(embedded.vectors, body.normalize)
        return _json(list(vectors), _compute(started, texts, embedded.tokens))

    @routes.post(
        "/embed_sparse",
        response_model=list[list[SparseValue]],
        responses=_ERRORS,
        operation_id="tei_embed_sparse",
        summary="Term weights of texts",
    )
    async def embed_sparse(request: Request, body: EmbedSparseRequest) -> Response:
        started = time.perf_counter()
        texts = _texts(body.inputs)
        kind = _kind(body.prompt_name)
        _check_direction(body.truncate, body.truncation_direction)
        caller = caller_of(request)
        sparse = await until_gone(request, backend.embed_sparse(caller, texts, kind=kind))
        limit = _max_length(backend, caller, "encoder", sparse.model)
        if not body.truncate and limit is not None:
            _refuse_long("inputs", np.flatnonzero(sparse.tokens > limit), sparse.tokens, limit)
        content = [
            [{"index": index, "value": value} for index, value in weights.as_dict().items()]
            for weights in sparse.weights
        ]
        return _json(content, _compute(started, texts, sparse.tokens))

    @routes.post(
        "/rerank",
        response_model=list[Rank] | RerankResponse,
        responses=_ERRORS,
        operation_id="tei_rerank",
        summary="Rank texts for a query (TEI, vLLM)",
    )
    async def rank(request: Request, body: AnyRerankRequest) -> Response:
        if isinstance(body, RerankRequest):
            answer = await rerank.rerank_documents(request, backend, body)
            return _json(answer.model_dump(exclude_none=True), {})
        started = time.perf_counter()
        _check_size("texts", body.texts, MOST_DOCUMENTS)
        _check_direction(body.truncate, body.truncation_direction)
        ranking = await rerank.rank(request, backend, body.query, body.texts)
        scored = ranking.scored
        if not body.truncate:
            cut = np.flatnonzero(scored.truncated)
            _refuse_long("texts", cut, scored.tokens, ranking.max_length)
        values = scored.scores if body.raw_scores else scored.relevance
        content = [
            {"index": at, "score": float(values[at])}
            | ({"text": body.texts[at]} if body.return_text else {})
            for at in ranking.order
        ]
        return _json(content, _compute(started, [body.query, *body.texts], scored.tokens))

    @routes.get(
        "/info",
        responses=_ERRORS,
        operation_id="tei_info",
        summary="The models",
    )
    async def info(request: Request) -> Info:
        known = backend.models(caller_of(request))
        encoder = next((one for one in known if one.kind == "encoder"), None)
        if encoder is None:
            raise Unhealthy(
                "no model is loaded yet", fix="Ask again, or see what /readyz says is missing."
            )
        second = next((one for one in known if one.kind == "reranker"), None)
        return _info(encoder, second)

    @routes.get(
        "/health",
        response_class=Response,
        responses={200: {"description": "The service can answer."}, **_ERRORS},
        operation_id="tei_health",
        summary="Whether the service can answer",
    )
    async def health() -> Response:
        state = await backend.ready()
        if not state.ready:
            problems = "; ".join(f"{part}: {what}" for part, what in state.problems.items())
            raise Unhealthy(
                f"the service is not ready: {problems}", fix="See /readyz, and ask again later."
            )
        return Response()

    return routes


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": TeiError, "description": what}
    for status, what in {
        400: "Empty: no text was sent. Validation: the body, or a text in it, cannot be read.",
        401: "Validation: no API key, or an unknown one.",
        403: "Validation: the API key may not do this.",
        408: "Validation: the body did not arrive in time.",
        413: "Validation: too many texts, a text is too long, or the body too large.",
        415: "Validation: the body is no JSON.",
        422: "Validation: a value cannot be used.",
        424: "Backend: the service has no such model, or it failed.",
        429: "Overloaded: too many requests; Retry-After says when to come back.",
        500: "Backend: a part of the service failed.",
        503: "Unhealthy: the service cannot answer now.",
        504: "Overloaded: the request took longer than it may.",
    }.items()
}


def _texts(inputs: str | list[str]) -> list[str]:
    """The inputs as a list.

    Raises:
        EmptyBatch, TooManyInputs: none, or too many.
        BadRequest: an empty one, or one with a NUL.
    """
    texts = [inputs] if isinstance(inputs, str) else inputs
    _check_size("inputs", texts, MOST_INPUTS)
    for at, text in enumerate(texts):
        rerank.check_text("inputs" if isinstance(inputs, str) else f"inputs[{at}]", text)
    return texts


def _check_size(name: str, texts: Sequence[str], most: int) -> None:
    if not texts:
        raise EmptyBatch(f"{name} is an empty list, expected a text", fix="Send at least one text.")
    if len(texts) > most:
        raise TooManyInputs(
            f"{name} has {len(texts):,} texts, at most {most:,} are taken at once",
            fix="Send them in several requests.",
        )


def _kind(prompt_name: str | None) -> TextKind:
    kind = _PROMPTS.get(prompt_name or "passage")
    if kind is None:
        known = ", ".join(repr(name) for name in _PROMPTS)
        raise BadRequest(
            f"prompt_name is {prompt_name!r}, expected one of {known}",
            fix="Name one of them, or leave prompt_name out for passages.",
        )
    return kind


def _check_direction(truncate: bool | None, direction: str | None) -> None:
    if truncate and direction is not None and direction.lower() == "left":
        raise BadRequest(
            "truncation_direction is 'Left', but texts are only truncated at their end",
            fix="Leave it out, or cut the texts before they are sent.",
        )


def _refuse_long(
    name: str, long: NDArray[np.int64], tokens: NDArray[np.int64], limit: int | None
) -> None:
    """Raise InputTooLong if there is any, naming the first."""
    if len(long):
        first = int(long[0])
        more = f", and {len(long) - 1} more like it" if len(long) > 1 else ""
        # a model that does not count tokens beyond its length leaves it at that
        length = f"{int(tokens[first]):,}" if tokens[first] > (limit or 0) else "more"
        raise InputTooLong(
            f"{name}[{first}] has {length} tokens, and the model reads {limit}{more}",
            fix='Send "truncate": true to have the ends left out, or split the texts.',
        )


def _max_length(backend: Backend, caller: Caller, kind: str, model: str) -> int | None:
    for info in backend.models(caller):
        if info.kind == kind and model in info.names:
            return info.max_length
    return None


def _scaled(vectors: NDArray[np.float32], normalize: bool) -> NDArray[np.float32]:
    """Vectors of length 1, or as the model gives them.

    Raises:
        BadRequest: lengths were asked for of a model whose vectors all have the length 1.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = bool(np.all(np.abs(lengths - 1.0) < 1e-3))
    if normalize:
        return vectors if unit else np.asarray(vectors / lengths, dtype=np.float32)
    if unit:
        raise BadRequest(
            "normalize is false, but the encoder's vectors are always of length 1",
            fix="Leave normalize out.",
        )
    return vectors


def _info(encoder: ModelInfo, second: ModelInfo | None) -> Info:
    return Info(
        model_id=encoder.names[0],
        model_sha=encoder.fingerprint,
        model_dtype=None,
        model_type=EmbeddingModel(embedding={"dimension": encoder.dimension}),
        max_input_length=encoder.max_length,
        max_client_batch_size=MOST_INPUTS,
        auto_truncate=False,
        version=retrieval.__version__,
        reranker=None
        if second is None
        else RerankerInfo(
            model_id=second.names[0],
            model_sha=second.fingerprint,
            max_input_length=second.max_length,
        ),
    )


def _compute(started: float, texts: Sequence[str], tokens: NDArray[np.int64]) -> dict[str, str]:
    """TEI's headers on what a request cost."""
    milliseconds = str(round((time.perf_counter() - started) * 1000))
    return {
        "x-compute-characters": str(sum(map(len, texts))),
        "x-compute-tokens": str(int(tokens.sum())),
        "x-compute-time": milliseconds,
        "x-total-time": milliseconds,
    }


def _json(content: Any, headers: dict[str, str]) -> Response:
    # written by hand: a hundred thousand numbers are not worth validating one by one
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),
        media_type="application/json",
        headers=headers,
    )
