"""The metrics that `/metrics` shows, in their own registry."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

import retrieval
from app.observability import tracing
from app.observability.search_shares import SearchShares
from app.types import Observer
from retrieval import SearchResult
from retrieval.types import Reference

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. One search takes 5 to 500 ms; an answer by a language model up to minutes.
_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
)  # fmt: skip
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)

# Without the time each series was made, which would double the lines of every scrape.
disable_created_metrics()  # type: ignore[no-untyped-call]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Metrics(Observer):
    """An observer that counts for Prometheus. Its methods may be called from any thread.

    Labels have few values each: routes are templates (`/v1/jobs/{job_id}`), never addresses.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU seconds, open files

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"retrieval_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"retrieval_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
        ) -> Histogram:
            return Histogram(f"retrieval_{name}", text, labels, registry=registry, buckets=buckets)

        build = gauge("build_info", "1, with the version of the service.", "version")
        build.labels(retrieval.__version__).set(1)
        self._requests = counter("requests", "Requests.", "route", "method", "status")
        self._seconds = histogram("request_seconds", "Time to the end of an answer.", "route")
        self._in_flight = gauge("in_flight", "Requests that are being answered.")
        self._errors = counter("errors", "Requests that failed, by error code.", "code")
        self._shed = counter("shed", "Requests refused to keep the rest fast.", "reason")
        self._stages = histogram("stage_seconds", "Time of one request in a stage.", "stage")
        self._waited = histogram("queue_seconds", "Time before a request's first batch.", "model")
        self._queue_items = gauge("queue_items", "Texts that wait for a model.", "model")
        self._queue_tokens = gauge("queue_tokens", "Tokens that wait for a model.", "model")
        self._batch_seconds = histogram("batch_seconds", "Time of a model's batch.", "model")
        self._batch_items = histogram("batch_items", "Texts in a batch.", "model", buckets=_ITEMS)
        self._batch_tokens = histogram(
            "batch_tokens", "Tokens in a batch.", "model", buckets=_TOKENS
        )
        self._tokens = counter("tokens", "Tokens that a model read.", "model")
        self._hits = counter("cache_hits", "Looks into a cache that found it.", "cache")
        self._misses = counter("cache_misses", "Looks into a cache that did not.", "cache")
        self._held = gauge("cache_bytes", "What a cache holds.", "cache")
        self._shares = SearchShares()
        registry.register(self._shares)
        # There from the first scrape on, so that a rate over the first event is not lost.
        for reason in ("overloaded", "rate_limited", "deadline"):
            self._shed.labels(reason)
        for stage in ("encode", "retrieve", "rerank", "search", "language_model"):
            self._stages.labels(stage)
        for name in ("queries", "scores"):
            self._hits.labels(name)
            self._misses.labels(name)
            self._held.labels(name)

    # --- the observer ---

    def batch(self, model: str, items: int, tokens: int, seconds: float) -> None:
        """A model ran one batch."""
        self._batch_seconds.labels(model).observe(seconds)
        self._batch_items.labels(model).observe(items)
        self._batch_tokens.labels(model).observe(tokens)
        self._tokens.labels(model).inc(tokens)

    def waiting(self, model: str, items: int, tokens: int) -> None:
        """How much waits for a model now."""
        self._queue_items.labels(model).set(items)
        self._queue_tokens.labels(model).set(tokens)

    def waited(self, model: str, seconds: float) -> None:
        """How long a request's items waited before the first of them ran."""
        self._waited.labels(model).observe(seconds)

    def cache(self, name: str, hits: int, misses: int, held_bytes: int) -> None:
        """One look into a cache, and what it holds now."""
        self._hits.labels(name).inc(hits)
        self._misses.labels(name).inc(misses)
        self._held.labels(name).set(held_bytes)

    def stage(self, name: str, seconds: float) -> None:
        """One request's time in a stage; becomes a span, too, where traces are on."""
        self._stages.labels(name).observe(seconds)
        tracing.stage(name, seconds)

    def shed(self, reason: str) -> None:
        """A request was refused."""
        self._shed.labels(reason).inc()

    def searched(
        self, collection: str, reference: Reference | None, results: Sequence[SearchResult]
    ) -> None:
        """Searches of a collection were answered."""
        self._shares.add(collection, reference, results)

    # --- requests ---

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request has ended. `route`: its template. `status` 499: the client went away."""
        method = method if method in METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def error(self, code: str) -> None:
        """A request failed with an error of this code."""
        self._errors.labels(code).inc()

    @property
    def in_flight(self) -> Gauge:
        """How many requests are being answered."""
        return self._in_flight

    def render(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        return generate_latest(self.registry)
