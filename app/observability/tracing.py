"""OpenTelemetry traces, where the setting `otel` is on; nothing at all where it is not.

The standard variables set the destination and the share of requests: `OTEL_SERVICE_NAME`,
`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, ….
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import retrieval
from retrieval.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from app.settings.settings import Settings

SERVICE_NAME = "two-stage-retrieval"

# The text of an exception may hold what was asked, or a path.
_SILENT: Any = {"record_exception": False, "set_status_on_exception": False}

_provider: TracerProvider | None = None
_tracer: Tracer | None = None
# One thread reports the stages of a search one after the other, when the search has ended.
_reported = threading.local()


def setup(settings: Settings, *, exporter: SpanExporter | None = None) -> bool:
    """Begin to trace if the settings say so, and return whether they do.

    Args:
        settings: with `otel`.
        exporter: where spans go at once; None sends them in batches by OTLP over HTTP.

    Raises:
        MissingExtra: the extra `otel` is not installed.
    """
    global _provider, _tracer
    shutdown()
    if not settings.otel:
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    except ImportError as error:
        raise MissingExtra(
            error.name or "opentelemetry", extra="otel", purpose="the setting `otel`"
        ) from None
    resource = Resource.create({"service.version": retrieval.__version__})
    if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_serv"):
        resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter())
        if exporter is None
        else SimpleSpanProcessor(exporter)
    )
    _tracer = _provider.get_tracer("two_stage_retrieval", retrieval.__version__)
    return True


def shutdown() -> None:
    """Send the remaining spans, and trace no more."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        provider.shutdown()


@contextlib.contextmanager
def span(name: str, **attributes: Any) -> Iterator[None]:
    """A span around a block, a child of the one it runs in; nothing where traces are off.

    `attributes`: text and numbers only, never what people asked or what was found.
    """
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes, **_SILENT):
        yield


@contextlib.contextmanager
def request(method: str, headers: Mapping[str, str]) -> Iterator[Span | None]:
    """The span of a request, a child of the caller's (`traceparent`); None: traces are off."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(headers)
    with _tracer.start_as_current_span(
        method,
        context=context,
        kind=SpanKind.SERVER,
        attributes={"http.request.method": method},
        **_SILENT,
    ) as one:
        yield one


def mark(span: Span, *, failed: bool) -> None:
    """Mark a span as failed, where it is."""
    from opentelemetry.trace import StatusCode

    if failed:
        span.set_status(StatusCode.ERROR)


def stage(name: str, seconds: float) -> None:
    """A stage that has just ended, as a span.

    The stages of a search are reported after it, "search" last, which then becomes a span that
    began that long ago, with encode, retrieve and rerank in it one after the other, as they ran.
    """
    if _tracer is None:
        return
    from opentelemetry import trace

    if name in ("encode", "retrieve", "rerank"):
        before = () if name == "encode" else getattr(_reported, "stages", ())
        _reported.stages = [*before, (name, seconds)]
        return
    now = time.time_ns()
    began = now - round(seconds * 1e9)
    outer = _tracer.start_span(name, start_time=began)
    if name == "search":
        inside = trace.set_span_in_context(outer)
        for part, took in _reported.__dict__.pop("stages", ()):
            ended = min(began + round(took * 1e9), now)
            inner = _tracer.start_span(part, context=inside, start_time=began)
            inner.end(ended)
            began = ended
    outer.end(now)
