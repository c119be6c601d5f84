"""`POST /v1/chat/completions` in OpenAI's form: chats that are answered from a collection.

The last message is the question, and what is searched for. Earlier messages go to the language
model as the conversation so far, but do not take part in the search; a question such as "and in
winter?" finds little by itself. `"retrieval": {"condense": true}` lets the language model first
rewrite it into one that stands alone (one more call), and `"retrieval": {"query": …}` says what
to search for. System messages are told to the model as the application's wishes, after the rules.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.answering.answer import Answer, Answering, Ask, Grounds
from app.answering.llm_client import Sampling
from app.answering.prompt import Message
from app.errors import BadRequest, NotHere
from app.protocols.native import answer_schemas as models
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of, until_gone
from app.protocols.sse import SCHEMA, EventStream, event, failed

ANY_MODEL = ("default", "retrieval")
"""What a request may call the language model by, beside its own name."""

Content = Annotated[models.Text, Field(max_length=200_000)]


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


class RetrievalFields(models.SearchFields):
    """How to search, in the field `retrieval` of a request."""

    query: Annotated[models.Text, Field(min_length=1, max_length=models.MOST_CHARACTERS)] | None = (
        Field(None, description="what to search for instead of the last message")
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

    messages: list[ChatMessage] = Field(min_length=1, max_length=models.MOST_MESSAGES)
    model: Annotated[models.Text, Field(max_length=256)] | None = Field(
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
            BadRequest: something is asked for that this service does not do.
        """
        self._refuse()
        told = [_text(at, message) for at, message in enumerate(self.messages)]
        if self.messages[-1].role != "user" or not told[-1].strip():
            raise BadRequest(
                "the last message is not a text of the role 'user'",
                fix="End messages with the user's question.",
            )
        asked = self.retrieval
        system = [
            text
            for message, text in zip(self.messages, told, strict=True)
            if message.role in ("system", "developer")
        ]
        history = [
            Message(message.role, text)
            for message, text in zip(self.messages[:-1], told[:-1], strict=True)
            if message.role in ("user", "assistant") and text
        ]
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Ask(
            question=told[-1],
            collection=asked.collection,
            tenant=asked.tenant,
            options=asked.search_options(),
            min_relevance=asked.min_relevance,
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
            (self.n not in (None, 1), f"n is {self.n}, and one answer is written to a question"),
            (bool(self.tools or self.functions), "tools are given, and this model calls none"),
            (bool(self.logprobs), "logprobs are asked for, which this service does not give"),
            (form != "text", f"response_format is {form!r}, and answers are text with citations"),
        ):
            if refused:
                raise BadRequest(what, fix="Leave it out.")


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None = None
    citations: list[models.Citation] = Field(description="as in `/v1/answer`")


class Choice(BaseModel):
    """The one choice."""

    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: None = None


class Retrieved(BaseModel):
    """How the answer was come by."""

    found: bool = Field(description="false: nothing relevant was found, no model was asked")
    query: str = Field(description="what was searched for")
    collection: str
    passages: list[models.UsedPassage]
    timings: models.AnswerTimings
    notices: list[str]


class ChatResponse(BaseModel):
    """OpenAI's chat completion, with `citations` in the message and `retrieval` beside it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: models.TokenUsage | None
    retrieval: Retrieved


def router(answering: Answering) -> APIRouter:
    """The route `/v1/chat/completions`."""
    routes = APIRouter(tags=["answers"])

    @routes.post(
        "/v1/chat/completions",
        operation_id="chat_completions",
        summary="Chat with a collection, in OpenAI's form",
        description=__doc__,
        response_model=ChatResponse,
        responses={
            **responses(404, 501, 502),
            200: {
                "description": "the completion, or with `stream` its chunks; the last chunk with "
                "a choice has `citations` in its delta and `retrieval` beside the choices",
                "content": {"text/event-stream": SCHEMA},
            },
        },
    )
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        _check_model(body.model, answering.model.name)
        ask = body.ask()
        grounds = await until_gone(request, answering.ground(caller_of(request), ask))
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": answering.model.name,
        }
        if not body.stream:
            answer = await until_gone(request, answering.write(grounds))
            completion = _completion(head, grounds, answer)
            return Response(completion.model_dump_json(), media_type="application/json")
        pieces = answering.stream(grounds)
        # what fails before the first word is answered with its own status
        first = await until_gone(request, _following(pieces))
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(_chunks(request, head, grounds, first, pieces, usage=usage))

    return routes


async def _following(pieces: AsyncGenerator[str | Answer, None]) -> str | Answer:
    return await anext(pieces)


async def _chunks(
    request: Request,
    head: dict[str, Any],
    grounds: Grounds,
    first: str | Answer,
    pieces: AsyncGenerator[str | Answer, None],
    *,
    usage: bool,
) -> AsyncGenerator[bytes, None]:
    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return event({**head, "object": "chat.completion.chunk", "choices": [choice], **more})

    async with contextlib.aclosing(pieces):
        try:
            yield chunk({"role": "assistant", "content": ""})
            piece = first
            while not isinstance(piece, Answer):
                yield chunk({"content": piece})
                piece = await anext(pieces)
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            yield event(failed(request, error))
            return
        cited = [one.model_dump() for one in models.citations(piece)]
        told = _retrieved(grounds, piece).model_dump()
        yield chunk({"citations": cited}, _finish(piece), retrieval=told)
        if usage:
            tokens = _usage(piece)
            yield event(
                {
                    **head,
                    "object": "chat.completion.chunk",
                    "choices": [],
                    "usage": None if tokens is None else tokens.model_dump(),
                }
            )
        yield event("[DONE]")


def _completion(head: dict[str, Any], grounds: Grounds, answer: Answer) -> ChatResponse:
    message = AnswerMessage(
        role="assistant", content=answer.text, citations=models.citations(answer)
    )
    return ChatResponse(
        **head,
        object="chat.completion",
        choices=[Choice(index=0, message=message, finish_reason=_finish(answer))],
        usage=_usage(answer),
        retrieval=_retrieved(grounds, answer),
    )


def _retrieved(grounds: Grounds, answer: Answer) -> Retrieved:
    whole = models.answered(grounds, answer)
    return Retrieved(
        found=whole.found,
        query=whole.query,
        collection=whole.collection,
        passages=whole.passages,
        timings=whole.timings,
        notices=whole.notices,
    )


def _finish(answer: Answer) -> str:
    return answer.finish_reason or "stop"


def _usage(answer: Answer) -> models.TokenUsage | None:
    if not answer.found:
        return models.TokenUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    return models.usage(answer.usage)


def _check_model(asked: str | None, name: str) -> None:
    if asked and asked != name and asked not in ANY_MODEL:
        raise NotHere(
            f"there is no language model {asked!r} here; there is {name!r}",
            fix=f"Use {name!r}, or leave model out.",
            what="model",
        )


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
