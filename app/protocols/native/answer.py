"""`POST /v1/answer`: a question in, an answer with citations out, whole or as it is written.

`POST /v1/chat/completions`, the same in OpenAI's form, is in `app.protocols.openai.chat`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from app.answering.answer import Answer, Answering, Grounds
from app.protocols.native import answer_schemas as models
from app.protocols.openapi_responses import responses
from app.protocols.requests import caller_of, until_gone
from app.protocols.sse import SCHEMA, event, event_stream, failed

DESCRIPTION = """\
Searches, gives the passages to the language model, and returns its answer with the passages it
cites. Where nothing relevant is found (nothing of at least `min_relevance`, or else of the setting
`answer_min_relevance`), `found` is false, the answer says so, and no model is asked.

With `"stream": true` the answer comes as server-sent events: `passages` (what was found), then
`delta`s (`{"text": …}`), then `citations`, then `done` (the whole response, without the passages);
if something fails midway, `error` is the last one.
"""


def router(answering: Answering) -> APIRouter:
    """The route `/v1/answer`; closes the language model's connections when the app stops."""

    @contextlib.asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await answering.close()

    routes = APIRouter(tags=["answers"], lifespan=lifespan)

    @routes.post(
        "/v1/answer",
        operation_id="answer",
        summary="Answer a question with citations",
        description=DESCRIPTION,
        response_model=models.AnswerResponse,
        responses={
            **responses(404, 501, 502),
            200: {
                "description": "the answer, or with `stream` its events",
                "content": {"text/event-stream": SCHEMA},
            },
        },
    )
    async def answer(request: Request, body: models.AnswerRequest) -> Response:
        if body.generate:
            _ = answering.model  # refused before anything is searched
        grounds = await until_gone(request, answering.ground(caller_of(request), body.ask()))
        if not body.generate:
            return _json(models.grounded(grounds))
        if body.stream:
            return event_stream(events(request, grounds))
        written = await until_gone(request, answering.write(grounds))
        return _json(models.answered(grounds, written))

    async def events(request: Request, grounds: Grounds) -> AsyncGenerator[bytes, None]:
        yield event(
            {
                "query": grounds.query,
                "collection": grounds.collection,
                "found": grounds.prompt is not None,
                "passages": [models.used(one).model_dump() for one in grounds.sources],
                "timings": models.searched(grounds).model_dump(exclude_none=True),
                "notices": list(grounds.notices),
            },
            name="passages",
        )
        try:
            pieces = answering.stream(grounds)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    if not isinstance(piece, Answer):
                        yield event({"text": piece}, name="delta")
                        continue
                    whole = models.answered(grounds, piece).model_dump(exclude={"passages"})
                    yield event({"citations": whole["citations"]}, name="citations")
                    yield event(whole, name="done")
        except Exception as error:  # noqa: BLE001 - sent to the client, and logged
            yield event(failed(request, error), name="error")

    return routes


def _json(response: models.AnswerResponse) -> Response:
    return Response(response.model_dump_json(), media_type="application/json")
