"""Vector stores, through the `openai` package against the whole service with a real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from protocol_service import QUESTION, instructed_service
from service_help import DOCUMENTS, Service

import retrieval

STORES = ("docs", "empty-ish", "third", "fourth")
ALL = {"expenses", "passwords", "backups", "lunch", "bare"}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder: retrieval.BiEncoder
) -> Iterator[Service]:
    bare = retrieval.Document(id="bare", text="A text without anything beside it.")
    odd = retrieval.Document(
        id="odd",
        text="Odd metadata.",
        metadata={"none": None, "yes": True, "real": 2.5, "list": [1, "ü"], "and": "x"},
    )
    collections = {
        "docs": [*DOCUMENTS, bare],
        **{name: [odd] for name in STORES[1:]},
    }
    with instructed_service(tmp_path_factory.mktemp("stores"), encoder, collections) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def search(client: openai.OpenAI, **options: Any) -> Any:
    return client.vector_stores.search("docs", query=QUESTION, **options)


def found(client: openai.OpenAI, filters: Any, store: str = "docs") -> set[str]:
    page = client.vector_stores.search(store, query=QUESTION, filters=filters, max_num_results=50)
    return {result.file_id for result in page}


def post(service: Service, body: Any, store: str = "docs") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        f"{service.url}/v1/vector_stores/{store}/search",
        content=content,
        headers={"content-type": "application/json"},
    )


# --- search


def test_a_search(client: openai.OpenAI, service: Service) -> None:
    page = search(client, max_num_results=3)
    assert page.object == "vector_store.search_results.page"
    assert page.search_query == [QUESTION]
    assert page.has_more is False
    assert page.next_page is None
    assert len(page.data) == 3
    first = page.data[0]
    assert first.file_id == "expenses"
    assert first.filename == "office/expenses.md"
    assert first.content[0].type == "text"
    assert first.content[0].text == DOCUMENTS[0].text
    assert first.attributes == {
        "team": "finance",
        "year": 2024,
        "tags": '["money", "travel"]',
    }
    passage = first.passage
    assert DOCUMENTS[0].text[passage["start"] : passage["end"]] == first.content[0].text
    assert passage["title"] == "Expenses"
    assert passage["rank"] == 1
    scores = [result.score for result in page.data]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert page.models["encoder"]
    assert page.models["reranker"]


def test_scores_are_the_relevance_of_the_native_search(
    client: openai.OpenAI, service: Service
) -> None:
    from app.protocols.scores import unit_scores
    from app.types import Caller

    result = asyncio.run(service.backend.search(Caller(), [QUESTION], top_k=5))[0]
    page = search(client, max_num_results=5)
    assert [one.passage["id"] for one in page.data] == [hit.passage.id for hit in result.hits]
    assert [one.score for one in page.data] == pytest.approx(unit_scores(result.hits), abs=2e-3)
    relevance = [hit.relevance for hit in result.hits]
    assert [one.passage["relevance"] for one in page.data] == pytest.approx(relevance, abs=2e-3)


def test_without_the_reranker(client: openai.OpenAI) -> None:
    page = search(client, ranking_options={"ranker": "none"})
    assert page.models["reranker"] is None
    scores = [result.score for result in page.data]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert scores[0] > scores[-1]
    for name in ("auto", "default-2024-11-15", None):
        reranked = search(client, ranking_options={"ranker": name})
        assert reranked.models["reranker"] is not None


def test_a_threshold_cuts_the_end_off(client: openai.OpenAI) -> None:
    whole = search(client).data
    middle = (whole[0].score + whole[-1].score) / 2
    cut = search(client, ranking_options={"score_threshold": middle}).data
    assert 0 < len(cut) < len(whole)
    assert [one.file_id for one in cut] == [one.file_id for one in whole[: len(cut)]]
    assert cut[-1].score >= middle > whole[len(cut)].score
    assert search(client, ranking_options={"score_threshold": 1.0}).data == []


def test_several_queries_are_joined(client: openai.OpenAI) -> None:
    queries = [QUESTION, "where are copies of the database?"]
    page = client.vector_stores.search("docs", query=queries, max_num_results=4)
    ids = [result.file_id for result in page.data]
    assert set(ids[:2]) == {"expenses", "backups"}
    assert len(set(ids)) == len(ids) == 4
    assert page.search_query == queries
    scores = [result.score for result in page.data]
    assert scores == sorted(scores, reverse=True)
    by_query = {result.file_id: result.passage["query"] for result in page.data}
    assert by_query["expenses"] == queries[0]
    assert by_query["backups"] == queries[1]


def test_rewriting_is_told_to_be_ignored(client: openai.OpenAI) -> None:
    page = search(client, rewrite_query=True)
    assert any("rewrite_query" in notice for notice in page.notices)
    assert page.search_query == [QUESTION]
    assert not any("rewrite_query" in notice for notice in search(client).notices)


def test_attributes_are_plain_values(client: openai.OpenAI) -> None:
    result = client.vector_stores.search("third", query="odd").data[0]
    assert result.attributes == {"yes": True, "real": 2.5, "list": '[1, "ü"]', "and": "x"}
    assert result.filename == "odd"
    nested = found_one(client, "backups").attributes
    assert nested["nested"] == '{"level": 3}'


def found_one(client: openai.OpenAI, document_id: str) -> Any:
    filters = {"type": "eq", "key": "document_id", "value": document_id}
    return search(client, filters=filters).data[0]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("eq", "team", "it"), {"passwords", "backups"}),
        (("eq", "year", 2024), {"expenses", "lunch"}),
        (("eq", "year", 2024.0), {"expenses", "lunch"}),
        (("eq", "tags", "travel"), {"expenses"}),
        (("eq", "nested.level", 3), {"backups"}),
        (("eq", "title", "Lunch"), {"lunch"}),
        (("eq", "year", "2024"), {"expenses", "lunch"}),  # as the field's kind, with a notice
        (("eq", "year", "2024.00"), set()),
        (("ne", "team", "it"), ALL - {"passwords", "backups"}),
        (("gt", "year", 2024), {"backups"}),
        (("gte", "year", 2024), {"expenses", "backups", "lunch"}),
        (("lt", "year", 2024), {"passwords"}),
        (("lte", "year", 2023.5), {"passwords"}),
        (("in", "team", ["finance", "kitchen"]), {"expenses", "lunch"}),
        (("in", "year", [2023, 2025]), {"passwords", "backups"}),
        (("nin", "team", ["finance", "kitchen"]), {"passwords", "backups", "bare"}),
    ],
)
def test_comparisons(client: openai.OpenAI, filters: Any, expected: set[str]) -> None:
    kind, key, value = filters
    assert found(client, {"type": kind, "key": key, "value": value}) == expected


def test_compound_filters(client: openai.OpenAI) -> None:
    it: Any = {"type": "eq", "key": "team", "value": "it"}
    recent: Any = {"type": "gte", "key": "year", "value": 2024}
    lunch: Any = {"type": "eq", "key": "document_id", "value": "lunch"}
    assert found(client, {"type": "and", "filters": [it, recent]}) == {"backups"}
    assert found(client, {"type": "or", "filters": [it, recent]}) == ALL - {"bare"}
    nested: Any = {"type": "or", "filters": [{"type": "and", "filters": [it, recent]}, lunch]}
    assert found(client, nested) == {"backups", "lunch"}


def test_booleans_and_a_key_that_is_a_connective(client: openai.OpenAI) -> None:
    for filters, expected in [
        ({"type": "eq", "key": "yes", "value": True}, {"odd"}),
        ({"type": "eq", "key": "yes", "value": False}, set()),
        ({"type": "ne", "key": "yes", "value": False}, {"odd"}),
        ({"type": "eq", "key": "and", "value": "x"}, {"odd"}),
        ({"type": "eq", "key": "and", "value": "y"}, set()),
    ]:
        assert found(client, filters, store="third") == expected, filters


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"query": "x", "max_num_results": 0}, "max_num_results"),
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": ""}, "query"),
        ({"query": "  "}, "query is empty"),
        ({"query": []}, "query"),
        ({"query": ["x"] * 17}, "query"),
        ({"max_num_results": 3}, "query"),
        ({"query": "x", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters"),
        ({"query": "x", "filters": {"type": "and", "filters": []}}, "filters"),
        ({"query": "x", "filters": {"type": "eq", "key": "a", "value": ["b"]}}, "one value"),
        ({"query": "x", "filters": {"type": "in", "key": "a", "value": "b"}}, "a list"),
        ({"query": "x", "filters": {"type": "in", "key": "a", "value": []}}, "empty list"),
        ({"query": "x", "filters": {"type": "gt", "key": "a", "value": "many"}}, "ISO"),
        ({"query": "x", "filters": {"type": "gt", "key": "a", "value": True}}, "number"),
        ({"query": "x", "filters": {"type": "eq", "key": "a..b", "value": 1}}, "path"),
        ({"query": "x", "filters": {"type": "eq", "key": "a", "value": None}}, "filters"),
        ({"query": "x", "filters": {"type": "eq", "key": "a", "value": 10**30}}, "64 bits"),
        ({"query": "x", "filters": {"type": "eq", "key": "a", "value": "0" * 8193}}, "filters"),
        ({"query": "x", "ranking_options": {"ranker": "best"}}, "ranker is 'best'"),
        ({"query": "x", "ranking_options": {"score_threshold": 1.5}}, "score_threshold"),
        (b'{"query": "\\ud800"}', "query"),
        (b'{"query": ["x", "a\\u0000b"]}', "NUL"),
        (b'{"query": "x", "filters": {"type": "eq", "key": "\\ud800", "value": 1}}', "filters"),
        (b'{"query": "x", "filters": {"type": "eq", "key": "a", "value": NaN}}', "filters"),
        (b'{"query": "x", "ranking_options": {"score_threshold": NaN}}', "score_threshold"),
        (b"{}", "query"),
        (b"7", ""),
    ],
)
def test_what_cannot_be_used_is_told(service: Service, body: Any, says: str) -> None:
    response = post(service, body)
    assert response.status_code in (400, 422), response.text
    assert says in response.json()["error"]["message"]


def deep(levels: int) -> dict[str, Any]:
    filters: dict[str, Any] = {"type": "eq", "key": "team", "value": "it"}
    for _ in range(levels):
        filters = {"type": "and", "filters": [filters]}
    return filters


def test_filters_have_bounds(client: openai.OpenAI, service: Service) -> None:
    assert found(client, deep(16)) == {"passwords", "backups"}
    for levels in (17, 200, 400):
        response = post(service, {"query": "x", "filters": deep(levels)})
        assert response.status_code in (400, 422), levels
    one = {"type": "eq", "key": "team", "value": "it"}
    many = [{"type": "or", "filters": [one] * 100}] * 3
    response = post(service, {"query": "x", "filters": {"type": "and", "filters": many}})
    assert response.status_code == 400
    assert "256 conditions" in response.json()["error"]["message"]
    some = {"type": "in", "key": "year", "value": list(range(2100))}
    assert found(client, some) == ALL - {"bare"}
    response = post(service, {"query": "x", "filters": {"type": "and", "filters": [some, some]}})
    assert response.status_code == 400
    assert "4,096 values" in response.json()["error"]["message"]


def test_no_such_store(client: openai.OpenAI, service: Service) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.vector_stores.search("nowhere", query="x")
    assert raised.value.code == "collection_not_found"
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve("nowhere")
    for odd in ("..%2F..%2Fetc", "%00", "a%00b", "%F0%9F%98%80", "x" * 300, "docs@v1"):
        for response in (
            httpx.get(f"{service.url}/v1/vector_stores/{odd}"),
            post(service, {"query": "x"}, store=odd),
        ):
            assert 400 <= response.status_code < 500, (odd, response.text)


# --- the stores themselves


def test_one_store(client: openai.OpenAI) -> None:
    store = client.vector_stores.retrieve("docs")
    assert store.object == "vector_store"
    assert (store.id, store.name, store.status) == ("docs", "docs", "completed")
    assert store.file_counts.total == store.file_counts.completed == len(ALL)
    assert store.created_at > 1_600_000_000
    assert store.metadata is not None
    assert store.metadata["default"] == "true"
    assert store.metadata["dimension"] == "384"


def test_all_stores(client: openai.OpenAI) -> None:
    page = client.vector_stores.list()
    assert {store.id for store in page.data} == set(STORES)
    assert page.has_more is False
    assert page.first_id == page.data[0].id
    assert page.last_id == page.data[-1].id


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_of_stores(client: openai.OpenAI, limit: int, order: Any) -> None:
    ids = [store.id for store in client.vector_stores.list(limit=limit, order=order)]
    assert sorted(ids) == sorted(STORES)
    other = "desc" if order == "asc" else "asc"
    assert ids == [store.id for store in client.vector_stores.list(order=other)][::-1]


def test_going_back(client: openai.OpenAI) -> None:
    ids = [store.id for store in client.vector_stores.list()]
    page = client.vector_stores.list(before=ids[3], limit=2)
    assert [store.id for store in page.data] == ids[1:3]
    assert page.has_more is True
    assert client.vector_stores.list(before=ids[0]).data == []
    assert client.vector_stores.list(after=ids[-1]).data == []
    between = client.vector_stores.list(after=ids[0], before=ids[3])
    assert [store.id for store in between.data] == ids[1:3]


def test_cursors_and_limits_that_cannot_be_used(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no vector store of that id"):
        client.vector_stores.list(after="nowhere")
    for limit in (0, 101):
        with pytest.raises(openai.UnprocessableEntityError, match="limit"):
            client.vector_stores.list(limit=limit)
