"""Dify's External Knowledge API: `POST /retrieval`, a knowledge base being a collection.

In Dify: Knowledge → External Knowledge API → add this service's address (Dify appends
`/retrieval`) and an API key; the External Knowledge ID is the collection's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, ConfigDict, Field

from app.backend.backend import Backend
from app.errors import Forbidden, Unauthorized, http_status
from app.protocols.dify.conditions import Holds, MetadataCondition, Selection, selection_of
from app.protocols.errors import ErrorForm
from app.protocols.json_limits import Query
from app.protocols.openapi_responses import described
from app.protocols.requests import caller_of, until_gone
from app.protocols.scores import unit_scores
from app.types import Caller
from retrieval import Hit, Passage, RetrievalError, SearchResult
from retrieval.errors import CollectionNotFound

DEFAULT_TOP_K = 10
MOST_TOP_K = 200

CANDIDATES = 50
"""How many passages that fulfil the conditions are searched for before they are re-ranked."""

DEPTHS = (200, 1000, 5000)
"""The depths of the first stage, tried in turn, where conditions are checked in Python."""


class RetrievalSetting(BaseModel):
    """How many records, and how good."""

    model_config = ConfigDict(extra="ignore", strict=True)

    top_k: Annotated[int, Field(ge=1, le=MOST_TOP_K)] | None = Field(
        default=None, description=f"how many records at most; {DEFAULT_TOP_K} where it is null"
    )
    score_threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="records of a lower score are left out"
    )


class RetrievalRequest(BaseModel):
    """What Dify sends. Fields that are not named here are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "knowledge_id": "docs",
                    "query": "how do I get my expenses back?",
                    "retrieval_setting": {"top_k": 5, "score_threshold": 0.2},
                    "metadata_condition": {
                        "logical_operator": "and",
                        "conditions": [
                            {
                                "name": ["category", "tag"],
                                "comparison_operator": "contains",
                                "value": "travel",
                            }
                        ],
                    },
                }
            ]
        },
    )

    knowledge_id: str = Field(min_length=1, max_length=256, description="name of the collection")
    query: Query
    retrieval_setting: RetrievalSetting | None = None
    metadata_condition: MetadataCondition | None = None


class Record(BaseModel):
    """A passage that was found."""

    content: str
    score: float = Field(ge=0, le=1, description="never rises along the records")
    title: str = Field(description="the passage's title, else its source, else the document's id")
    metadata: dict[str, Any] = Field(
        description="document_id, passage_id, source, position, start, end, and the passage's own "
        "metadata, which goes before them"
    )


class RetrievalResponse(BaseModel):
    """Records, best first; `notices` is an addition that Dify ignores."""

    records: list[Record]
    notices: list[str] = []


class DifyError(BaseModel):
    """An error as Dify reads it."""

    error_code: int = Field(
        description="1001: the Authorization header is missing or malformed; 1002: the key is "
        "unknown or may not do this; 2001: no such knowledge; else the HTTP status"
    )
    error_msg: str
    request_id: str


def error_body(error: RetrievalError, request_id: str) -> dict[str, Any]:
    """The body that an error is answered with at `/retrieval`."""
    return {"error_code": _code(error), "error_msg": str(error), "request_id": request_id}


def error_status(error: RetrievalError) -> int:
    """The HTTP status: Dify takes a key for a good one on every status but 403."""
    return 403 if isinstance(error, Unauthorized) else http_status(error)


def _code(error: RetrievalError) -> int:
    if isinstance(error, Unauthorized):
        return 1002 if error.reason == "unknown" else 1001
    if isinstance(error, Forbidden):
        return 1002
    return 2001 if isinstance(error, CollectionNotFound) else http_status(error)


ERROR_FORM = ErrorForm(("/retrieval",), error_body, error_status)

_RESPONSES = described(
    DifyError,
    {
        400: "a condition or a body that cannot be used",
        403: "no key, an unknown one, or one that may not do this (1001, 1002)",
        404: "no such knowledge (2001)",
        422: "a field that cannot be used",
        429: "overloaded; see Retry-After",
        503: "the index or a model cannot be reached",
        504: "not answered in time",
    },
)


