"""`POST /v1/chat/completions` in OpenAI's form: chats that are answered from a collection.

The last message is the question, and what is searched for. Earlier messages go to the language
model as the conversation so far, but do not take part in the search; a question such as "and in
winter?" finds little by itself. `"retrieval": {"condense": true}` lets the language model first
rewrite it into one that can be understood alone (one more call), and `"retrieval": {"query": …}`
says what to search for. System messages go to the model as the application's wishes, after the
rules.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response

from app.answering.answer import Answer, Answering, Grounds
from app.errors import NotHere
from app.protocols.native import answer_schemas
from app.protocols.openai.chat_schemas import (
    AnswerMessage,
    ChatRequest,
    ChatResponse,
    Choice,
    Retrieved,
)
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of, until_gone
from app.protocols.sse import SCHEMA, event, event_stream, failed

ANY_MODEL = ("default", "retrieval")
"""What a request may call the language model by, beside its own name."""


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
        return event_stream(_chunks(request, head, grounds, first, pieces, usage=usage))

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
        except Exception as error:  # noqa: BLE001 - the client gets it, and the log
            yield event(failed(request, error))
            return
        cited = [one.model_dump() for one in answer_schemas.citations(piece)]
        retrieved = _retrieved(grounds, piece).model_dump()
        yield chunk({"citations": cited}, _finish(piece), retrieval=retrieved)
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
        role="assistant", content=answer.text, citations=answer_schemas.citations(answer)
    )
    return ChatResponse(
        **head,
        object="chat.completion",
        choices=[Choice(index=0, message=message, finish_reason=_finish(answer))],
        usage=_usage(answer),
        retrieval=_retrieved(grounds, answer),
    )


def _retrieved(grounds: Grounds, answer: Answer) -> Retrieved:
    whole = answer_schemas.answered(grounds, answer)
    return Retrieved.model_validate(whole, from_attributes=True)


def _finish(answer: Answer) -> str:
    return answer.finish_reason or "stop"


def _usage(answer: Answer) -> answer_schemas.TokenUsage | None:
    if not answer.found:
        return answer_schemas.TokenUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    return answer_schemas.usage(answer.usage)


def _check_model(asked: str | None, name: str) -> None:
    if asked and asked != name and asked not in ANY_MODEL:
        raise NotHere(
            f"there is no language model {asked!r} here; there is {name!r}",
            fix=f"Use {name!r}, or leave model out.",
            what="model",
        )
