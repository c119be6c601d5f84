"""Text Embeddings Inference's addresses, asked by Hugging Face's client and by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from protocol_service import QUESTION, TEXTS, instructed_service

from app.errors import NotHere, Overloaded, Stopping
from app.protocols.tei.errors import EmptyBatch, error_body, error_status
from app.protocols.tei.schemas import MOST_INPUTS
from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.encoders.bge_m3 import BGEM3

LONG = "travel " * 2000


def post(http: httpx.Client, path: str, **body: Any) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_inference_client_embeds(small_url: str, http: httpx.Client) -> None:
    client = InferenceClient(f"{small_url}/embed")
    many = client.feature_extraction(TEXTS, normalize=True, truncate=True)
    assert many.shape == (4, 384)
    assert many.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1.0, atol=1e-5)
    one = client.feature_extraction(TEXTS[1])
    assert one.shape == (1, 384)
    np.testing.assert_allclose(one[0], many[1], atol=2e-2)  # bf16, another batch
    query = client.feature_extraction(QUESTION, prompt_name="query")
    assert int(np.argmax(many @ query[0])) == 1


def test_inference_client_checks_health(small_url: str) -> None:
    assert InferenceClient(small_url, provider="hf-inference").health_check() is True


def test_inference_client_raises(small_url: str) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(f"{small_url}/embed").feature_extraction([TEXTS[0], LONG])
    assert caught.value.response.status_code == 413
    assert caught.value.response.json()["error_type"] == "Validation"


def test_embed_tells_what_it_cost(http: httpx.Client) -> None:
    response = http.post("/embed", json={"inputs": TEXTS})
    assert int(response.headers["x-compute-characters"]) == sum(map(len, TEXTS))
    assert int(response.headers["x-compute-tokens"]) > 20
    assert int(response.headers["x-total-time"]) >= 0


def test_too_long_is_refused_unless_truncated(http: httpx.Client) -> None:
    response = http.post("/embed", json={"inputs": [TEXTS[0], LONG]})
    assert response.status_code == 413
    body = response.json()
    assert body["error_type"] == "Validation"
    assert "inputs[1]" in body["error"]
    assert body["message"] == body["error"]
    assert len(post(http, "/embed", inputs=[TEXTS[0], LONG], truncate=True)) == 2


def test_rerank_is_sorted_relevance(http: httpx.Client) -> None:
    ranks = post(http, "/rerank", query=QUESTION, texts=TEXTS)
    assert ranks[0]["index"] == 1
    assert sorted(rank["index"] for rank in ranks) == [0, 1, 2, 3]
    scores = [rank["score"] for rank in ranks]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert all("text" not in rank for rank in ranks)
    order = [rank["index"] for rank in ranks]
    assert order.index(0) < order.index(3)  # equal texts


def test_raw_scores_keep_the_order(http: httpx.Client) -> None:
    ranks = post(http, "/rerank", query=QUESTION, texts=TEXTS)
    raw = post(http, "/rerank", query=QUESTION, texts=TEXTS, raw_scores=True, return_text=True)
    assert [rank["index"] for rank in raw] == [rank["index"] for rank in ranks]
    assert all(rank["text"] == TEXTS[rank["index"]] for rank in raw)
    vllm = post(http, "/rerank", query=QUESTION, documents=TEXTS)["results"]
    assert [rank["score"] for rank in raw] == [result["raw_score"] for result in vllm]
    assert [rank["score"] for rank in ranks] == [result["relevance_score"] for result in vllm]


def test_rerank_with_documents_is_vllm(http: httpx.Client) -> None:
    answer = post(http, "/rerank", query=QUESTION, documents=TEXTS, top_n=1, model="default")
    (best,) = answer["results"]
    assert best["index"] == 1
    assert best["document"] == {"text": TEXTS[1]}
    assert answer["usage"]["total_tokens"] > 0
    assert answer["id"]
    assert answer["model"]


def test_rerank_refuses_long_texts(http: httpx.Client) -> None:
    body = {"query": QUESTION, "texts": [TEXTS[0], LONG]}
    response = http.post("/rerank", json=body)
    assert response.status_code == 413, response.text
    assert "texts[1]" in response.json()["error"]
    assert len(post(http, "/rerank", **body, truncate=True)) == 2


def test_info(http: httpx.Client) -> None:
    info = http.get("/info").json()
    assert info["model_id"]
    assert info["model_sha"]
    assert info["max_input_length"] > 100
    assert info["max_client_batch_size"] == MOST_INPUTS
    assert info["auto_truncate"] is False
    assert info["model_type"]["embedding"]["dimension"] == 384
    assert info["reranker"]["model_id"]


def test_health(http: httpx.Client) -> None:
    response = http.get("/health")
    assert response.status_code == 200
    assert response.content == b""


def test_a_model_without_term_weights_says_so(http: httpx.Client) -> None:
    response = http.post("/embed_sparse", json={"inputs": TEXTS})
    assert response.status_code == 422
    assert response.json()["error_type"] == "Validation"


@pytest.mark.parametrize("path", ["/embed", "/embed_sparse"])
@pytest.mark.parametrize(
    ("wrong", "status", "error_type"),
    [
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": ["a"] * (MOST_INPUTS + 1)}, 413, "Validation"),
        ({"inputs": ""}, 400, "Validation"),
        ({"inputs": ["a", " "]}, 400, "Validation"),
        ({"inputs": "a\0b"}, 400, "Validation"),
        ({"inputs": [1, 2]}, 422, "Validation"),
        ({"inputs": [[1, 2]]}, 422, "Validation"),
        ({"inputs": None}, 422, "Validation"),
        ({}, 422, "Validation"),
        ({"inputs": "a", "prompt_name": "quest"}, 400, "Validation"),
        (
            {"inputs": "a", "truncate": True, "truncation_direction": "Left"},
            400,
            "Validation",
        ),
        ({"inputs": "a", "truncation_direction": "up"}, 422, "Validation"),
    ],
)
def test_wrong_bodies(
    http: httpx.Client, path: str, wrong: dict[str, Any], status: int, error_type: str
) -> None:
    response = http.post(path, json=wrong)
    assert response.status_code == status, response.text
    body = response.json()
    assert body["error_type"] == error_type
    assert body["error"] == body["message"]


@pytest.mark.parametrize(
    ("wrong", "status", "error_type"),
    [
        ({"query": QUESTION, "texts": []}, 400, "Empty"),
        ({"query": "", "texts": TEXTS}, 422, "Validation"),
        ({"query": " ", "texts": TEXTS}, 400, "Validation"),
        ({"query": QUESTION, "texts": ["a\0"]}, 400, "Validation"),
        ({"query": QUESTION, "texts": "one"}, 422, "Validation"),
        ({"query": QUESTION}, 422, "Validation"),
        ([], 422, "Validation"),
    ],
)
def test_wrong_reranking(http: httpx.Client, wrong: Any, status: int, error_type: str) -> None:
    response = http.post("/rerank", json=wrong)
    assert response.status_code == status, response.text
    assert response.json()["error_type"] == error_type


def test_lengths_that_are_not_there_are_refused(http: httpx.Client) -> None:
    response = http.post("/embed", json={"inputs": "a", "normalize": False})
    assert response.status_code == 400
    assert "length 1" in response.json()["error"]


def test_dimensions_that_the_model_has_not(http: httpx.Client) -> None:
    response = http.post("/embed", json={"inputs": "a", "dimensions": 7})
    assert response.status_code == 422
    assert response.json()["error_type"] == "Validation"


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"inputs": "\ud800"}',
        rb'{"inputs": ["\udfff"]}',
        rb'{"inputs": "a", "prompt_name": "\udfff"}',
        b'{"inputs": "\xff"}',
        b"no json",
        b"",
    ],
)
def test_malformed_bodies_are_the_clients_fault(http: httpx.Client, raw: bytes) -> None:
    response = http.post("/embed", content=raw, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500, response.text
    assert set(response.json()) >= {"error", "error_type"}


def test_errors_have_teis_types_and_statuses() -> None:
    told = {
        error_type: error_status(error)
        for error in (
            NotHere("no reranker", fix="Start one.", what="model"),
            Stopping("stopping", fix="Wait."),
            Overloaded("full", fix="Wait.", retry_after_s=1),
            InvalidInput("wrong", fix="Mend it."),
            EmptyBatch("none", fix="Send one."),
        )
        for error_type in [error_body(error, "r")["error_type"]]
    }
    assert told == {
        "Backend": 424,
        "Unhealthy": 503,
        "Overloaded": 429,
        "Validation": 422,
        "Empty": 400,
    }
    fault = ModelFault("a device failed", fix="Look at it.")
    assert error_status(fault) == 424
    assert error_body(fault, "r") == {
        "error": "a device failed. Look at it.",
        "error_type": "Backend",
        "message": "a device failed. Look at it.",
    }


@pytest.fixture(scope="module")
def m3(make_tiny_model: Callable[..., Path]) -> BGEM3:
    """bge-m3's shape with fixed random weights."""
    path = make_tiny_model("xlmr", "encoder", seed=3)
    random = torch.Generator().manual_seed(0)
    for name, out, bias in (("sparse_linear.pt", 1, 1.0), ("colbert_linear.pt", 64, 0.1)):
        weight = torch.randn((out, 64), generator=random) * 0.2
        torch.save({"weight": weight, "bias": torch.full((out,), bias)}, path / name)
    return BGEM3(path, engine="transformers", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def sparse_http(m3: BGEM3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with term weights and without a reranker."""
    folder = tmp_path_factory.mktemp("tei-m3")
    with (
        instructed_service(folder, m3, {}, reranker="none") as service,  # type: ignore[arg-type]
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        yield client


def test_term_weights_are_the_models(sparse_http: httpx.Client, m3: BGEM3) -> None:
    texts = [
        "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
        "what is a bi-encoder?",
    ]
    answer = post(sparse_http, "/embed_sparse", inputs=texts)
    expected = m3.encode_all(texts, "passage", lexical=True).lexical
    assert expected is not None
    for row, weights in zip(answer, expected, strict=True):
        assert row
        assert [one["index"] for one in row] == sorted(one["index"] for one in row)
        assert {one["index"] for one in row} == set(weights.as_dict())
        for one in row:
            assert one["value"] == pytest.approx(weights.as_dict()[one["index"]], abs=1e-4)
    (single,) = post(sparse_http, "/embed_sparse", inputs=texts[1])
    assert [one["index"] for one in single] == [one["index"] for one in answer[1]]


def test_term_weights_of_long_texts(sparse_http: httpx.Client, m3: BGEM3) -> None:
    long = "dog " * (m3.info.max_length + 10)
    response = sparse_http.post("/embed_sparse", json={"inputs": ["a", long]})
    assert response.status_code == 413
    assert "inputs[1]" in response.json()["error"]
    assert len(post(sparse_http, "/embed_sparse", inputs=["a", long], truncate=True)) == 2


def test_without_a_reranker(sparse_http: httpx.Client) -> None:
    response = sparse_http.post("/rerank", json={"query": QUESTION, "texts": TEXTS})
    assert response.status_code == 424
    assert response.json()["error_type"] == "Backend"
    assert sparse_http.get("/info").json()["reranker"] is None
    for path, status in (("/v1/rerank", 404), ("/v2/rerank", 404), ("/rerank", 424)):
        answer = sparse_http.post(path, json={"query": QUESTION, "documents": TEXTS})
        assert answer.status_code == status
