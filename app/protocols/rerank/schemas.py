"""Requests and responses of `/v1/rerank` and `/v2/rerank`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.protocols.model_calls import PromptUsage, TruncatedText

MOST_DOCUMENTS = 10_000
MOST_QUERY = 100_000
Document = str | dict[str, Any]
"""A text, or an object that has it under "text" (or under the keys named in `rank_fields`)."""

Query = Annotated[
    str,
    Field(min_length=1, max_length=MOST_QUERY, description="what the documents are ranked for"),
]
Documents = Annotated[
    list[Document],
    Field(
        min_length=1,
        max_length=MOST_DOCUMENTS,
        description=f'up to {MOST_DOCUMENTS:,} texts, or objects such as {{"text": …}}',
    ),
]
Model = Annotated[
    str | None,
    Field(
        max_length=512,
        description="a reranker that `/v1/models` lists; without one the default reranker",
    ),
]
TopN = Annotated[
    int | None, Field(ge=1, description="how many results to give; all where it is left out")
]
TimeoutMs = Annotated[
    float | None,
    Field(gt=0, le=3_600_000, description="milliseconds after which to give up with status 504"),
]

_EXAMPLE: dict[str, Any] = {
    "query": "how do I get my expenses back?",
    "documents": [
        "The canteen serves soup until two.",
        "Travel costs are paid back within ten days.",
    ],
    "top_n": 1,
}


class _Ranking(BaseModel):
    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [_EXAMPLE]})

    model: Model = None
    query: Query
    documents: Documents
    top_n: TopN = None
    timeout_ms: TimeoutMs = None


class RerankRequest(_Ranking):
    """A query and the documents to rank for it. Fields that are not named here are ignored."""

    return_documents: bool = Field(True, description="whether results carry their document")
    rank_fields: list[Annotated[str, Field(max_length=512)]] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="of documents that are objects, the keys whose values are read, in this order",
    )
    truncate_prompt_tokens: int | None = Field(
        None, description="not applied: a pair may be as long as the model reads"
    )


class CohereRerankRequest(_Ranking):
    """Cohere's second version. Fields that are not named here are ignored."""

    max_tokens_per_doc: int | None = Field(
        None,
        ge=1,
        description="where it is less than what the model reads it is not applied, and "
        "`meta.warnings` says so",
    )
    return_documents: bool = Field(False, description="whether results carry their document")


class RankedDocument(BaseModel):
    """One document's place. Ordered by falling score, and by index where scores are equal."""

    index: int = Field(description="which of the documents, from 0")
    relevance_score: float = Field(ge=0, le=1, description="how relevant it is, from 0 to 1")
    raw_score: float = Field(description="the model's own score, which the order follows")
    document: dict[str, Any] | None = Field(
        None, description='the document: {"text": …}, or the object that was sent'
    )


class ApiVersion(BaseModel):
    """The version of Cohere's API that the answer has the form of."""

    version: str


class BilledUnits(BaseModel):
    """Cohere's units, one for every hundred documents. This service bills nothing."""

    search_units: int


class MetaTokens(BaseModel):
    """Tokens read; a reranker writes none."""

    input_tokens: int
    output_tokens: int = 0


class Meta(BaseModel):
    """What Cohere's clients read beside the results."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: MetaTokens
    warnings: list[str] | None = Field(None, description="what was not done as requested")


class CohereRerankResponse(BaseModel):
    """Results, best first; `model` and `truncated` are additions to Cohere's form."""

    id: str
    results: list[RankedDocument]
    meta: Meta
    model: str = Field(description="the reranker's own name")
    truncated: list[TruncatedText] = Field(description="documents that were not read whole")


class RerankResponse(CohereRerankResponse):
    """Results, best first; the superset that clients of Jina, vLLM and Cohere read."""

    object: str = "list"
    usage: PromptUsage


class CohereError(BaseModel):
    """What went wrong, in Cohere's form."""

    id: str = Field(description="the request's id, as in the header X-Request-ID")
    message: str = Field(description="what was given, what was expected, what to do next")
    code: str = Field(description="a stable word for programs")
