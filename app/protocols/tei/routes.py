"""Hugging Face Text Embeddings Inference: `/embed`, `/embed_sparse`, `/rerank`, `/info`, `/health`.

`/rerank` speaks TEI where the body has `texts`, and vLLM's form where it has `documents`.

As in TEI, a text that is longer than the model reads is an error unless `truncate` is true, and a
text is a passage unless `prompt_name` is "query".
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

import retrieval
from app.backend.backend import Backend
from app.errors import BadRequest
from app.protocols.model_calls import check_text, json_of_numbers, model_info
from app.protocols.requests import caller_of, until_gone
from app.protocols.rerank.core import rank, rerank_documents
from app.protocols.rerank.schemas import MOST_DOCUMENTS, RerankRequest, RerankResponse
from app.protocols.tei.errors import (
    RESPONSES,
    EmptyBatch,
    InputTooLong,
    TooManyInputs,
    Unhealthy,
)
from app.protocols.tei.schemas import (
    MOST_INPUTS,
    AnyRerankRequest,
    EmbeddingModel,
    EmbedRequest,
    EmbedSparseRequest,
    Info,
    Rank,
    RerankerInfo,
    SparseValue,
)
from app.types import ModelInfo, TextKind

_PROMPTS: dict[str, TextKind] = {"query": "query", "passage": "passage", "document": "passage"}


def router(backend: Backend) -> APIRouter:
    """The routes of TEI."""
    routes = APIRouter(tags=["Text Embeddings Inference"], responses=RESPONSES)
    _add_embedding(routes, backend)
    _add_reranking(routes, backend)
    _add_status(routes, backend)
    return routes


def _add_embedding(routes: APIRouter, backend: Backend) -> None:
    @routes.post(
        "/embed",
        response_model=list[list[float]],
        operation_id="tei_embed",
        summary="Embed texts",
    )
    async def embed(request: Request, body: EmbedRequest) -> Response:
        started = time.perf_counter()
        texts, kind = _inputs(body)
        caller = caller_of(request)
        embedded = await until_gone(
            request, backend.texts.embed(caller, texts, kind=kind, dimensions=body.dimensions)
        )
        if not body.truncate:
            info = model_info(backend, "encoder", embedded.model)
            _refuse_long("inputs", embedded.truncated, embedded.tokens, info)
        vectors = _scaled(embedded.vectors, body.normalize)
        return json_of_numbers(list(vectors), _cost(started, texts, embedded.tokens))

    @routes.post(
        "/embed_sparse",
        response_model=list[list[SparseValue]],
        operation_id="tei_embed_sparse",
        summary="Term weights of texts",
    )
    async def embed_sparse(request: Request, body: EmbedSparseRequest) -> Response:
        started = time.perf_counter()
        texts, kind = _inputs(body)
        caller = caller_of(request)
        sparse = await until_gone(request, backend.texts.embed_sparse(caller, texts, kind=kind))
        info = model_info(backend, "encoder", sparse.model)
        if not body.truncate and info is not None:
            _refuse_long("inputs", sparse.tokens > info.max_length, sparse.tokens, info)
        content = [
            [{"index": index, "value": value} for index, value in weights.as_dict().items()]
            for weights in sparse.weights
        ]
        return json_of_numbers(content, _cost(started, texts, sparse.tokens))


def _add_reranking(routes: APIRouter, backend: Backend) -> None:
    @routes.post(
        "/rerank",
        response_model=list[Rank] | RerankResponse,
        operation_id="tei_rerank",
        summary="Rank texts for a query (TEI, vLLM)",
    )
    async def rerank(request: Request, body: AnyRerankRequest) -> Response:
        if isinstance(body, RerankRequest):
            answer = await rerank_documents(request, backend, body)
            return json_of_numbers(answer.model_dump(exclude_none=True))
        started = time.perf_counter()
        _check_size("texts", body.texts, MOST_DOCUMENTS)
        _check_direction(body.truncate, body.truncation_direction)
        ranking = await rank(request, backend, body.query, body.texts)
        scored = ranking.scored
        if not body.truncate:
            _refuse_long("texts", scored.truncated, scored.tokens, ranking.model)
        values = scored.scores if body.raw_scores else scored.relevance
        content = [
            {"index": at, "score": float(values[at])}
            | ({"text": body.texts[at]} if body.return_text else {})
            for at in ranking.order
        ]
        return json_of_numbers(content, _cost(started, [body.query, *body.texts], scored.tokens))


def _add_status(routes: APIRouter, backend: Backend) -> None:
    @routes.get("/info", operation_id="tei_info", summary="The models")
    async def info(request: Request) -> Info:
        known = backend.models.infos()
        encoder = next((one for one in known if one.kind == "encoder"), None)
        if encoder is None:
            raise Unhealthy(
                "no model is loaded yet", fix="Ask again, or see what /readyz says is missing."
            )
        return _info(encoder, next((one for one in known if one.kind == "reranker"), None))

    @routes.get(
        "/health",
        response_class=Response,
        responses={200: {"description": "The service can answer."}},
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


def _inputs(body: EmbedSparseRequest) -> tuple[list[str], TextKind]:
    """The texts of a request as a list, and what they are.

    Raises:
        EmptyBatch, TooManyInputs: there is no text, or there are too many.
        BadRequest: a text that no model can read, or an option that cannot be used.
    """
    inputs = body.inputs
    texts = [inputs] if isinstance(inputs, str) else inputs
    _check_size("inputs", texts, MOST_INPUTS)
    for at, text in enumerate(texts):
        check_text("inputs" if isinstance(inputs, str) else f"inputs[{at}]", text)
    _check_direction(body.truncate, body.truncation_direction)
    return texts, _kind(body.prompt_name)


def _check_size(name: str, texts: Sequence[str], most: int) -> None:
    if not texts:
        raise EmptyBatch(f"{name} is an empty list, expected a text", fix="Send at least one text.")
    if len(texts) > most:
        raise TooManyInputs(
            f"{name} has {len(texts):,} texts, expected at most {most:,} in one request",
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
    name: str, long: NDArray[np.bool_], tokens: NDArray[np.int64], info: ModelInfo | None
) -> None:
    """Raise InputTooLong, naming the first text of which `long`, bool (n,), is true."""
    places = np.flatnonzero(long)
    if not len(places):
        return
    first = int(places[0])
    limit = None if info is None else info.max_length
    more = f", and {len(places) - 1} more like it" if len(places) > 1 else ""
    # a model that does not count tokens beyond its length gives its length for all of them
    length = f"{int(tokens[first]):,}" if tokens[first] > (limit or 0) else "more"
    raise InputTooLong(
        f"{name}[{first}] has {length} tokens, and the model reads {limit}{more}",
        fix='Send "truncate": true to have the ends left out, or split the texts.',
    )


def _scaled(vectors: NDArray[np.float32], normalize: bool) -> NDArray[np.float32]:
    """Vectors of length 1, or as the model gives them.

    Raises:
        BadRequest: lengths were requested from a model that only gives vectors of length 1.
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


def _cost(started: float, texts: Sequence[str], tokens: NDArray[np.int64]) -> dict[str, str]:
    """TEI's headers on what a request cost."""
    milliseconds = str(round((time.perf_counter() - started) * 1000))
    return {
        "x-compute-characters": str(sum(map(len, texts))),
        "x-compute-tokens": str(int(tokens.sum())),
        "x-compute-time": milliseconds,
        "x-total-time": milliseconds,
    }
