"""The native API's requests and answers, as OpenAPI describes them. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.protocols.json_limits import plain_object, plain_text

MOST_QUERY = 32_768
MOST_QUERIES = 128
MOST_DOCUMENTS = 1000
MOST_IDS = 1000
MOST_TEXT = 8_000_000
MOST_NAME = 255

NO_NUL = r"^[^\x00]*$"
_TEXT = {"pattern": NO_NUL}
Text = Annotated[str, AfterValidator(plain_text)]
Name = Annotated[Text, Field(min_length=1, max_length=MOST_NAME, json_schema_extra=dict(_TEXT))]
DocumentId = Annotated[Text, Field(min_length=1, max_length=2048, json_schema_extra=dict(_TEXT))]
Query = Annotated[
    Text, Field(min_length=1, max_length=MOST_QUERY, json_schema_extra={"pattern": r"\S"})
]
JsonObject = Annotated[dict[str, Any], AfterValidator(plain_object)]
Milliseconds = Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]

WHERE_EXAMPLES: list[Any] = [
    {"team": "finance"},
    {"team": ["finance", "it"], "year": {"gte": 2024}},
    {"or": [{"year": {"lt": 2000}}, {"not": {"draft": True}}], "author.name": {"exists": True}},
]
WHERE = (
    "Filter over passages. Keys are metadata fields (`author.name` goes into objects, "
    "`authors[].name` into lists of them) or `document_id`, `source`, `title`, `position`. A value "
    "is equal (a list in the metadata matches by any element); a list means any of; "
    '`{"gte": 2000, "lt": 2010}` (gt, gte, lt, lte) is a range of numbers or ISO dates; '
    '`{"exists": true}` asks for a value, null for none. Several keys must all hold; `and`, `or` '
    "take lists of filters, `not` takes one."
)


class Strict(BaseModel):
    """A request: no unknown field, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FusionOptions(Strict):
    """How the legs of a hybrid search are joined."""

    method: Literal["dbsf", "rrf"] = Field(
        "dbsf", description="sums of scores on one scale, or of weight / (k + rank)"
    )
    k: int = Field(20, ge=1, le=100_000, description="of rrf")
    weights: list[Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]] = Field(
        [1.0, 1.0, 1.0],
        min_length=3,
        max_length=3,
        description="of the dense, the BM25 and the lexical leg",
    )


class SearchOptions(Strict):
    """Every option of a search; what is left out or null has the collection's default."""

    collection: Name | None = Field(None, description="null: the default one")
    top_k: int = Field(10, ge=1, le=1000, description="how many hits at most")
    candidates: Annotated[int, Field(ge=1, le=5000)] | None = Field(
        None, description="how many passages of the first stage are re-ranked"
    )
    mode: Literal["dense", "sparse", "lexical", "hybrid"] | None = Field(
        None, description="first stage: vectors, BM25, the encoder's term weights, or all joined"
    )
    where: JsonObject | None = Field(None, description=WHERE, examples=WHERE_EXAMPLES)
    rerank: bool = Field(True, description="false keeps the first stage's order")
    blend: Literal["none", "rrf"] | None = Field(
        None, description="the reranker's order, or that joined with the first stage's"
    )
    min_relevance: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="hits of a lower relevance are left out"
    )
    budget_ms: Milliseconds | None = Field(
        None, description="milliseconds for re-ranking; what does not fit keeps its first rank"
    )
    offset: int = Field(0, ge=0, le=10_000, description="how many hits to skip")
    per_document: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="at most so many hits of one document"
    )
    diversity: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="how much less a hit counts that is like one before it"
    )
    neighbours: int = Field(
        0, ge=0, le=20, description="passages before and after each hit that come along"
    )
    min_score: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] | None = Field(
        None, description="candidates of a lower first-stage score are left out"
    )
    fusion: FusionOptions | None = Field(None, description="of a hybrid search")
    refine: Annotated[int, Field(ge=1, le=5000)] | None = Field(
        None,
        description="so many first-stage results are put in order by MaxSim, where the "
        "collection stores token vectors",
    )
    exact: bool = Field(False, description="compare with every vector: slower")
    tenant: Name | None = Field(None, description="whose passages, where tenants are kept apart")
    timeout_ms: Milliseconds | None = Field(None, description="milliseconds until the answer")
    on_timeout: Literal["error", "first_stage"] = Field(
        "error", description="504, or the first stage's order with a notice"
    )
    include_candidates: bool = Field(False, description="adds the first stage's list")


class SearchRequest(SearchOptions):
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


class BatchRequest(SearchOptions):
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
    """A document to write. One of the same id is replaced; an unchanged one is passed over."""

    id: DocumentId
    text: Annotated[
        Text, Field(min_length=1, max_length=MOST_TEXT, json_schema_extra={"pattern": r"\S"})
    ]
    title: Annotated[Text, Field(max_length=8192, json_schema_extra=dict(_TEXT))] = ""
    metadata: JsonObject = Field(
        {}, description="can be filtered on and comes back with hits", examples=[{"year": 2024}]
    )
    source: Annotated[Text, Field(max_length=8192, json_schema_extra=dict(_TEXT))] = ""


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
