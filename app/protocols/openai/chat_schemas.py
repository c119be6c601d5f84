"""Requests and responses of `/v1/chat/completions`, with this service's additions to OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.answering.answer import Ask
from app.answering.llm_client import Sampling
from app.answering.prompt import Message
from app.errors import BadRequest
from app.protocols.json_limits import Text
from app.protocols.native.answer_schemas import (
    MOST_CHARACTERS,
    MOST_MESSAGES,
    AnswerTimings,
    Citation,
    GroundingFields,
    TokenUsage,
    UsedPassage,
)

Content = Annotated[Text, Field(max_length=200_000)]


class ContentPart(BaseModel):
    """A part of a message; only text is read."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: str = Field(json_schema_extra={"enum": ["text"]})
    text: Content | None = None


class ChatMessage(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[ContentPart], Field(max_length=100)] | None = None


class RetrievalFields(GroundingFields):
    """How to search, in the field `retrieval` of a request."""

    query: Annotated[Text, Field(min_length=1, max_length=MOST_CHARACTERS)] | None = Field(
        None, description="what to search for instead of the last message"
    )
    condense: bool = Field(
        False,
        description="true: the language model first rewrites the last message so that it can be "
        "understood without the earlier ones, and that is searched for",
    )


class StreamOptions(BaseModel):
    """Options of a streamed response."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = False


class ChatRequest(BaseModel):
    """A chat whose last message is a question. Fields that are not named here are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "default",
                    "messages": [{"role": "user", "content": "How long are backups kept?"}],
                    "retrieval": {"collection": "docs", "where": {"team": "it"}, "top_k": 5},
                }
            ]
        },
    )

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    model: Annotated[Text, Field(max_length=256)] | None = Field(
        None, description='the language model\'s own name, "default", "retrieval", or none'
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    retrieval: RetrievalFields = Field(default_factory=lambda: RetrievalFields.model_validate({}))
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Content | Annotated[list[Content], Field(max_length=16)] | None = None
    n: int | None = Field(None, description="only 1", json_schema_extra={"enum": [1, None]})
    tools: list[Any] | None = Field(
        None,
        description="not supported: none, or an empty list",
        json_schema_extra={"maxItems": 0},
    )
    functions: list[Any] | None = Field(
        None, description="not supported, as `tools`", json_schema_extra={"maxItems": 0}
    )
    logprobs: bool | None = Field(
        None, description="not supported: false", json_schema_extra={"enum": [False, None]}
    )
    response_format: dict[str, Any] | None = Field(
        None,
        description='only {"type": "text"}; answers carry citations',
        json_schema_extra={"enum": [{"type": "text"}, None]},
    )

    def ask(self) -> Ask:
        """The question as `app.answering` takes it.

        Raises:
            BadRequest: an option is not supported, or the last message is not a question.
        """
        self._refuse()
        texts = [_text(at, message) for at, message in enumerate(self.messages)]
        if self.messages[-1].role != "user" or not texts[-1].strip():
            raise BadRequest(
                "the last message is not a text of the role 'user'",
                fix="End messages with the user's question.",
            )
        asked = self.retrieval
        system = [
            text
            for message, text in zip(self.messages, texts, strict=True)
            if message.role in ("system", "developer")
        ]
        history = [
            Message(message.role, text)
            for message, text in zip(self.messages[:-1], texts[:-1], strict=True)
            if message.role in ("user", "assistant") and text
        ]
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Ask(
            question=texts[-1],
            collection=asked.collection,
            options=asked.search_options(),
            timeout_ms=asked.timeout_ms,
            on_timeout=asked.on_timeout,
            history=tuple(history),
            instructions="\n\n".join(system),
            query=asked.query,
            condense=asked.condense,
            sampling=Sampling(
                max_tokens=self.max_completion_tokens or self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
                stop=tuple(stop),
            ),
        )

    def _refuse(self) -> None:
        form = (self.response_format or {}).get("type", "text")
        for refused, what in (
            (self.n not in (None, 1), f"n is {self.n}, expected 1: a question gets one answer"),
            (
                bool(self.tools or self.functions),
                "the request has tools, and none are called here",
            ),
            (bool(self.logprobs), "logprobs is true, and this service gives none"),
            (
                form != "text",
                f"response_format is {form!r}, expected 'text'",
            ),
        ):
            if refused:
                raise BadRequest(what, fix="Leave it out.")


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None = None
    citations: list[Citation] = Field(description="as in `/v1/answer`")


class Choice(BaseModel):
    """The one choice."""

    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: None = None


class Retrieved(BaseModel):
    """How the answer was found."""

    found: bool = Field(description="false: nothing relevant was found, and no model was asked")
    query: str = Field(description="what was searched for")
    collection: str
    passages: list[UsedPassage]
    timings: AnswerTimings
    notices: list[str]


class ChatResponse(BaseModel):
    """OpenAI's chat completion, with `citations` in the message and `retrieval` beside it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage | None
    retrieval: Retrieved


def _text(at: int, message: ChatMessage) -> str:
    """The text of a message, its parts joined.

    Raises:
        BadRequest: it holds something else than text.
    """
    if isinstance(message.content, list):
        other = [part.type for part in message.content if part.type != "text"]
        if other:
            raise BadRequest(
                f"messages[{at}] holds a part of the type {other[0][:50]!r}, and only text is read",
                fix="Leave it out.",
            )
        return "\n".join(part.text or "" for part in message.content)
    return message.content or ""
