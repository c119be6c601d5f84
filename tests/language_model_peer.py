"""An OpenAI-compatible endpoint on a free port, whose "model" is plain code.

It reads the prompt as a model would: it finds the tags that the rules name, takes the source that
shares most words with the question, and quotes its first sentence with the source's number; asked
for a question, it asks for the first long words of the passage. What else it can do, such as fail,
stall or break off, is chosen by `Peer.behaviour`.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from service_help import running

AT_ONCE = {"retry-after-ms": "5"}


@dataclass
class Peer:
    """What was asked of the endpoint, and how it behaves next.

    behaviour: quote, say:TEXT, status:CODE, flaky (one 503, then quote), stall (after the first
    piece), silent (never answers), break (off in the middle), empty, long (cut off at the limit),
    unread (an answer that is no event stream), error_event, new_limit (knows only
    max_completion_tokens), no_finish.
    """

    url: str = ""
    behaviour: str = "quote"
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def reset(self, behaviour: str = "quote") -> Peer:
        self.behaviour = behaviour
        self.asked.clear()
        self.headers.clear()
        self.gone.clear()
        return self

    @property
    def prompt(self) -> str:
        """All messages of the last request as one text."""
        return "\n".join(message["content"] for message in self.asked[-1]["messages"])


def answer_of(messages: list[dict[str, str]]) -> str:
    """What the model says to these messages."""
    if messages[0]["content"].startswith("You are given a conversation"):
        users = [one["content"] for one in messages if one["role"] == "user"]
        return " ".join(users)
    if asked_for := re.search(r"<passage>\n(.*)\n</passage>", messages[-1]["content"], re.DOTALL):
        words = re.findall(r"\w{4,}", asked_for[1].rpartition("\n\n")[2].lower())
        return f"What about {' '.join(words[:6])}?"
    tag = re.search(r"<(source-[0-9a-f]{16}) n=", messages[0]["content"])
    assert tag is not None, "the rules name the tag"
    data = messages[-1]["content"]
    sources = re.findall(rf'<{tag[1]} n="(\d+)">\n(.*?)\n</{tag[1]}>', data, re.DOTALL)
    question = data.rpartition("Question: ")[2]
    words = set(re.findall(r"\w{4,}", question.lower()))
    n, body = max(sources, key=lambda one: len(words & set(re.findall(r"\w{4,}", one[1].lower()))))
    text = "\n".join(
        line for line in body.split("\n") if not line.startswith(("title: ", "source: "))
    )
    first = re.split(r"(?<=[.])\s", text)[0].rstrip(".")
    return f"{first} [{n}]."


@contextmanager
def language_model_peer() -> Iterator[Peer]:
    """Serve it; yields the peer with the base URL in `url`."""
    peer = Peer()
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        peer.asked.append(body)
        peer.headers.append(dict(request.headers))
        kind, _, argument = peer.behaviour.partition(":")
        if kind == "status":
            key = request.headers.get("authorization", "")
            said = {"error": {"message": f"refused {key}"}}
            return JSONResponse(said, int(argument), headers=AT_ONCE)
        if kind == "flaky" and len(peer.asked) == 1:
            return JSONResponse({"error": {"message": "warming up"}}, 503, headers=AT_ONCE)
        if kind == "unread":
            return Response("<html>hello</html>", media_type="text/html")
        if kind == "new_limit" and "max_tokens" in body:
            reason = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return JSONResponse({"error": {"message": reason, "param": "max_tokens"}}, 400)
        if kind == "silent":
            await _disconnected(request)
            peer.gone.set()
            return Response()
        text = argument if kind == "say" else answer_of(body["messages"])
        return StreamingResponse(_events(peer, kind, text, body), media_type="text/event-stream")

    with running(app) as url:
        peer.url = f"{url.rstrip('/')}/v1"
        yield peer


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(peer: Peer, kind: str, text: str, body: dict[str, Any]) -> AsyncIterator[str]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _line(body, {"choices": [choice]})

    if kind == "empty":
        text = ""
    # three characters at a time, so that "[1]" comes in pieces
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    for at, piece in enumerate(pieces):
        if at == 2 and kind == "stall":
            try:
                await asyncio.Event().wait()
            finally:
                peer.gone.set()
        if at == 2 and kind == "break":
            raise ConnectionResetError("breaks off, as it was told to")
        if at == 2 and kind == "error_event":
            yield 'data: {"error": {"message": "out of memory"}}\n\n'
            return
        yield chunk({"content": piece})
    if kind != "no_finish":
        yield chunk({}, "length" if kind == "long" else "stop")
    usage = {"prompt_tokens": 321, "completion_tokens": 12, "total_tokens": 333}
    yield _line(body, {"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _line(body: dict[str, Any], more: dict[str, Any]) -> str:
    head = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    return f"data: {json.dumps({**head, **more})}\n\n"