def router(backend: Backend) -> APIRouter:
    """The route that Dify asks."""
    routes = APIRouter(tags=["Dify"])

    @routes.post(
        "/retrieval",
        response_model=RetrievalResponse,
        responses=_RESPONSES,
        operation_id="dify_retrieval",
        summary="Search a knowledge base for Dify",
        description="Dify tries the address and the key, when they are registered, by a request "
        "without a body; it is answered with no records.",
    )
    async def dify_retrieval(
        request: Request, body: Annotated[RetrievalRequest | None, Body()] = None
    ) -> RetrievalResponse:
        if body is None:
            return RetrievalResponse(records=[])
        selection = selection_of(body.metadata_condition)
        if selection.nothing:
            # the collection must be there all the same
            await backend.collections.get(caller_of(request), body.knowledge_id)
            return RetrievalResponse(records=[])
        return await until_gone(request, _retrieve(backend, caller_of(request), body, selection))

    return routes


async def _retrieve(
    backend: Backend, caller: Caller, body: RetrievalRequest, selection: Selection
) -> RetrievalResponse:
    setting = body.retrieval_setting or RetrievalSetting()
    top_k = setting.top_k or DEFAULT_TOP_K
    where, notices = selection.where, list[str]()
    if selection.holds is not None:
        passages, notices = await _fulfilling(backend, caller, body, selection, top_k)
        if not passages:
            return RetrievalResponse(records=[], notices=notices)
        where = _only(passages)
    result = await _search(backend, caller, body, where=where, top_k=top_k)
    least = setting.score_threshold or 0.0
    return RetrievalResponse(
        records=[
            _record(hit, score)
            for hit, score in zip(result.hits, unit_scores(result.hits), strict=True)
            if score >= least
        ],
        notices=[*notices, *result.notices],
    )


async def _fulfilling(
    backend: Backend, caller: Caller, body: RetrievalRequest, selection: Selection, top_k: int
) -> tuple[list[Passage], list[str]]:
    """The best passages by the first stage that fulfil the conditions, with notices.

    At most the number that is then re-ranked. The first stage goes deeper until it has found enough
    or has no more candidates, and ends at the last of `DEPTHS`.
    """
    assert selection.holds is not None
    wanted = max(CANDIDATES, top_k)
    for depth in DEPTHS:
        result = await _search(
            backend, caller, body, where=selection.where, top_k=depth, rerank=False
        )
        found = await asyncio.to_thread(_holding, selection.holds, result.hits)
        if len(found) >= wanted or len(result.hits) < depth:
            return found[:wanted], []
    notices = []
    if len(found) < top_k:
        notices.append(
            f"Of the {DEPTHS[-1]:,} best candidates {len(found)} fulfil the conditions; deeper "
            "candidates were not checked. Conditions other than contains, start with and end with "
            "have no such bound."
        )
    return found, notices


def _holding(holds: Holds, hits: Sequence[Hit]) -> list[Passage]:
    return [hit.passage for hit in hits if holds(hit.passage)]


def _only(passages: Sequence[Passage]) -> dict[str, Any]:
    """A filter for exactly these passages."""
    positions: dict[str, list[int]] = {}
    for passage in passages:
        positions.setdefault(passage.document_id, []).append(passage.position)
    return {
        "or": [
            {"document_id": document_id, "position": own} for document_id, own in positions.items()
        ]
    }


async def _search(
    backend: Backend, caller: Caller, body: RetrievalRequest, **options: Any
) -> SearchResult:
    results = await backend.search(caller, [body.query], collection=body.knowledge_id, **options)
    return results[0]


def _record(hit: Hit, score: float) -> Record:
    passage = hit.passage
    return Record(
        content=passage.text,
        score=score,
        title=passage.title or passage.source or passage.document_id,
        metadata={
            "document_id": passage.document_id,
            "passage_id": passage.id,
            "source": passage.source,
            "position": passage.position,
            "start": passage.start,
            "end": passage.end,
            **passage.metadata,
        },
    )
