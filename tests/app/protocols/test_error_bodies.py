"""Every error has the form of the address that was asked, the right status and its headers."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from app.errors import Forbidden, NotHere, Overloaded, Stopping, Unauthorized
from app.protocols.errors import NATIVE, ErrorForm, answer, form_of, install
from app.protocols.openapi_responses import ErrorBody
from app.protocols.requests import ClientGone
from app.server.app import ERROR_FORMS
from retrieval.errors import CollectionNotFound, RetrievalError, StoreFault

MISSING = CollectionNotFound("there is no collection 'x'", fix="Check the name.")


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(min_length=2)
    number: int = 0


def app() -> FastAPI:
    made = FastAPI()
    install(made)

    @made.post("/v1/echo")
    async def echo(body: Body) -> Body:
        return body

    @made.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    @made.get("/v1/gone")
    async def gone() -> None:
        raise ClientGone

    @made.get("/v1/missing")
    async def missing() -> None:
        raise MISSING

    return made


def ask(method: str, path: str, **options: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(call())


def answered(path: str, error: RetrievalError) -> Response:
    """The answer at an address of the whole service."""
    return answer(error, "r", form_of(path, ERROR_FORMS))


def detail(response: httpx.Response) -> dict[str, Any]:
    ErrorBody.model_validate(response.json())
    found: dict[str, Any] = response.json()["error"]
    return found


def sent(content: bytes | str, media: str = "application/json") -> httpx.Response:
    return ask("POST", "/v1/echo", content=content, headers={"content-type": media})


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (MISSING, 404, "not_found_error", "collection_not_found"),
        (NotHere("no job", fix="Look.", what="job"), 404, "not_found_error", "job_not_found"),
        (Forbidden("no", fix="Ask."), 403, "permission_error", "forbidden"),
        (StoreFault("broken", fix="Restart."), 503, "server_error", "store_fault"),
        (Stopping("it ends", fix="Wait."), 503, "server_error", "stopping"),
    ],
)
def test_the_native_body(error: RetrievalError, status: int, kind: str, code: str) -> None:
    response = answer(error, "req-1", NATIVE)
    assert response.status_code == status
    assert json.loads(bytes(response.body))["error"] == {
        "message": str(error),
        "type": kind,
        "param": None,
        "code": code,
        "problem": error.problem,
        "fix": error.fix,
        "request_id": "req-1",
    }


@pytest.mark.parametrize(("seconds", "header"), [(0.01, "1"), (2.1, "3"), (60.0, "60")])
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float, header: str) -> None:
    full = Overloaded("full", fix="Wait.", retry_after_s=seconds)
    for path in ("/v1/search", "/v2/rerank", "/rerank", "/retrieval"):
        response = answered(path, full)
        assert response.status_code == 429
        assert response.headers["retry-after"] == header


def test_a_store_that_asks_to_wait_says_so_in_every_form() -> None:
    later = StoreFault("the store limits requests", fix="Wait.", retry_after_s=19.2)
    for path in ("/v1/search", "/v2/rerank", "/rerank", "/retrieval"):
        response = answered(path, later)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "20"
        gone = answered(path, StoreFault("broken", fix="Restart."))
        assert "retry-after" not in gone.headers


def test_other_protocols_have_their_own_forms() -> None:
    cohere = json.loads(bytes(answered("/v2/rerank", MISSING).body))
    assert isinstance(cohere["message"], str)
    for path in ("/embed", "/rerank", "/info"):
        tei = json.loads(bytes(answered(path, MISSING).body))
        assert isinstance(tei["error"], str)
        assert "error_type" in tei
    unknown = Unauthorized("an unknown key", fix="Check it.", reason="unknown")
    dify = answered("/retrieval", unknown)
    assert dify.status_code == 403
    assert json.loads(bytes(dify.body))["error_code"] == 1002


@pytest.mark.parametrize(
    ("path", "covered"),
    [("/a/", True), ("/a/b", True), ("/a", False), ("/b", True), ("/b/c", False), ("/bc", False)],
)
def test_a_form_covers_addresses_and_those_below_a_slash(path: str, covered: bool) -> None:
    assert ErrorForm(("/a/", "/b"), lambda error, request_id: {}).covers(path) is covered


def test_unauthorized_says_how() -> None:
    error = Unauthorized("no key", fix="Send one.", reason="missing")
    assert answered("/v1/search", error).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid_input"),
        (b"{", 400, "bad_request"),
        (b"\xff\xfe{", 400, "bad_request"),
        (b"[" * 100_000, 400, "bad_request"),
        (b'{"text": "abc", "number": ' + b"9" * 10_000 + b"}", 400, "bad_request"),
        (b"[1, 2]", 422, "invalid_input"),
        (b'{"text": "\\ud800 lone"}', 422, "invalid_input"),
        (b'{"text": "abc", "\\ud800": 2}', 422, "invalid_input"),
        (b'{"text": NaN}', 422, "invalid_input"),
        (b'{"text": "abc", "number": Infinity}', 422, "invalid_input"),
        (b'{"text": "abc", "number": "1"}', 422, "invalid_input"),
    ],
)
def test_bodies_that_cannot_be_used(content: bytes, status: int, code: str) -> None:
    response = sent(content)
    assert (response.status_code, detail(response)["code"]) == (status, code)


def test_the_field_at_fault_is_named() -> None:
    response = sent(b'{"text": "a", "other": 1}')
    assert response.status_code == 422
    found = detail(response)
    assert found["param"] == "text"
    assert "at least 2 characters" in found["problem"]
    assert "no field 'other'" in found["problem"]


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(media: str) -> None:
    response = sent(b'{"text": "abc"}', media)
    assert response.status_code == 415
    assert detail(response)["code"] == "unsupported_media_type"


def test_json_under_other_names_is_read() -> None:
    for media in ("application/json; charset=utf-8", "application/merge-patch+json"):
        assert sent(b'{"text": "abc"}', media).status_code == 200


def test_a_fault_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = ask("GET", "/v1/broken")
    assert response.status_code == 500
    found = detail(response)
    assert found["code"] == "internal"
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text
    assert found["request_id"] in caplog.text


def test_unknown_addresses_and_methods() -> None:
    missing = ask("GET", "/v1/nothing/here")
    assert (missing.status_code, detail(missing)["code"]) == (404, "address_not_found")
    other = ask("DELETE", "/v1/echo")
    assert (other.status_code, detail(other)["code"]) == (405, "method_not_allowed")
    assert other.headers["allow"] == "POST"
    assert ask("GET", "/v1/missing").status_code == 404


def test_nobody_is_answered_who_has_gone() -> None:
    response = ask("GET", "/v1/gone")
    assert (response.status_code, response.content) == (499, b"")


def test_what_utf8_cannot_hold_is_written_out() -> None:
    error = CollectionNotFound("no '\udcff'", fix="Check.")
    for path in ("/v1/search", "/v2/rerank", "/embed", "/retrieval"):
        assert b"\\\\udcff" in bytes(answered(path, error).body)
