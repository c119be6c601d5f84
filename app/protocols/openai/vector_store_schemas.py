"""Requests and responses of OpenAI's vector stores, with this service's additions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.protocols.json_limits import Query
from app.protocols.openai.attribute_filters import AttributeFilter

MOST_QUERIES = 16


class RankingOptions(BaseModel):
    """How results are ranked."""

    model_config = ConfigDict(extra="ignore", strict=True)

    ranker: str | None = Field(
        default=None,
        max_length=64,
        description="auto (and every name that begins with default): the service's own reranker; "
        "none: the first stage's order",
    )
    score_threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="results of a lower score are left out",
    )


class StoreSearchRequest(BaseModel):
    """A question to a vector store. Fields that are not named here are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "query": "how do I get my expenses back?",
                    "max_num_results": 5,
                    "filters": {"type": "eq", "key": "lang", "value": "en"},
                    "ranking_options": {"ranker": "auto", "score_threshold": 0.2},
                }
            ]
        },
    )

    query: Query | Annotated[list[Query], Field(min_length=1, max_length=MOST_QUERIES)] = Field(
        description=f"the question, or up to {MOST_QUERIES} questions; their results are joined"
    )
    filters: AttributeFilter | None = Field(None, description="over attributes of the passages")
    max_num_results: int = Field(10, ge=1, le=50, description="how many results at most")
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = Field(
        None, description="queries are searched as they are written; a notice says so"
    )
    tenant: str | None = Field(
        None,
        max_length=256,
        description="to search for, where the collection has tenants",
    )


class StoreContent(BaseModel):
    """Text of a result."""

    type: Literal["text"] = "text"
    text: str


class StorePassage(BaseModel):
    """The passage that a result is, beyond what OpenAI's form has."""

    id: str
    position: int = Field(description="which passage of the document, from 0")
    start: int = Field(description="where it begins in the document's text, in characters")
    end: int
    title: str
    headings: list[str]
    source: str
    rank: int = Field(description="its place in the results of its query, from 1")
    relevance: float | None = Field(description="null where no stage has such a scale")
    query: str = Field(description="the query that found it")


class StoreResult(BaseModel):
    """A passage that was found."""

    file_id: str = Field(description="the document's id")
    filename: str = Field(description="the document's source, else its title, else its id")
    score: float = Field(ge=0, le=1, description="never rises along the results")
    attributes: dict[str, str | bool | int | float] = Field(
        description="the metadata; lists and objects as JSON text, null values left out"
    )
    content: list[StoreContent]
    passage: StorePassage


class StoreSearchPage(BaseModel):
    """All results of a search; there is no second page. `notices` and `models` are additions."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str] = Field(description="what was searched for")
    data: list[StoreResult]
    has_more: Literal[False] = False
    next_page: None = None
    notices: list[str] = Field(description="remarks on how the search went")
    models: dict[str, str | None] = Field(description="encoder and reranker")


class FileCounts(BaseModel):
    """Passages, in `total` and `completed`: documents are not counted. 0 while it is not open."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0


class VectorStore(BaseModel):
    """A collection as a vector store."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int = Field(description="Unix time in seconds; 0 where it is not known")
    name: str
    usage_bytes: int = Field(default=0, description="always 0: not measured")
    file_counts: FileCounts
    status: Literal["completed"] = "completed"
    expires_after: None = None
    expires_at: None = None
    last_active_at: None = None
    metadata: dict[str, str] = Field(description="encoder, dimension, language, tenants, default")


class VectorStoreList(BaseModel):
    """A page of vector stores."""

    object: Literal["list"] = "list"
    data: list[VectorStore]
    first_id: str | None
    last_id: str | None
    has_more: bool
