from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from guard_help import guarded
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from service_help import running

from app.observability import tracing
from app.observability.metrics import Metrics
from app.settings.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _off_again() -> Iterator[None]:
    yield
    tracing.shutdown()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    assert tracing.setup(Settings(otel=True), exporter=exporter)
    return exporter


def test_nothing_is_traced_unless_it_is_wanted() -> None:
    assert not tracing.setup(Settings())
    with tracing.span("x"), tracing.request("GET", {}) as one:
        tracing.stage("encode", 1.0)
        assert one is None


def test_a_request_and_its_stages(spans: InMemorySpanExporter) -> None:
    metrics = Metrics()
    app, _ = guarded(metrics=metrics)

    @app.get("/v1/find")
    async def find() -> None:
        for name, seconds in (("encode", 0.01), ("retrieve", 0.02), ("rerank", 0.03)):
            metrics.stage(name, seconds)
        metrics.stage("search", 0.07)
        with tracing.span("language_model", model="m"):
            pass

    with running(app) as url:
        httpx.get(f"{url}/v1/find", headers={"traceparent": PARENT, "x-request-id": "r-1"})
        httpx.get(f"{url}/v1/items/broken")
        httpx.get(f"{url}/v1/items/bad", headers={"traceparent": "nonsense"})
    found = {span.name: span for span in spans.get_finished_spans()}
    request = found["GET /v1/find"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert request.attributes is not None
    assert request.attributes["http.route"] == "/v1/find"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["retrieval.request_id"] == "r-1"
    for name in ("search", "language_model"):
        assert found[name].parent.span_id == request.context.span_id  # type: ignore[union-attr]
    parts = [found[name] for name in ("encode", "retrieve", "rerank")]
    starts = [part.start_time for part in parts]
    assert starts == sorted(starts)  # type: ignore[type-var]
    assert starts[0] == found["search"].start_time
    for part, seconds in zip(parts, (0.01, 0.02, 0.03), strict=True):
        assert part.parent.span_id == found["search"].context.span_id  # type: ignore[union-attr]
        assert (part.end_time - part.start_time) / 1e9 == pytest.approx(seconds)  # type: ignore[operator]
    assert [a.end_time for a in parts[:2]] == [b.start_time for b in parts[1:]]
    failed = [s for s in spans.get_finished_spans() if s.name == "GET /v1/items/{item}"]
    codes = [span.attributes["http.response.status_code"] for span in failed]  # type: ignore[index]
    assert codes == [500, 422]
    assert [span.status.is_ok for span in failed] == [False, True]
    assert "broken with" not in repr([(span.attributes, span.events) for span in failed])


def test_spans_go_to_a_collector_that_the_standard_variables_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[tuple[str, bytes, str | None]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, body, self.headers["x-team"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=search")
        assert tracing.setup(Settings(otel=True))
        with tracing.span("one", number=1):
            pass
        tracing.shutdown()
        server.shutdown()
        thread.join()
    [(path, body, team)] = got
    assert (path, team) == ("/v1/traces", "search")
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == "two-stage-retrieval"
    assert [span.name for span in resource.scope_spans[0].spans] == ["one"]


def test_the_service_can_be_named(
    monkeypatch: pytest.MonkeyPatch, spans: InMemorySpanExporter
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "search-eu")
    exporter = InMemorySpanExporter()
    tracing.setup(Settings(otel=True), exporter=exporter)
    with tracing.span("x"):
        pass
    assert exporter.get_finished_spans()[0].resource.attributes["service.name"] == "search-eu"
