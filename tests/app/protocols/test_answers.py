"""Answers over a real service, with the real `openai` client on both sides of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from language_model_peer import Peer, language_model_peer
from service_help import DOCUMENTS, make_settings, running

import retrieval
from app.answering.answer import Answering
from app.answering.llm_client import language_model
from app.backend.backend import Backend
from app.observability.metrics import Metrics
from app.protocols import errors
from app.protocols.native import answer
from app.protocols.openai import chat

KEY = "sk-of-the-endpoint"
QUESTION = "How long are copies of the database kept?"


@dataclass
class Store:
    folder: Path
    backend: Backend
    metrics: Metrics


@dataclass
class Served:
    url: str
    peer: Peer
    metrics: Metrics

    def post(self, path: str = "/v1/answer", **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=30)

    def events(self, **body: Any) -> list[tuple[str, Any]]:
        return read_events(self.post(**body, stream=True).text)


def read_events(text: str) -> list[tuple[str, Any]]:
    found = re.findall(r"(?:event: (\w+)\n)?data: (.*)\n\n", text)
    return [(name, data if data == "[DONE]" else json.loads(data)) for name, data in found]


@contextmanager
def answering(store: Store, peer: Peer | None, **options: Any) -> Iterator[Served]:
    """The routes over the store that all tests share, with settings of their own."""
    settings = make_settings(store.folder, **options)
    app = FastAPI()
    errors.install(app)
    model = language_model(settings, observer=store.metrics)
    writer = Answering(store.backend, settings, model)
    app.include_router(answer.router(writer))
    app.include_router(chat.router(writer))
    with running(app) as url:
        yield Served(url.rstrip("/"), peer or Peer(), store.metrics)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with language_model_peer() as peer:
        yield peer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder, metrics = tmp_path_factory.mktemp("service"), Metrics()
    settings = make_settings(folder)
    retrieval.ingest(
        DOCUMENTS, settings.collection, store=settings.store, encoder="all-MiniLM-L6-v2"
    )
    backend = Backend(settings, observer=metrics)
    try:
        backend.open()
        yield Store(folder, backend, metrics)
    finally:
        backend.close()


@pytest.fixture(scope="module")
def served(peer: Peer, store: Store) -> Iterator[Served]:
    options = {"llm_url": peer.url, "llm_model": "quoter", "llm_key": KEY, "llm_timeout_s": 4}
    with answering(store, peer, **options) as service:
        yield service


@pytest.fixture
def service(served: Served) -> Served:
    served.peer.reset()
    return served


@pytest.fixture
def client(service: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_the_answer_cites_passages_by_their_place(service: Served) -> None:
    got = service.post(question=QUESTION).json()
    text = DOCUMENTS[2].text
    (citation,) = got["citations"]
    assert got["answer"] == (
        f"Copies of the database are made every night and kept for thirty days [{citation['n']}]."
    )
    assert got["found"]
    assert citation["document_id"] == "backups"
    assert citation["source"] == "office/backups.md"
    assert text[citation["start"] : citation["end"]] == citation["text"] == text
    (mark,) = citation["marks"]
    assert got["answer"][mark["start"] : mark["end"]] == f"[{citation['n']}]"
    assert 0 <= citation["relevance"] <= 1
    assert got["passages"][0]["document_id"] == "backups"
    assert got["model"] == "quoter"
    assert got["usage"] == {"prompt_tokens": 321, "completion_tokens": 12, "total_tokens": 333}
    times = got["timings"]
    assert 0 < times["search_ms"] < times["total_ms"]
    assert 0 < times["first_token_ms"] <= times["language_model_ms"] < times["total_ms"]


def test_the_endpoint_is_asked_as_configured(service: Served) -> None:
    service.post(question=QUESTION, temperature=0.3, max_tokens=5000)
    asked, headers = service.peer.asked[-1], service.peer.headers[-1]
    assert asked["model"] == "quoter"
    assert asked["temperature"] == 0.3
    assert asked["max_tokens"] == 1024, "never more than the setting"
    assert [one["role"] for one in asked["messages"]] == ["system", "user"]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "openai-organization" not in headers


def test_what_is_searched_can_be_said(service: Served) -> None:
    got = service.post(question=QUESTION, where={"team": "kitchen"}, top_k=2).json()
    assert [one["document_id"] for one in got["passages"]] == ["lunch"]
    got = service.post(question=QUESTION, top_k=2).json()
    assert len(got["passages"]) == 2
    got = service.post(question=QUESTION, collection="elsewhere")
    assert got.status_code == 404
    assert got.json()["error"]["code"] == "collection_not_found"


def test_without_generation_come_the_passages_and_the_prompt(service: Served) -> None:
    got = service.post(question=QUESTION, generate=False).json()
    assert got["answer"] is None
    assert got["found"]
    assert got["passages"][0]["document_id"] == "backups"
    assert "kept for thirty days" in got["prompt"][-1]["content"]
    assert not service.peer.asked


def test_nothing_relevant_is_said_and_no_model_is_asked(service: Served) -> None:
    for request in (
        {"question": QUESTION, "where": {"team": "nobody"}},
        {"question": QUESTION, "min_relevance": 1.0},
    ):
        got = service.post(**request).json()
        assert got["answer"] == (
            "Nothing relevant to this question was found in the collection 'docs'."
        )
        assert (got["found"], got["citations"], got["model"]) == (False, [], None)
    assert not service.peer.asked


def test_the_configured_least_relevance_counts_where_the_request_has_none(
    store: Store, peer: Peer
) -> None:
    peer.reset()
    options = {"llm_url": peer.url, "llm_model": "quoter", "answer_min_relevance": 1.0}
    with answering(store, peer, **options) as service:
        assert not service.post(question=QUESTION).json()["found"]
        assert service.post(question=QUESTION, min_relevance=0).json()["found"]
        assert "authorization" not in peer.headers[-1], "no key, no header"


def test_without_a_language_model(store: Store) -> None:
    with answering(store, None) as service:
        for path, body in (
            ("/v1/answer", {"question": QUESTION}),
            ("/v1/answer", {"question": QUESTION, "stream": True}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}]}),
        ):
            got = service.post(path, **body)
            assert got.status_code == 501
            error = got.json()["error"]
            assert error["code"] == "no_language_model"
            assert "RETRIEVAL_LLM_URL" in error["fix"]
        got = service.post(question=QUESTION, generate=False)
        assert got.status_code == 200
        assert got.json()["prompt"]


def test_streamed_events_come_in_order_and_add_up(service: Served) -> None:
    events = service.events(question=QUESTION)
    names = [name for name, _ in events]
    deltas = [data["text"] for name, data in events if name == "delta"]
    assert names == ["passages", *["delta"] * len(deltas), "citations", "done"]
    assert len(deltas) > 5
    assert events[0][1]["passages"][0]["document_id"] == "backups"
    done = events[-1][1]
    assert "".join(deltas) == done["answer"]
    assert [one["document_id"] for one in events[-2][1]["citations"]] == ["backups"]
    assert done["citations"] == events[-2][1]["citations"]
    assert done["usage"]["total_tokens"] == 333


def test_citations_that_do_not_exist_are_told_and_not_returned(service: Served) -> None:
    service.peer.reset("say:Thirty days [1], as the law says [77].")
    got = service.post(question=QUESTION).json()
    assert [one["n"] for one in got["citations"]] == [1]
    assert any("[77]" in notice for notice in got["notices"])
    service.peer.reset("say:I think so.")
    got = service.post(question=QUESTION).json()
    assert not got["citations"]
    assert any("cites no source" in notice for notice in got["notices"])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refused the service's key"),
        (404, "llm_model"),
        (400, "refused the request"),
        (429, "is overloaded"),
        (500, "failed (HTTP 500"),
    ],
)
def test_what_the_endpoint_refuses_is_told_without_its_key(
    service: Served, status: int, words: str
) -> None:
    service.peer.reset(f"status:{status}")
    chat = {"messages": [{"role": "user", "content": QUESTION}]}
    for path, body in (
        ("/v1/answer", {"question": QUESTION}),
        ("/v1/chat/completions", {**chat, "stream": True}),
    ):
        got = service.post(path, **body)
        assert got.status_code == 502
        error = got.json()["error"]
        assert error["code"] == "language_model_fault"
        assert words in error["message"]
        assert KEY not in got.text
    (name, last) = service.events(question=QUESTION)[-1]
    assert (name, last["error"]["code"]) == ("error", "language_model_fault")


def test_a_passing_fault_is_tried_again(service: Served) -> None:
    service.peer.reset("flaky")
    assert service.post(question=QUESTION).json()["citations"]
    assert len(service.peer.asked) == 2


def test_the_other_name_of_the_limit_is_found(service: Served) -> None:
    service.peer.reset("new_limit")
    try:
        assert service.post(question=QUESTION).json()["citations"]
        assert service.peer.asked[-1]["max_completion_tokens"] == 1024
        assert service.post(question=QUESTION).json()["citations"]
        assert len(service.peer.asked) == 3, "the name is remembered"
    finally:
        service.peer.reset()


@pytest.mark.parametrize("behaviour", ["break", "error_event", "empty", "unread"])
def test_an_endpoint_that_fails_midway(service: Served, behaviour: str) -> None:
    service.peer.reset(behaviour)
    got = service.post(question=QUESTION)
    assert (got.status_code, got.json()["error"]["code"]) == (502, "language_model_fault")
    events = service.events(question=QUESTION)
    assert [name for name, _ in events if name != "delta"] == ["passages", "error"]
    assert events[-1][1]["error"]["code"] == "language_model_fault"


def test_an_answer_that_is_not_whole_says_so(service: Served) -> None:
    service.peer.reset("long")
    got = service.post(question=QUESTION).json()
    assert got["finish_reason"] == "length"
    assert any("cut off" in notice for notice in got["notices"])
    service.peer.reset("no_finish")
    got = service.post(question=QUESTION).json()
    assert got["finish_reason"] is None
    assert any("may be incomplete" in notice for notice in got["notices"])


def test_an_endpoint_that_does_not_answer_in_time(store: Store, peer: Peer) -> None:
    options = {"llm_url": peer.url, "llm_model": "quoter", "llm_timeout_s": 0.4}
    with answering(store, peer, **options) as service:
        for behaviour in ("silent", "stall"):
            peer.reset(behaviour)
            started = time.monotonic()
            got = service.post(question=QUESTION)
            assert time.monotonic() - started < 3
            assert got.status_code == 502
            assert "within 0.4 seconds" in got.json()["error"]["message"]
            assert peer.gone.wait(5), "the connection was closed"


def test_nobody_listens_at_the_endpoint(store: Store) -> None:
    options = {"llm_url": "http://u:geheim@127.0.0.1:9/v1", "llm_model": "quoter"}
    with answering(store, None, **options) as service:
        got = service.post(question=QUESTION)
        assert got.status_code == 502
        assert "127.0.0.1:9" in got.json()["error"]["message"]
        assert "geheim" not in got.text


@pytest.mark.parametrize("path", ["/v1/answer", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
def test_the_endpoint_stops_writing_when_the_client_has_gone(
    service: Served, path: str, stream: bool
) -> None:
    service.peer.reset("stall")
    body = {"question": QUESTION, "messages": [{"role": "user", "content": QUESTION}]}
    body.pop("messages" if path == "/v1/answer" else "question")
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}{path}", json={**body, "stream": stream}, timeout=0.8)
    assert service.peer.gone.wait(2), "the connection to the endpoint was closed"
    assert time.monotonic() - started < 3.5, "before the answer's own time was over"


def test_the_time_of_the_language_model_is_observed(service: Served) -> None:
    service.post(question=QUESTION)
    assert 'stage="language_model"' in service.metrics.render().decode()


def test_bad_requests(service: Served) -> None:
    for body in (
        {},
        {"question": ""},
        {"question": "a\0b"},
        {"question": "a", "top_k": 0},
        {"question": "a", "unknown": 1},
        {"question": "a", "min_relevance": 2},
    ):
        assert service.post(**body).status_code == 422, body
    surrogate = httpx.post(
        f"{service.url}/v1/answer",
        content=b'{"question": "\\ud800"}',
        headers={"content-type": "application/json"},
    )
    assert 400 <= surrogate.status_code < 500
    assert not service.peer.asked


def test_the_openai_client_chats(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": QUESTION}]
    )
    choice = got.choices[0]
    assert choice.finish_reason == "stop"
    assert "thirty days [" in (choice.message.content or "")
    (citation,) = choice.message.model_extra["citations"]  # type: ignore[index]
    assert citation["document_id"] == "backups"
    assert got.usage is not None
    assert got.usage.total_tokens == 333
    assert got.model == "quoter"
    assert got.model_extra["retrieval"]["query"] == QUESTION  # type: ignore[index]


def test_the_openai_client_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="quoter",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"retrieval": {"where": {"team": "it"}, "top_k": 1}},
    )
    chunks = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert "thirty days [1]." in text
    assert chunks[0].choices[0].delta.role == "assistant"
    last = chunks[-2]
    assert last.choices[0].finish_reason == "stop"
    extra = last.choices[0].delta.model_extra or {}
    assert [one["document_id"] for one in extra["citations"]] == ["backups"]
    assert len((last.model_extra or {})["retrieval"]["passages"]) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 333


def test_the_openai_client_reads_our_errors(client: openai.OpenAI, service: Served) -> None:
    ask: Any = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="'quoter'"):
        ask(model="gpt-x", messages=[{"role": "user", "content": "a"}])
    for wrong in (
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": "a"}], "n": 2},
        {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]},
        {
            "messages": [{"role": "user", "content": "a"}],
            "response_format": {"type": "json_object"},
        },
    ):
        with pytest.raises(openai.BadRequestError):
            ask(model="default", **wrong)
    assert not service.peer.asked
    service.peer.reset("break")
    with pytest.raises(openai.APIError, match="connection"):
        list(ask(model="", messages=[{"role": "user", "content": QUESTION}], stream=True))


def test_earlier_messages_reach_the_model_and_not_the_search(
    client: openai.OpenAI, service: Served
) -> None:
    messages: Any = [
        {"role": "system", "content": "Answer like a pirate."},
        {"role": "user", "content": "What is served in the canteen?"},
        {"role": "assistant", "content": "Soup and bread [1]."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    got = client.chat.completions.create(model="default", messages=messages)
    sent = service.peer.asked[-1]["messages"]
    assert [one["role"] for one in sent] == ["system", "user", "assistant", "user"]
    assert "Answer like a pirate." in sent[0]["content"]
    assert sent[2]["content"] == "Soup and bread .", "its numbers are those of other sources"
    assert (got.model_extra or {})["retrieval"]["query"] == QUESTION


def test_the_question_is_condensed_on_request(client: openai.OpenAI, service: Served) -> None:
    messages: Any = [
        {"role": "user", "content": "What is served in the canteen?"},
        {"role": "assistant", "content": "Soup and bread."},
        {"role": "user", "content": "And on Fridays?"},
    ]
    got = client.chat.completions.create(
        model="default", messages=messages, extra_body={"retrieval": {"condense": True}}
    )
    told = (got.model_extra or {})["retrieval"]
    assert told["query"] == "What is served in the canteen? And on Fridays?"
    assert len(service.peer.asked) == 2
    assert told["passages"][0]["document_id"] == "lunch"
    got = client.chat.completions.create(
        model="default", messages=messages, extra_body={"retrieval": {"query": "lost password"}}
    )
    told = (got.model_extra or {})["retrieval"]
    assert told["passages"][0]["document_id"] == "passwords"


def test_nothing_found_in_a_chat(client: openai.OpenAI, service: Served) -> None:
    extra = {"retrieval": {"where": {"team": "nobody"}}}
    messages: Any = [{"role": "user", "content": QUESTION}]
    got = client.chat.completions.create(model="default", messages=messages, extra_body=extra)
    assert "Nothing relevant" in (got.choices[0].message.content or "")
    chunks = list(
        client.chat.completions.create(
            model="default", messages=messages, extra_body=extra, stream=True
        )
    )
    assert "Nothing relevant" in "".join(one.choices[0].delta.content or "" for one in chunks)
    assert not service.peer.asked
