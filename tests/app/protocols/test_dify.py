"""Dify's External Knowledge API: requests as Dify sends them, against the whole service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from protocol_service import QUESTION, instructed_service
from service_help import DOCUMENTS, Service

import retrieval
from app.errors import Forbidden, NotHere, Overloaded, Unauthorized
from app.protocols.dify import routes
from app.security import api_keys
from app.security.api_keys import KeyRing
from retrieval.errors import CollectionNotFound, InvalidFilter, StoreFault

ROWS = 60


def rows() -> list[retrieval.Document]:
    """Documents of which every tenth has a code that ends with -x, and those are the worst ones."""
    return [
        retrieval.Document(
            id=f"row{at:02}",
            text=f"The soup number {at} is served with bread."
            if at % 10 == 0
            else f"Travel costs number {at} are paid back to travellers.",
            metadata={"code": f"{at:02}-{'x' if at % 10 == 0 else 'y'}", "at": at},
        )
        for at in range(ROWS)
    ]


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder: retrieval.BiEncoder
) -> Iterator[Service]:
    bare = retrieval.Document(id="bare", text="A text without anything beside it.")
    hidden = retrieval.Document(
        id="collides", text="Its metadata.", metadata={"source": "own", "none": None}
    )
    collections = {"docs": [*DOCUMENTS, bare], "rows": rows(), "third": [hidden]}
    with instructed_service(tmp_path_factory.mktemp("dify"), encoder, collections) as running:
        yield running


def ask(
    service: Service,
    query: str = QUESTION,
    *,
    knowledge_id: str = "docs",
    top_k: int | None = 5,
    score_threshold: float | None = 0.0,
    metadata_condition: Any = None,
) -> httpx.Response:
    """As `ExternalDatasetService.fetch_external_knowledge_retrieval` of Dify does."""
    params = {
        "retrieval_setting": {"top_k": top_k, "score_threshold": score_threshold},
        "query": query,
        "knowledge_id": knowledge_id,
        "metadata_condition": metadata_condition,
    }
    return httpx.post(
        f"{service.url}/retrieval",
        content=json.dumps(params),
        headers={"Content-Type": "application/json", "Authorization": "Bearer some-key"},
        follow_redirects=True,
    )


def records(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["records"]
    return found


def ids(response: httpx.Response) -> list[str]:
    return [record["metadata"]["document_id"] for record in records(response)]


def conditions(*parts: tuple[Any, str, Any], by: str | None = "and") -> dict[str, Any]:
    return {
        "logical_operator": by,
        "conditions": [
            {"name": name, "comparison_operator": asked, "value": value}
            for name, asked, value in parts
        ],
    }


# --- what Dify relies on


def test_registration_sends_no_body(service: Service) -> None:
    response = httpx.post(f"{service.url}/retrieval", headers={"Authorization": "Bearer some-key"})
    assert response.status_code == 200
    assert response.json()["records"] == []


def test_a_retrieval(service: Service) -> None:
    found = records(ask(service, top_k=3))
    assert len(found) == 3
    first = found[0]
    assert first["title"] == "Expenses"
    assert first["content"] == DOCUMENTS[0].text
    assert first["metadata"]["source"] == "office/expenses.md"
    assert first["metadata"]["team"] == "finance"
    assert first["metadata"]["tags"] == ["money", "travel"]
    scores = [record["score"] for record in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)


def test_nothing_is_ever_null(service: Service) -> None:
    for knowledge_id in ("docs", "third", "rows"):
        for record in records(ask(service, knowledge_id=knowledge_id, top_k=100)):
            assert isinstance(record["title"], str)
            assert record["title"]
            assert isinstance(record["content"], str)
            assert isinstance(record["metadata"], dict)
    own = records(ask(service, knowledge_id="third"))[0]["metadata"]
    assert own["source"] == "own"
    assert own["document_id"] == "collides"


def test_the_threshold_is_on_the_score(service: Service) -> None:
    whole = records(ask(service))
    middle = (whole[0]["score"] + whole[-1]["score"]) / 2
    cut = records(ask(service, score_threshold=middle))
    assert 0 < len(cut) < len(whole)
    assert [one["content"] for one in cut] == [one["content"] for one in whole[: len(cut)]]
    assert cut[-1]["score"] >= middle > whole[len(cut)]["score"]


def test_settings_may_be_null_or_missing(service: Service) -> None:
    assert len(records(ask(service, top_k=None, score_threshold=None))) == 5
    response = httpx.post(
        f"{service.url}/retrieval", json={"knowledge_id": "docs", "query": QUESTION}
    )
    assert len(records(response)) == 5
    for nothing in ({}, {"logical_operator": None, "conditions": None}, conditions()):
        assert len(records(ask(service, metadata_condition=nothing))) == 5


def test_no_such_knowledge(service: Service) -> None:
    for condition in (
        None,
        conditions(("team", "contains", "i")),
        conditions(("team", "in", [])),
    ):
        response = ask(service, knowledge_id="nowhere", metadata_condition=condition)
        assert response.status_code == 404
        assert response.json()["error_code"] == 2001
        assert "nowhere" in response.json()["error_msg"]


def condition_body(condition: bytes) -> bytes:
    return b'"query": "x", "metadata_condition": {"conditions": [%s]}' % condition


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b'"query": ""',
        b'"query": "  "',
        b'"query": "\\ud800"',
        b'"query": "a\\u0000b"',
        b'"query": "x", "knowledge_id": ""',
        b'"query": "x", "knowledge_id": "a\\u0000b"',
        b'"query": "x", "knowledge_id": "../../etc"',
        b'"query": "x", "retrieval_setting": {"top_k": 0}',
        b'"query": "x", "retrieval_setting": {"top_k": 201}',
        b'"query": "x", "retrieval_setting": {"score_threshold": 2}',
        b'"query": "x", "retrieval_setting": {"score_threshold": NaN}',
        b'"query": "x", "metadata_condition": {"logical_operator": "xor", "conditions": []}',
        condition_body(b"{}"),
        condition_body(b'{"name": "a", "comparison_operator": "like", "value": "x"}'),
        condition_body(b'{"name": "a", "comparison_operator": ">", "value": Infinity}'),
        condition_body(b'{"name": "\\ud800", "comparison_operator": "is", "value": "x"}'),
        condition_body(b'{"name": "year", "comparison_operator": "=", "value": %s}' % (b"9" * 400)),
        condition_body(
            b'{"name": "y", "comparison_operator": "is", "value": "%s"}' % (b"0" * 8193)
        ),
        condition_body(
            b'{"name": "year", "comparison_operator": "is", "value": "%s"}, '
            b'{"name": "year", "comparison_operator": ">", "value": "%s"}' % ((b"9" * 5000,) * 2)
        ),
    ],
)
def test_wrong_fields_are_the_clients_fault(service: Service, fields: bytes) -> None:
    check_refused(service, b'{"knowledge_id": "docs", %s}' % fields)


@pytest.mark.parametrize("body", [b"{}", b"7", b"["])
def test_malformed_bodies_are_the_clients_fault(service: Service, body: bytes) -> None:
    check_refused(service, body)


def check_refused(service: Service, body: bytes) -> None:
    response = httpx.post(
        f"{service.url}/retrieval", content=body, headers={"content-type": "application/json"}
    )
    assert 400 <= response.status_code < 500, response.text
    assert response.json()["error_msg"]
    assert isinstance(response.json()["error_code"], int)


# --- metadata conditions


@pytest.mark.parametrize(
    ("name", "asked", "value", "expected"),
    [
        ("team", "is", "it", {"passwords", "backups"}),
        ("team", "is not", "it", {"expenses", "lunch", "bare"}),
        ("team", "in", ["it", "kitchen"], {"passwords", "backups", "lunch"}),
        ("team", "in", "it, kitchen", {"passwords", "backups", "lunch"}),
        ("team", "not in", ["it", "kitchen"], {"expenses", "bare"}),
        ("team", "in", [], set()),
        ("team", "empty", None, {"bare"}),
        ("team", "not empty", None, {"expenses", "passwords", "backups", "lunch"}),
        ("team", "contains", "it", {"passwords", "backups", "lunch"}),
        ("team", "not contains", "it", {"expenses", "bare"}),
        ("team", "start with", "it", {"passwords", "backups"}),
        ("team", "end with", "en", {"lunch"}),
        ("tags", "contains", "rav", {"expenses"}),
        ("tags", "is", "travel", {"expenses"}),
        (["tags", "team"], "contains", "e", {"expenses", "lunch"}),
        (["tags", "team"], "not contains", "e", {"passwords", "backups", "bare"}),
        (["tags", "team"], "empty", None, {"bare", "passwords", "backups", "lunch"}),
        ("year", "=", 2024, {"expenses", "lunch"}),
        ("year", "=", "2024", {"expenses", "lunch"}),
        ("year", "≠", "2024", {"passwords", "backups", "bare"}),
        ("year", ">", 2024, {"backups"}),
        ("year", "<", "2024", {"passwords"}),
        ("year", "≥", 2024, {"expenses", "backups", "lunch"}),
        ("year", "≤", 2023.5, {"passwords"}),
        ("year", "after", 2024, {"backups"}),
        ("year", "before", 2024, {"passwords"}),
        ("year", "start with", "202", {"expenses", "passwords", "backups", "lunch"}),
        ("nested.level", "=", 3, {"backups"}),
        ("nested.level", "contains", 3, {"backups"}),
        ("title", "contains", "word", {"passwords"}),
        ("source", "end with", "lunch.md", {"lunch"}),
    ],
)
def test_operators(service: Service, name: Any, asked: str, value: Any, expected: set[str]) -> None:
    response = ask(service, metadata_condition=conditions((name, asked, value)))
    found = ids(response)
    assert set(found) == expected
    assert len(found) == len(set(found))
    scores = [record["score"] for record in records(response)]
    assert scores == sorted(scores, reverse=True)


def test_and_or(service: Service) -> None:
    contains, later = ("team", "contains", "it"), ("year", ">", 2024)
    for by, expected in [
        ("and", {"backups"}),
        (None, {"backups"}),
        ("or", {"passwords", "backups", "lunch"}),
    ]:
        found = ids(ask(service, metadata_condition=conditions(contains, later, by=by)))
        assert set(found) == expected


def test_filtered_results_are_those_of_the_search_over_what_is_left(service: Service) -> None:
    """`start with` through the checks in Python, against the same set by a filter of the index."""
    checked = records(ask(service, metadata_condition=conditions(("team", "start with", "it"))))
    filtered = records(ask(service, metadata_condition=conditions(("team", "is", "it"))))
    assert [one["content"] for one in checked] == [one["content"] for one in filtered]
    assert [one["score"] for one in checked] == pytest.approx(
        [one["score"] for one in filtered], abs=2e-3
    )


EXACT = conditions(("code", "end with", "-x"))


def test_the_first_stage_goes_deeper_until_there_are_enough(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths: list[int] = []
    search = service.backend.search

    async def counted(*args: Any, **options: Any) -> Any:
        if options.get("rerank") is False:
            depths.append(options["top_k"])
        return await search(*args, **options)

    monkeypatch.setattr(service.backend, "search", counted)
    monkeypatch.setattr(routes, "DEPTHS", (5, 20, 500))
    wanted = {f"row{at:02}" for at in range(0, ROWS, 10)}
    response = ask(service, knowledge_id="rows", top_k=10, metadata_condition=EXACT)
    assert set(ids(response)) == wanted
    assert depths == [5, 20, 500]
    assert response.json()["notices"] == []

    depths.clear()
    monkeypatch.setattr(routes, "CANDIDATES", 1)
    response = ask(
        service,
        "soup with bread",
        knowledge_id="rows",
        top_k=2,
        metadata_condition=EXACT,
    )
    assert len(ids(response)) == 2
    assert depths == [5], "the best five hold enough"


def test_the_bound_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "DEPTHS", (5, 20))
    response = ask(service, knowledge_id="rows", top_k=10, metadata_condition=EXACT)
    assert set(ids(response)) <= {f"row{at:02}" for at in range(0, ROWS, 10)}
    assert any("20 best candidates" in notice for notice in response.json()["notices"])


def test_nothing_fulfils_the_conditions(service: Service) -> None:
    for condition in (
        conditions(("code", "contains", "nothing like it")),
        conditions(("code", "is", "nothing like it")),
        conditions(("code", "in", [])),
    ):
        assert ids(ask(service, knowledge_id="rows", metadata_condition=condition)) == []


# --- errors


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (Unauthorized("p", fix="f", reason="missing"), 1001, 403),
        (Unauthorized("p", fix="f", reason="malformed"), 1001, 403),
        (Unauthorized("p", fix="f", reason="unknown"), 1002, 403),
        (Forbidden("p", fix="f"), 1002, 403),
        (CollectionNotFound("p", fix="f"), 2001, 404),
        (NotHere("p", fix="f", what="model"), 404, 404),
        (InvalidFilter("p", fix="f"), 422, 422),
        (Overloaded("p", fix="f", retry_after_s=1), 429, 429),
        (StoreFault("p", fix="f"), 503, 503),
    ],
)
def test_error_codes(error: Any, code: int, status: int) -> None:
    assert routes.error_body(error, "r-1") == {
        "error_code": code,
        "error_msg": "p. f",
        "request_id": "r-1",
    }
    assert routes.error_status(error) == status


def test_keys(tmp_path: Path, encoder: retrieval.BiEncoder) -> None:
    path = tmp_path / "keys.toml"
    token = api_keys.create(path, "dify", collections=["docs"])[0]
    collections = {"docs": DOCUMENTS[:2], "secret": DOCUMENTS[2:]}
    body = {"knowledge_id": "docs", "query": QUESTION}
    with instructed_service(
        tmp_path / "service", encoder, collections, keys=KeyRing.load(path), reranker="none"
    ) as service:

        def post(header: str | None, **more: Any) -> httpx.Response:
            headers = {} if header is None else {"Authorization": header}
            return httpx.post(f"{service.url}/retrieval", headers=headers, **more)

        for header, code in [
            (None, 1001),
            (token, 1001),
            (f"Basic {token}", 1001),
            ("Bearer", 1001),
            ("Bearer wrong", 1002),
            (f"Bearer {token}x", 1002),
        ]:
            for more in ({}, {"json": body}):
                response = post(header, **more)
                assert response.status_code == 403, (header, response.text)
                assert response.json()["error_code"] == code, (header, response.text)
                assert token not in response.text
        assert post(f"Bearer {token}").json()["records"] == []
        assert len(records(post(f"Bearer {token}", json=body))) == 2
        secret = post(f"Bearer {token}", json={**body, "knowledge_id": "secret"})
        assert (secret.status_code, secret.json()["error_code"]) == (404, 2001)
