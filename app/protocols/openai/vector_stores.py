"""OpenAI's vector stores over the collections: list, get one, search.

A vector store is a collection, and both its id and its name are the collection's. A result is a
passage; its file is the document that the passage is of. Scores are those of
`app.protocols.scores`: relevance where a reranker read the passages. Of several queries the
results are joined, each passage with its best score, best first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request

from app.backend.backend import Backend
from app.errors import BadRequest
from app.protocols.openai.attribute_filters import where_of
from app.protocols.openai.vector_store_schemas import (
    FileCounts,
    RankingOptions,
    StoreContent,
    StorePassage,
    StoreResult,
    StoreSearchPage,
    StoreSearchRequest,
    VectorStore,
    VectorStoreList,
)
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of, until_gone
from app.protocols.scores import unit_scores
from app.types import CollectionInfo
from retrieval import Hit, SearchResult

RANKERS = ("auto", "none")

StoreId = Annotated[
    str, Path(max_length=256, description="name of the collection", examples=["docs"])
]


def router(backend: Backend) -> APIRouter:
    """The routes of vector stores."""
    routes = APIRouter(prefix="/v1/vector_stores", tags=["OpenAI"])

    @routes.get(
        "",
        response_model=VectorStoreList,
        responses=responses(400),
        operation_id="list_vector_stores",
        summary="List the collections as vector stores",
    )
    async def list_vector_stores(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Annotated[
            Literal["asc", "desc"], Query(description="by time of creation, then by name")
        ] = "desc",
        after: Annotated[
            str | None, Query(max_length=256, description="id that the page comes after")
        ] = None,
        before: Annotated[
            str | None, Query(max_length=256, description="id that the page comes before")
        ] = None,
    ) -> VectorStoreList:
        found = [_store(info) for info in await backend.collections.list(caller_of(request))]
        found.sort(key=lambda store: (store.created_at, store.id), reverse=order == "desc")
        return _page(found, limit, after, before)

    @routes.get(
        "/{vector_store_id}",
        response_model=VectorStore,
        responses=responses(404),
        operation_id="get_vector_store",
        summary="Describe a collection as a vector store",
    )
    async def get_vector_store(request: Request, vector_store_id: StoreId) -> VectorStore:
        return _store(await backend.collections.get(caller_of(request), vector_store_id))

    @routes.post(
        "/{vector_store_id}/search",
        response_model=StoreSearchPage,
        responses=responses(400, 404),
        operation_id="search_vector_store",
        summary="Search a collection",
    )
    async def search_vector_store(
        request: Request, vector_store_id: StoreId, body: StoreSearchRequest
    ) -> StoreSearchPage:
        queries = [body.query] if isinstance(body.query, str) else body.query
        ranking = body.ranking_options or RankingOptions()
        results = await until_gone(
            request,
            backend.search(
                caller_of(request),
                queries,
                collection=vector_store_id,
                tenant=body.tenant,
                top_k=body.max_num_results,
                where=None if body.filters is None else where_of(body.filters),
                rerank=_reranks(ranking.ranker),
            ),
        )
        notices = dict.fromkeys(notice for result in results for notice in result.notices)
        if body.rewrite_query:
            notices["Queries are searched as they are written: rewrite_query was ignored."] = None
        best = _joined(results)[: body.max_num_results]
        return StoreSearchPage(
            search_query=queries,
            data=[
                _result(hit, score, query)
                for score, hit, query in best
                if score >= (ranking.score_threshold or 0.0)
            ],
            notices=list(notices),
            models={"encoder": results[0].encoder, "reranker": results[0].reranker},
        )

    return routes


def _reranks(ranker: str | None) -> bool:
    if ranker is None or ranker in RANKERS or ranker.startswith("default"):
        return ranker != "none"
    raise BadRequest(
        f"ranker is {ranker!r}, expected one of {', '.join(RANKERS)}",
        fix='Leave it out for the service\'s own reranker, or send "none" for none.',
    )


def _joined(results: Sequence[SearchResult]) -> list[tuple[float, Hit, str]]:
    """(score, hit, query) of every passage that was found, with its best score, best first."""
    best: dict[str, tuple[float, Hit, str]] = {}
    for result in results:
        for hit, score in zip(result.hits, unit_scores(result.hits), strict=True):
            known = best.get(hit.passage.id)
            if known is None or score > known[0]:
                best[hit.passage.id] = (score, hit, result.query)
    found = list(best.values())
    if len(results) > 1:
        # of one query they are in final order, which equal scores must not disturb
        found.sort(key=lambda one: (-one[0], one[1].rank, one[1].passage.id))
    return found


def _result(hit: Hit, score: float, query: str) -> StoreResult:
    passage = hit.passage
    return StoreResult(
        file_id=passage.document_id,
        filename=passage.source or passage.title or passage.document_id,
        score=score,
        attributes=_attributes(passage.metadata),
        content=[StoreContent(text=passage.text)],
        passage=StorePassage(
            id=passage.id,
            position=passage.position,
            start=passage.start,
            end=passage.end,
            title=passage.title,
            headings=list(passage.headings),
            source=passage.source,
            rank=hit.rank,
            relevance=hit.relevance,
            query=query,
        ),
    )


def _attributes(metadata: Mapping[str, Any]) -> dict[str, str | bool | int | float]:
    return {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
        for key, value in metadata.items()
        if value is not None
    }


def _store(info: CollectionInfo) -> VectorStore:
    manifest = info.manifest
    passages = info.passages or 0
    return VectorStore(
        id=info.name,
        name=info.name,
        created_at=_unix_time(manifest.created),
        file_counts=FileCounts(total=passages, completed=passages),
        metadata={
            "encoder": manifest.encoder.model,
            "dimension": str(manifest.encoder.dimension),
            "language": manifest.bm25.language,
            "tenants": str(manifest.layout.tenants).lower(),
            "default": str(info.default).lower(),
        },
    )


def _unix_time(created: str) -> int:
    if not created:
        return 0
    moment = datetime.fromisoformat(created)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _page(
    stores: Sequence[VectorStore], limit: int, after: str | None, before: str | None
) -> VectorStoreList:
    """A page of the stores, which are in order.

    Raises:
        BadRequest: a cursor that is not the id of one of them.
    """
    places = {store.id: place for place, store in enumerate(stores)}
    for name, cursor in (("after", after), ("before", before)):
        if cursor is not None and cursor not in places:
            raise BadRequest(
                f"{name} is {cursor!r}, and there is no vector store of that id",
                fix=f"Leave {name} out to begin anew.",
            )
    start = 0 if after is None else places[after] + 1
    end = len(stores) if before is None else places[before]
    within = stores[start:end]
    # going backwards, the nearest ones
    page = within[-limit:] if before is not None and after is None else within[:limit]
    return VectorStoreList(
        data=list(page),
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(within) > len(page),
    )
