"""Re-ranking over HTTP, asked by the clients that people use."""

from __future__ import annotations

from typing import Any

import cohere
import httpx
import pytest
from protocol_service import QUESTION, TEXTS

from app.errors import Overloaded
from app.protocols.rerank.routes import cohere_error_body
from app.protocols.rerank.schemas import MOST_DOCUMENTS


@pytest.fixture(scope="module")
def v2(small_url: str, http: httpx.Client) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="none", base_url=small_url, httpx_client=http)


def rerank(http: httpx.Client, path: str = "/v1/rerank", **body: Any) -> dict[str, Any]:
    response = http.post(path, json={"query": QUESTION, "documents": TEXTS, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def check_order(results: list[dict[str, Any]]) -> None:
    """All texts, the right one first, falling, and the two equal ones by index."""
    assert results[0]["index"] == 1
    keys = [(-result["raw_score"], result["index"]) for result in results]
    assert keys == sorted(keys)
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    by_index = {result["index"]: result for result in results}
    assert by_index[0]["raw_score"] == by_index[3]["raw_score"]
    order = [result["index"] for result in results]
    assert order.index(0) < order.index(3)


def test_cohere_v2_client(v2: cohere.ClientV2) -> None:
    answer = v2.rerank(model="default", query=QUESTION, documents=TEXTS, top_n=2)
    assert answer.results[0].index == 1
    assert len(answer.results) == 2
    assert 1 >= answer.results[0].relevance_score > answer.results[1].relevance_score >= 0
    assert answer.id
    assert answer.meta is not None
    assert answer.meta.api_version is not None
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens is not None
    assert answer.meta.tokens.input_tokens > 20
    assert answer.meta.warnings is None


def test_cohere_v1_client(small_url: str, http: httpx.Client) -> None:
    client = cohere.Client(api_key="none", base_url=small_url, httpx_client=http)
    documents = [{"title": f"Page {at}", "body": text} for at, text in enumerate(TEXTS)]
    answer = client.rerank(
        query=QUESTION, documents=documents, rank_fields=["body"], return_documents=True, top_n=1
    )
    (best,) = answer.results
    assert best.index == 1
    assert best.document is not None
    assert dict(best.document)["title"] == "Page 1"
    assert answer.meta is not None
    assert answer.meta.api_version is not None
    assert answer.meta.api_version.version == "1"


def test_cohere_client_errors(v2: cohere.ClientV2) -> None:
    with pytest.raises(cohere.NotFoundError) as caught:
        v2.rerank(model="rerank-v9", query=QUESTION, documents=TEXTS)
    assert set(caught.value.body) >= {"id", "message", "code"}
    assert caught.value.body["code"] == "model_not_found"
    with pytest.raises(cohere.UnprocessableEntityError) as refused:
        v2.rerank(model="default", query=QUESTION, documents=[])
    assert "documents" in refused.value.body["message"]
    with pytest.raises(cohere.BadRequestError) as blank:
        v2.rerank(model="default", query="  ", documents=TEXTS)
    assert "blank" in blank.value.body["message"]


def test_v1_superset(http: httpx.Client) -> None:
    answer = rerank(http)
    check_order(answer["results"])
    assert len(answer["results"]) == len(TEXTS)
    # Jina's and vLLM's clients read these
    assert answer["object"] == "list"
    assert answer["model"]
    assert answer["id"]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 20
    for result in answer["results"]:
        assert result["document"] == {"text": TEXTS[result["index"]]}
    assert answer["truncated"] == []


def test_documents_may_be_objects(http: httpx.Client) -> None:
    mixed = [TEXTS[0], {"text": TEXTS[1], "page": 7}, {"text": TEXTS[2]}, TEXTS[3]]
    results = rerank(http, documents=mixed)["results"]
    plain = rerank(http)["results"]
    assert [(r["index"], r["raw_score"]) for r in results] == [
        (r["index"], r["raw_score"]) for r in plain
    ]
    assert results[0]["document"] == {"text": TEXTS[1], "page": 7}


def test_rank_fields_are_read_in_their_order(http: httpx.Client) -> None:
    documents = [{"b": "paid back", "a": "Travel costs", "c": "not read"}, {"a": "Soup"}]
    by_field = rerank(http, documents=documents, rank_fields=["a", "b"])["results"]
    by_text = rerank(http, documents=["Travel costs\npaid back", "Soup"])["results"]
    assert [r["raw_score"] for r in by_field] == [r["raw_score"] for r in by_text]


def test_documents_can_be_left_out(http: httpx.Client) -> None:
    assert all("document" not in r for r in rerank(http, return_documents=False)["results"])
    assert all("document" not in r for r in rerank(http, "/v2/rerank")["results"])
    with_them = rerank(http, "/v2/rerank", return_documents=True)["results"]
    assert with_them[0]["document"] == {"text": TEXTS[1]}


def test_top_n_cuts_the_same_order(http: httpx.Client) -> None:
    everything = [r["index"] for r in rerank(http)["results"]]
    assert [r["index"] for r in rerank(http, top_n=2)["results"]] == everything[:2]
    assert [r["index"] for r in rerank(http, top_n=99)["results"]] == everything


def test_both_versions_agree(http: httpx.Client) -> None:
    first = rerank(http, return_documents=False)["results"]
    assert rerank(http, "/v2/rerank")["results"] == first


def test_truncation_is_told(http: httpx.Client) -> None:
    answer = rerank(http, documents=[TEXTS[1], "travel " * 2000])
    (cut,) = answer["truncated"]
    assert cut["index"] == 1
    assert cut["max_tokens"] > 0
    assert "1 of 2 documents" in answer["meta"]["warnings"][0]


def test_a_limit_that_is_not_applied_is_told(http: httpx.Client) -> None:
    warnings = rerank(http, "/v2/rerank", max_tokens_per_doc=10)["meta"]["warnings"]
    assert "max_tokens_per_doc=10 was not applied" in warnings[0]
    assert "warnings" not in rerank(http, "/v2/rerank", max_tokens_per_doc=100_000)["meta"]
    warnings = rerank(http, truncate_prompt_tokens=10)["meta"]["warnings"]
    assert "truncate_prompt_tokens=10" in warnings[0]


def test_search_units_count_hundreds(http: httpx.Client) -> None:
    answer = rerank(http, documents=["soup"] * 101, top_n=1)
    assert answer["meta"]["billed_units"]["search_units"] == 2
    assert [r["index"] for r in answer["results"]] == [0]


def test_empty_documents_are_ranked_like_others(http: httpx.Client) -> None:
    results = rerank(http, documents=["", TEXTS[1], " "])["results"]
    assert sorted(r["index"] for r in results) == [0, 1, 2]
    assert results[0]["index"] == 1


def test_unknown_fields_are_ignored(http: httpx.Client) -> None:
    assert rerank(http, priority=3, user="somebody", relevant_spans=None)["results"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({"documents": [{"title": "no text"}]}, 400, "'text'"),
        ({"documents": [{"text": 7}]}, 400, "'text'"),
        ({"documents": ["a\0b"]}, 400, "NUL"),
        ({"documents": [{"text": "a\0b"}]}, 400, "NUL"),
        ({"query": "a\0b"}, 400, "NUL"),
        ({"query": " "}, 400, "blank"),
        ({"query": ""}, 422, "query"),
        ({"query": None}, 422, "query"),
        ({"documents": []}, 422, "documents"),
        ({"documents": "one text"}, 422, "documents"),
        ({"documents": [1, 2]}, 422, "documents"),
        ({"documents": ["a"] * (MOST_DOCUMENTS + 1)}, 422, "documents"),
        ({"top_n": 0}, 422, "top_n"),
        ({"top_n": "many"}, 422, "top_n"),
        ({"timeout_ms": -1}, 422, "timeout_ms"),
    ],
)
def test_wrong_bodies(
    http: httpx.Client, path: str, wrong: dict[str, Any], status: int, said: str
) -> None:
    response = http.post(path, json={"query": QUESTION, "documents": TEXTS, **wrong})
    assert response.status_code == status, response.text
    assert said in response.text


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
@pytest.mark.parametrize(
    "raw",
    [
        rb'{"query": "\ud800", "documents": ["a"]}',
        rb'{"query": "a", "documents": ["\udfff"]}',
        rb'{"query": "a", "documents": [{"text": "\udfff"}]}',
        rb'{"query": "a", "documents": [{"text": "b", "\ud800": 1}]}',
        rb'{"query": "a", "documents": ["b"], "timeout_ms": NaN}',
        b"[1, 2]",
        b"no json",
        b"",
    ],
)
def test_malformed_bodies_are_the_clients_fault(http: httpx.Client, path: str, raw: bytes) -> None:
    response = http.post(path, content=raw, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500, response.text


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_a_request_may_end_at_its_own_time(http: httpx.Client, path: str) -> None:
    documents = [f"soup number {at}" for at in range(500)]
    body = {"query": QUESTION, "documents": documents, "timeout_ms": 0.01}
    response = http.post(path, json=body)
    assert response.status_code == 504
    assert "deadline_passed" in response.text


def test_unknown_model_in_v1(http: httpx.Client) -> None:
    response = http.post(
        "/v1/rerank", json={"query": QUESTION, "documents": TEXTS, "model": "rerank-v9"}
    )
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_an_empty_model_is_the_default_one(http: httpx.Client) -> None:
    assert rerank(http, model="")["model"] == rerank(http)["model"]


def test_cohere_error_body() -> None:
    error = Overloaded("too much waits", fix="Come back later.", retry_after_s=2)
    assert cohere_error_body(error, "r1") == {
        "id": "r1",
        "message": "too much waits. Come back later.",
        "code": "overloaded",
    }
