"""`POST /v1/embeddings` in OpenAI's form, with the additions that a bi-encoder needs.

A bi-encoder encodes a question and the passages that answer it differently, and OpenAI's form
cannot say which of the two a text is. Here a text is a passage unless the request says otherwise:
a question encoded as a passage finds somewhat less until its client is corrected, but passages
that were encoded as questions would all have to be encoded again. To encode questions, send
`"input_type": "query"`, or, from clients that cannot send other fields, put `:query` behind the
model's name.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.backend.backend import Backend
from app.errors import BadRequest
from app.protocols.json_limits import plain_text
from app.protocols.model_calls import (
    PromptUsage,
    TruncatedText,
    json_of_numbers,
    model_info,
    truncated_texts,
)
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of, until_gone
from app.types import Embedded, ModelInfo, TextKind
from retrieval._validate import is_whole_number

MOST_TEXTS = 2048
MOST_INSTRUCTION = 4096

InputType = Literal["query", "search_query", "passage", "document", "search_document"]

_SUFFIXES: dict[str, TextKind] = {":query": "query", ":passage": "passage", ":document": "passage"}


class _BadInput(BadRequest):
    param = "input"


def _checked_input(value: object) -> object:
    """The unchanged input, where it can be texts; what pydantic says of the rest is good enough.

    Raises:
        BadRequest: tokens of another model's tokenizer, no texts, too many, or an empty one.
    """
    if isinstance(value, list) and not value:
        raise _BadInput(
            "input is an empty list, expected at least one text", fix="Send the texts to embed."
        )
    if isinstance(value, list) and all(_tokens(item) for item in value):
        raise _BadInput(
            "input holds token ids, which are those of another model's tokenizer and mean nothing "
            "to this one",
            fix="Send the texts themselves. LangChain's OpenAIEmbeddings does so with "
            "check_embedding_ctx_length=False.",
        )
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MOST_TEXTS:
        raise _BadInput(
            f"input holds {len(texts):,} texts, expected at most {MOST_TEXTS:,} in one request",
            fix="Send them in several requests.",
        )
    for at, text in enumerate(texts):
        if isinstance(text, str) and (not text or "\0" in text):
            which = f"input[{at}]" if isinstance(value, list) else "input"
            what = "holds the character NUL" if text else "is an empty text"
            raise _BadInput(
                f"{which} {what}, which cannot be embedded", fix="Leave it out of the request."
            )
    return value


def _tokens(item: object) -> bool:
    if isinstance(item, list):
        return all(isinstance(part, int) for part in item)
    return is_whole_number(item)


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


class EmbeddingRequest(BaseModel):
    """Texts to embed. Fields that are not named here are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "examples": [
                {"input": "how do I get my expenses back?", "input_type": "query"},
                {
                    "input": ["Travel expenses are paid back within ten days.", "Toner is here."],
                    "model": "bge-small-en-v1.5",
                    "encoding_format": "base64",
                },
            ]
        },
    )

    input: Annotated[Text | Texts, BeforeValidator(_checked_input)] = Field(
        description=f"one text, or up to {MOST_TEXTS:,} of them; token ids are refused"
    )
    model: str | None = Field(
        None,
        max_length=512,
        description="a name that `/v1/models` lists; without one the default encoder. `:query`, "
        "`:passage` or `:document` after it sets `input_type`",
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: of the vector's bytes as little-endian float32"
    )
    dimensions: int | None = Field(
        None, ge=1, le=65536, description="shorter vectors, where the model was trained for them"
    )
    user: str | None = Field(None, description="ignored")
    input_type: InputType | None = Field(
        None,
        description="whether the texts are questions (query, search_query) or what is searched "
        "(passage, document, search_document: the default); the encoder's own instruction for "
        "them is added here",
    )
    instruction: Annotated[str, AfterValidator(plain_text)] | None = Field(
        None,
        max_length=MOST_INSTRUCTION,
        description="put before each text as it is, in place of the encoder's own instruction; "
        "for encoders that put nothing before passages",
    )


