"""The native API's requests and answers, as OpenAPI describes them. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from app.protocols.json_limits import TEXT_PATTERN, JsonObject, Name, Query, Strict, Text
from app.protocols.search_fields import SearchTarget, offers_search

MOST_QUERIES = 128
MOST_DOCUMENTS = 1000
MOST_IDS = 1000
MOST_TEXT = 8_000_000
DocumentId = Annotated[Text, Field(min_length=1, max_length=2048, json_schema_extra=TEXT_PATTERN)]


@offers_search("http")
class SearchFields(SearchTarget):
    """Every option of a search; what is left out or null has the collection's default."""

    include_candidates: bool = Field(False, description="adds the first stage's list")


class SearchRequest(SearchFields):
    """One question."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "how do I get my expenses back?", "top_k": 3},
                {
                    "query": "password rules",
                    "collection": "docs",
                    "where": {"team": "it", "year": {"gte": 2020}},
                    "min_relevance": 0.2,
                    "timeout_ms": 2000,
                    "on_timeout": "first_stage",
                },
            ]
        }
    )

    query: Query = Field(description="what the user asks, in their words")


class BatchRequest(SearchFields):
    """Several questions under the same options; they share the calls of both stages."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queries": ["travel costs", "lost password"], "top_k": 3}]}
    )

    queries: list[Query] = Field(min_length=1, max_length=MOST_QUERIES)


class CreateCollection(Strict):
    """A new, empty collection."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "handbook", "fields": {"year": "number"}}]}
    )

    name: Name
    encoder: Name | None = Field(None, description="null: the service's own")
    language: Name | None = Field(None, description="of BM25's words, such as english or de")
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="longest passage in the encoder's tokens; null: the encoder's length"
    )
    overlap_tokens: Annotated[int, Field(ge=0, le=100_000)] | None = None
    fields: Annotated[
        dict[Name, Literal["keyword", "number", "datetime"]] | None,
        Field(description="metadata to index for filters"),
    ] = None
    storage: JsonObject | None = Field(
        None, description="how the engine keeps it", examples=[{"quantization": "int8"}]
    )
    lexical: bool = Field(False, description="store the encoder's term weights (bge-m3)")
    token_vectors: bool = Field(False, description="store token vectors for MaxSim (bge-m3)")
    tenants: bool = Field(False, description="keep tenants apart")


class DocumentIn(Strict):
    """A document to write. One with the same id is replaced; an unchanged one is skipped."""

    id: DocumentId
    text: Annotated[
        Text, Field(min_length=1, max_length=MOST_TEXT, json_schema_extra={"pattern": r"\S"})
    ]
    title: Annotated[Text, Field(max_length=8192, json_schema_extra=TEXT_PATTERN)] = ""
    metadata: JsonObject = Field(
        {}, description="can be filtered on and comes back with hits", examples=[{"year": 2024}]
    )
    source: Annotated[Text, Field(max_length=8192, json_schema_extra=TEXT_PATTERN)] = ""


_DOCUMENTS_EXAMPLE: dict[str, Any] = {
    "documents": [
        {
            "id": "expenses",
            "title": "Expenses",
            "text": "Travel costs are paid back within ten days.",
            "metadata": {"team": "finance", "year": 2024},
            "source": "office/expenses.md",
        }
    ]
}


class UpsertRequest(Strict):
    """Documents to write."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DOCUMENTS_EXAMPLE]})

    documents: list[DocumentIn] = Field(min_length=1, max_length=MOST_DOCUMENTS)
    tenant: Name | None = None


class DeleteRequest(Strict):
    """Documents to delete."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["expenses"]}]})

    ids: list[DocumentId] = Field(min_length=1, max_length=MOST_IDS)
    tenant: Name | None = None


class IngestRequest(Strict):
    """What a job is to read: documents, or a path on the service's machine; one of the two."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_DOCUMENTS_EXAMPLE, {"path": "/data/handbook"}]}
    )

    documents: list[DocumentIn] | None = Field(None, min_length=1, max_length=100_000)
    path: Annotated[Text, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="under one of the folders in the setting `ingest_roots`"
    )
    collection: Name | None = Field(None, description="null: the default one")
    tenant: Name | None = None
    prune: bool = Field(False, description="delete documents that the source no longer has")
