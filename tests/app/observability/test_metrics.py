"""What is counted, by a real service behind the guard; and the dashboard that shows it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from guard_help import guarded
from prometheus_client.parser import text_string_to_metric_families
from service_help import running

from app.observability.metrics import Metrics
from app.protocols import health
from app.types import Observer

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "monitoring" / "grafana-dashboard.json").read_text(encoding="utf-8")
)
ALERTS = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))


def samples(text: str) -> dict[str, float]:
    """name{labels} → value, of a scrape."""
    return {
        one.name
        + "".join(f"|{k}={v}" for k, v in sorted(one.labels.items()) if k != "le"): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, Metrics, Any]]:
    metrics = Metrics()
    app, backend = guarded(metrics=metrics)
    with running(app) as url:
        yield url, metrics, backend


def observed(metrics: Observer) -> None:
    """Everything that the parts of a service tell."""
    metrics.batch("model-a", 3, 120, 0.02)
    metrics.waiting("model-a", 7, 900)
    metrics.waited("model-a", 0.004)
    metrics.cache("queries", 2, 1, 4096)
    metrics.stage("encode", 0.003)
    metrics.shed("overloaded")


def test_requests_are_counted_by_the_template_of_their_route(
    service: tuple[str, Metrics, Any],
) -> None:
    url, metrics, _ = service
    before = len(samples(metrics.render().decode()))
    for number in range(8):
        httpx.get(f"{url}/v1/items/{number}")
        httpx.get(f"{url}/nowhere/{number}")
    httpx.get(f"{url}/v1/items/bad")
    httpx.request("PROPFIND", f"{url}/v1/who")
    scrape = httpx.get(f"{url}/metrics")
    assert scrape.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(scrape.text)
    route = "route=/v1/items/{item}"
    assert found[f"retrieval_requests_total|method=GET|{route}|status=200"] == 8
    assert found[f"retrieval_requests_total|method=GET|{route}|status=422"] == 1
    assert found["retrieval_requests_total|method=GET|route=unmatched|status=404"] == 8
    assert found[f"retrieval_request_seconds_count|{route}"] == 9
    assert sum("method=other" in name for name in found) == 1
    assert "nowhere" not in scrape.text
    assert "PROPFIND" not in scrape.text
    assert found["retrieval_in_flight"] == 1, "the scrape itself"
    errors = {name: value for name, value in found.items() if "retrieval_errors_total" in name}
    assert sum(errors.values()) >= 9
    assert len(found) - before < 20


def test_what_the_parts_tell() -> None:
    metrics = Metrics()
    observed(metrics)
    observed(metrics)
    found = samples(metrics.render().decode())
    assert found["retrieval_tokens_total|model=model-a"] == 240
    assert found["retrieval_batch_items_sum|model=model-a"] == 6
    assert found["retrieval_batch_tokens_count|model=model-a"] == 2
    assert found["retrieval_queue_items|model=model-a"] == 7
    assert found["retrieval_queue_tokens|model=model-a"] == 900
    assert found["retrieval_queue_seconds_count|model=model-a"] == 2
    assert found["retrieval_cache_hits_total|cache=queries"] == 4
    assert found["retrieval_cache_misses_total|cache=queries"] == 2
    assert found["retrieval_cache_bytes|cache=queries"] == 4096
    assert found["retrieval_stage_seconds_sum|stage=encode"] == pytest.approx(0.006)
    assert found["retrieval_shed_total|reason=overloaded"] == 2
    other = Metrics()
    assert samples(other.render().decode())["retrieval_shed_total|reason=overloaded"] == 0


def test_a_scrape_is_cheap() -> None:
    metrics = Metrics()
    for number in range(40):
        metrics.request(f"/v1/route-{number}", "GET", 200, 0.01)
    observed(metrics)
    metrics.render()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        metrics.render()
        times.append(time.perf_counter() - began)
    assert min(times) < 0.1


# --- ready ----------------------------------------------------------------------------------


def test_ready_or_not(service: tuple[str, Metrics, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    url, _, backend = service
    assert httpx.get(f"{url}/readyz").status_code == 200
    backend.problems = {"models": "They are being loaded."}
    answer = httpx.get(f"{url}/readyz")
    assert (answer.status_code, answer.json()) == (
        503,
        {"ready": False, "problems": {"models": "They are being loaded."}},
    )
    backend.problems = {}

    async def hang() -> Any:
        import asyncio

        await asyncio.sleep(60)

    async def fail() -> Any:
        raise OSError("no such thing at 10.1.2.3")

    monkeypatch.setattr(health, "READY_SECONDS", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "ready", hang)
        assert "longer than" in httpx.get(f"{url}/readyz").json()["problems"]["index"]
        patch.setattr(backend, "ready", fail)
        failed = httpx.get(f"{url}/readyz")
        assert failed.status_code == 503
        assert "10.1.2.3" not in failed.text
    assert httpx.get(f"{url}/readyz").status_code == 200


# --- the dashboard and the alerts -----------------------------------------------------------

_FUNCTIONS = {"sum", "by", "le", "rate", "max", "histogram_quantile", "label_values"}


def names_in(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)', "", expression)
    return set(re.findall(r"[a-z_]{2,}", bare)) - _FUNCTIONS


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"].replace(", job", "")
    for rule in ALERTS["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]


def test_every_metric_that_is_shown_exists() -> None:
    metrics = Metrics()
    observed(metrics)
    metrics.request("/v1/search", "POST", 200, 0.1)
    metrics.error("overloaded")
    families = list(text_string_to_metric_families(metrics.render().decode()))
    exist = {sample.name for family in families for sample in family.samples} | {"up"}
    labels = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    shown: set[str] = set()
    for title, expression in expressions():
        names = names_in(expression)
        assert names, (title, expression)
        assert names <= exist, (title, names - exist)
        shown |= names
        for by in re.findall(r"by \(([^)]*)\)", expression):
            for label in set(by.split(", ")) - {"job", "instance"}:
                assert all(label in labels[name] for name in names), (title, label)
    own = {name for name in exist if name.startswith("retrieval_")}
    bases = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in own}
    assert bases == {
        re.sub(r"_(bucket|count|sum)$", "", n) for n in shown if n.startswith("retrieval_")
    }, "every metric has its place on the dashboard"
