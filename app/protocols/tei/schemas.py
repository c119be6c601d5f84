"""Requests and responses of the addresses of Text Embeddings Inference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app.protocols.rerank.schemas import MOST_DOCUMENTS, Query, RerankRequest

MOST_INPUTS = 2048

ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiError(BaseModel):
    """What went wrong, in TEI's form."""

    error: str = Field(description="what was given, what was expected, what to do next")
    error_type: ErrorType
    message: str = Field(description="the same as `error`")


Inputs = Annotated[
    str | list[str],
    Field(
        description=f"one text, or up to {MOST_INPUTS:,} of them; token ids are refused",
    ),
]
Truncate = Annotated[
    bool | None,
    Field(description="true: the end of a text that is too long is left out; else it is refused"),
]
Direction = Annotated[
    Literal["Right", "right", "Left", "left"] | None,
    Field(description="the side of a long text that is left out; only the right one is supported"),
]
PromptName = Annotated[
    str | None,
    Field(
        max_length=512,
        description='"query" puts the instruction for queries before each text, "passage" or '
        '"document" that for passages, which is also the default',
    ),
]


class EmbedSparseRequest(BaseModel):
    """Texts to give term weights of. Fields that are not named here are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"inputs": ["Travel costs are paid back."]}]},
    )

    inputs: Inputs
    truncate: Truncate = None
    truncation_direction: Direction = None
    prompt_name: PromptName = None


class EmbedRequest(EmbedSparseRequest):
    """Texts to embed. Fields that are not named here are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": ["how do I get my expenses back?"], "prompt_name": "query"}]
        },
    )

    normalize: bool = Field(True, description="whether vectors have the length 1")
    dimensions: int | None = Field(
        None, ge=1, le=65536, description="shorter vectors, where the model was trained for them"
    )


class SparseValue(BaseModel):
    """The weight of one token."""

    index: int = Field(description="the token's id")
    value: float


class TeiRerankRequest(BaseModel):
    """A query and texts to rank for it. Fields that are not named here are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "query": "how do I get my expenses back?",
                    "texts": ["Soup until two.", "Travel costs are paid back within ten days."],
                    "truncate": True,
                }
            ]
        },
    )

    query: Query
    texts: list[str] = Field(
        description=f"up to {MOST_DOCUMENTS:,} texts",
        json_schema_extra={"minItems": 1, "maxItems": MOST_DOCUMENTS},
    )
    truncate: Truncate = None
    truncation_direction: Direction = None
    raw_scores: bool = Field(False, description="the model's own scores, not those from 0 to 1")
    return_text: bool = Field(False, description="whether results carry their text")


class Rank(BaseModel):
    """One text's place. Ordered by falling score, and by index where scores are equal."""

    index: int = Field(description="which of the texts, from 0")
    score: float
    text: str | None = None


class EmbeddingModel(BaseModel):
    """What TEI says about an encoder."""

    embedding: dict[str, Any]


class RerankerInfo(BaseModel):
    """The reranker beside the encoder; an addition to TEI's form."""

    model_id: str
    model_sha: str
    max_input_length: int


class Info(BaseModel):
    """The default encoder, in TEI's form, and the default reranker beside it."""

    model_id: str
    model_sha: str = Field(description="the fingerprint of its weights and tokenizer")
    model_dtype: str | None = Field(None, description="always null")
    model_type: EmbeddingModel
    max_input_length: int = Field(description="tokens that the encoder reads of a text")
    max_client_batch_size: int = Field(description="how many texts are taken at once")
    max_batch_requests: int | None = None
    auto_truncate: bool = Field(False, description="long texts are refused without `truncate`")
    version: str
    sha: str | None = None
    docker_label: str | None = None
    reranker: RerankerInfo | None = None


def _format(body: object) -> str:
    fields = body if isinstance(body, dict) else {}
    return "vllm" if "documents" in fields and "texts" not in fields else "tei"


AnyRerankRequest = Annotated[
    Annotated[TeiRerankRequest, Tag("tei")] | Annotated[RerankRequest, Tag("vllm")],
    Discriminator(_format),
]
