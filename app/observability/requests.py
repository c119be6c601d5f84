"""One request from its first byte to its last: counted, traced, and logged as one line."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.types import Scope

from app.observability import tracing
from app.observability.metrics import Metrics

log = logging.getLogger("app.access")

CLIENT_GONE = 499
# Machines ask these every few seconds; logged only where they fail.
_PROBES = ("/healthz", "/readyz", "/metrics", "/health")


@dataclass(slots=True)
class RequestStats:
    """What is known of a request when it ends. status 0: nothing was answered."""

    status: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@contextlib.contextmanager
def observed(metrics: Metrics, scope: Scope) -> Iterator[RequestStats]:
    """Count, trace and log a request; log lines inside the block have the request's id."""
    seen = RequestStats()
    outer = scope.get("app")
    began = time.perf_counter()
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in (b"traceparent", b"tracestate")
    }
    # A header may come in different letters from other servers, but methods are as they are.
    method = scope["method"]
    metrics.in_flight.inc()
    with (
        structlog.contextvars.bound_contextvars(request_id=scope["state"].get("request_id")),
        tracing.request(method if len(method) < 16 else "other", headers) as span,
    ):
        try:
            yield seen
        except BaseException:
            seen.status = seen.status or 500
            raise
        finally:
            metrics.in_flight.dec()
            seconds = time.perf_counter() - began
            route = template(scope, outer)
            status = seen.status or CLIENT_GONE
            metrics.request(route, method, status, seconds)
            if status >= 400:
                metrics.error(_code(scope, status))
            if span is not None:
                span.update_name(f"{method} {route}")
                span.set_attributes(_attributes(scope, route, status))
                tracing.mark(span, failed=status >= 500)
            _line(scope, route, status, seconds, seen)


def template(scope: Scope, outer: Any) -> str:
    """The template of a request's route; few different ones, whatever addresses are called.

    Args:
        scope: after the request was routed.
        outer: the app that routes first; what is mounted in it counts as one route each.
    """
    path: str = scope["path"]
    if path == "/mcp" or path.startswith("/mcp/"):
        return "/mcp"
    route = scope.get("route")
    if scope.get("app") is not outer:
        return "page"
    found = getattr(route, "path", None)
    return found if isinstance(found, str) else "unmatched"


def _code(scope: Scope, status: int) -> str:
    code = scope["state"].get("error_code")
    return code if isinstance(code, str) else f"http_{status}"


def _key_id(scope: Scope) -> str:
    return str(getattr(scope["state"].get("caller"), "key_id", "-"))


def _attributes(scope: Scope, route: str, status: int) -> dict[str, Any]:
    return {
        "http.route": route,
        "http.response.status_code": status,
        "retrieval.request_id": str(scope["state"].get("request_id")),
        "retrieval.key_id": _key_id(scope),
    }


def _line(scope: Scope, route: str, status: int, seconds: float, seen: RequestStats) -> None:
    quiet = route in _PROBES and status < 400
    log.log(
        logging.DEBUG if quiet else logging.WARNING if status >= 500 else logging.INFO,
        "request",
        extra={
            "method": scope["method"][:16],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "key_id": _key_id(scope),
            "received_bytes": seen.received_bytes,
            "sent_bytes": seen.sent_bytes,
        },
    )