class Embedding(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="which of the texts, from 0")
    embedding: list[float] | str = Field(description="numbers, or base64 of float32 bytes")


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the texts; `encoder`, `input_type` and `truncated` are additions."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(description="the name that the request gave")
    usage: PromptUsage
    encoder: str = Field(description="the model's own name")
    input_type: Literal["query", "passage"] = Field(description="what the texts were taken for")
    truncated: list[TruncatedText] = Field(description="texts that are longer than the model reads")


def router(backend: Backend) -> APIRouter:
    """The route of embeddings."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post(
        "/v1/embeddings",
        response_model=EmbeddingResponse,
        responses=responses(400, 404),
        operation_id="create_embedding",
        summary="Embed texts",
    )
    async def create_embedding(request: Request, body: EmbeddingRequest) -> Response:
        caller = caller_of(request)
        model, kind = _chosen(backend, body)
        texts = [body.input] if isinstance(body.input, str) else body.input
        encoded_as: TextKind = kind
        if body.instruction:
            _check_instruction(model_info(backend, "encoder", model))
            # the encoder itself adds nothing to passages
            texts, encoded_as = [body.instruction + text for text in texts], "passage"
        embedded = await until_gone(
            request,
            backend.texts.embed(
                caller, texts, kind=encoded_as, model=model, dimensions=body.dimensions
            ),
        )
        info = None
        if body.instruction or embedded.truncated.any():
            info = model_info(backend, "encoder", embedded.model)
        if body.instruction:
            _check_instruction(info)  # of a model that was not loaded before
        content = {
            "object": "list",
            "data": _data(embedded, body.encoding_format),
            "model": body.model or embedded.model,
            "usage": PromptUsage.of(embedded.tokens).model_dump(),
            "encoder": embedded.model,
            "input_type": kind,
            "truncated": [
                one.model_dump()
                for one in truncated_texts(embedded.truncated, embedded.tokens, info)
            ],
        }
        return json_of_numbers(content)

    return routes


def _chosen(backend: Backend, body: EmbeddingRequest) -> tuple[str | None, TextKind]:
    """The model to ask, None for the default one, and what its texts are.

    Raises:
        BadRequest: the model's suffix says one thing and `input_type` another.
    """
    asked: TextKind | None = None
    if body.input_type is not None:
        asked = "query" if body.input_type in ("query", "search_query") else "passage"
    model = body.model or None
    if model is None or model_info(backend, "encoder", model) is not None:
        return model, asked or "passage"
    for suffix, kind in _SUFFIXES.items():
        if model.endswith(suffix):
            if asked not in (None, kind):
                raise BadRequest(
                    f"model is {model!r} and input_type is {body.input_type!r}, which contradict "
                    "each other",
                    fix=f"Leave out {suffix!r} or input_type.",
                )
            return model.removesuffix(suffix) or None, kind
    return model, asked or "passage"


def _check_instruction(info: ModelInfo | None) -> None:
    if info is None or info.passage_instruction == "":
        return
    own = (
        "and it is not known what that encoder puts before a text itself"
        if info.passage_instruction is None
        else f"which puts {info.passage_instruction!r} before passages itself"
    )
    raise BadRequest(
        f"the request has an instruction for the encoder {info.names[0]!r}, {own}",
        fix='Leave instruction out; "input_type": "query" or "passage" adds the encoder\'s own.',
    )


def _data(embedded: Embedded, encoding_format: str) -> list[dict[str, Any]]:
    # in rows of their own, and in the byte order that the format names
    vectors = np.ascontiguousarray(embedded.vectors, dtype="<f4")
    rows: Sequence[Any] = (
        [base64.b64encode(row.tobytes()).decode("ascii") for row in vectors]
        if encoding_format == "base64"
        else list(vectors)
    )
    return [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
