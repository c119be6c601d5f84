"""The guard, the metrics and the log around the whole service: real models, store and clients."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import openai
import pytest
from service_help import Service, small_service

from app.security import api_keys
from app.security.api_keys import KeyRing


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "keys.json"
    tokens = {
        "full": api_keys.create(file, "full")[0],
        "reader": api_keys.create(file, "reader", write=False)[0],
        "elsewhere": api_keys.create(file, "elsewhere", collections=["other"])[0],
    }
    with small_service(folder, keys=KeyRing.load(file)) as one:
        yield one, tokens


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_every_route_but_the_probes_wants_a_key(service: tuple[Service, dict[str, str]]) -> None:
    one, tokens = service
    described = httpx.get(f"{one.url}/openapi.json", headers=bearer(tokens["full"])).json()
    asked = 0
    for path, methods in described["paths"].items():
        address = re.sub(r"\{[^}]*\}", "x", path)
        for method in methods:
            answer = httpx.request(method, f"{one.url}{address}")
            if path in ("/healthz", "/readyz", "/health"):
                assert answer.status_code == 200, path
            else:
                assert answer.status_code == (403 if path == "/retrieval" else 401), (method, path)
                asked += 1
    assert asked > 20
    for path in ("/mcp", "/mcp/", "/metrics", "/openapi.json"):
        assert httpx.get(f"{one.url}{path}").status_code == 401, path


def test_what_keys_may(service: tuple[Service, dict[str, str]]) -> None:
    one, tokens = service
    search = {"query": "how long are backups kept"}
    write = {"documents": [{"id": "x", "text": "a text"}]}
    documents = f"{one.url}/v1/collections/docs/documents"

    def post(url: str, body: object, name: str) -> int:
        return httpx.post(url, json=body, headers=bearer(tokens[name]), timeout=30).status_code

    assert post(f"{one.url}/v1/search", search, "full") == 200
    assert post(f"{one.url}/v1/search", search, "reader") == 200
    assert post(f"{one.url}/v1/search", {**search, "collection": "docs"}, "elsewhere") == 404
    assert post(documents, write, "reader") == 403
    assert post(documents, write, "full") == 200


def test_openais_client_sees_its_own_errors(service: tuple[Service, dict[str, str]]) -> None:
    one, tokens = service
    with openai.OpenAI(base_url=f"{one.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.embeddings.create(model="encoder", input="text")
        assert refused.value.code == "unauthorized"
        assert "wrong" not in str(refused.value.body)
    with openai.OpenAI(base_url=f"{one.url}/v1", api_key=tokens["reader"]) as client:
        model = client.models.list().data[0].id
        assert client.embeddings.create(model=model, input="text").data[0].embedding


def test_a_search_is_seen_in_the_metrics(service: tuple[Service, dict[str, str]]) -> None:
    one, tokens = service
    httpx.post(
        f"{one.url}/v1/search",
        json={"query": "what is for lunch"},
        headers=bearer(tokens["reader"]),
        timeout=30,
    ).raise_for_status()
    value = one.metrics.registry.get_sample_value
    for stage in ("encode", "retrieve", "rerank", "search"):
        assert value("retrieval_stage_seconds_count", {"stage": stage}), stage
    ok = {"route": "/v1/search", "method": "POST", "status": "200"}
    assert value("retrieval_requests_total", ok)
    scrape = httpx.get(f"{one.url}/metrics", headers=bearer(tokens["reader"])).text
    for name in ("batch_items_count", "tokens_total", "queue_seconds_count", "cache_misses_total"):
        found = re.findall(rf"^retrieval_{name}{{.*}} ([0-9.]+)$", scrape, re.MULTILINE)
        assert sum(map(float, found)) > 0, name
    assert "lunch" not in scrape
