"""What went wrong between us and a Qdrant server, over REST or gRPC, in the library's words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias

from retrieval.errors import (
    CollectionNotFound,
    CollectionReplaced,
    DiskFull,
    RetrievalError,
    StoreDenied,
    StoreFault,
)

FailureKind: TypeAlias = Literal[
    "away", "cut", "slow", "busy", "large", "denied", "missing", "exists", "full", "tls",
    "stranger", "replaced", "refused",
]  # fmt: skip
"""away: no connection. cut: it broke under way. slow: no answer in time. busy: it asks to come
back later, or failed within itself. large: too much for one request. full: its disk. tls:
certificates or protocol. stranger: what answers is not a Qdrant server. replaced: the collection
has no vectors of these names, see `names.py`. refused: anything else, for good."""

_LARGE = re.compile(
    r"(payload|message|body|entity|request)\b.{0,60}(too large|larger than|size limit)",
    re.IGNORECASE | re.DOTALL,
)
_FULL = re.compile(r"no space left|available disk space|disk quota", re.IGNORECASE)
_REPLACED = re.compile(
    r"Not existing vector name|vector \S+ is not found in the collection", re.IGNORECASE
)
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call. `retry_after_s`: what the server asked to wait."""

    kind: FailureKind
    text: str
    retry_after_s: float = 0.0


def failure_of(error: Exception) -> Failure:
    """What an exception of the client means."""
    from grpc import RpcError  # type: ignore[import-untyped]
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResponseHandlingException):
        return _of_transport(error.source)
    if isinstance(error, UnexpectedResponse):
        return _of_status(error)
    if isinstance(error, ResourceExhaustedResponse):
        wait = max(0.0, float(error.retry_after_s))
        return Failure("busy", f"it limits requests: {_line(error.message)}", wait)
    text = _line(str(error)) or type(error).__name__
    if isinstance(error, RpcError):
        return _of_rpc(error)
    if isinstance(error, QdrantException) and "Retry-After" in text:
        # the client reads whole seconds only, and hands anything else over in its message
        value = str(error).partition(": ")[2]
        return Failure("busy", "it limits requests", retry_after(value))
    # the in-memory double raises ValueErrors
    if _REPLACED.search(text):
        return Failure("replaced", text)
    if "not found" in text:
        return Failure("missing", text)
    return Failure("exists" if "already exists" in text else "refused", text)


def retry_after(value: str, now: datetime | None = None) -> float:
    """Seconds to wait by a Retry-After header (RFC 9110 §10.2.3): seconds or a date; else 0."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def translated(
    failure: Failure, what: str, *, tried_s: float = 0.0, resumable: bool = False
) -> RetrievalError:
    """The library's error for a failed call.

    Args:
        failure: what happened last.
        what: what was tried, as in "could not <what>".
        tried_s: for how long, where it was tried more than once.
        resumable: whether a long run was cut off, which can be continued.
    """
    text, kind = failure.text, failure.kind
    if kind == "slow":
        text = "no answer in time"
    if tried_s >= 1:
        text += f"; it was tried for {tried_s:.0f} s"
    problem = f"could not {what}: {text}"
    if kind == "denied":
        return StoreDenied(f"no permission to {what} ({text})", fix="Give the right api_key.")
    if kind == "missing":
        return CollectionNotFound(
            f"could not {what}: it is not there ({text})",
            fix="Check the name and the URL, or index into it again.",
        )
    if kind == "replaced":
        return replaced(what, text)
    if kind == "full":
        return DiskFull(
            f"could not {what}: its disk is full ({text})",
            fix="Give the server more space; what was acknowledged before is kept.",
        )
    if failure.retry_after_s:
        fix = f"The server asks to wait {failure.retry_after_s:.0f} s: try again then."
    elif kind == "slow":
        fix = (
            "Try again; if it stays slow, raise the timeout or give the server more memory and "
            "processors."
        )
    elif kind in ("away", "cut"):
        fix = (
            "Check that the server runs and that the URL and port are right "
            "(http://localhost:6333 by default)."
        )
    elif kind == "stranger":
        fix = (
            "Check the URL and port (http://localhost:6333 by default), and that the versions of "
            "the server and of qdrant-client are close together."
        )
    elif kind == "tls":
        fix = (
            "Check that the URL begins with https:// where the server speaks TLS and with http:// "
            "where it does not, and give ca_certificate where its certificate is signed by an "
            "authority of your own."
        )
    elif kind == "large":
        fix = "Ask for less at once, or let the server take larger requests."
    elif kind == "refused":
        fix = "The server refuses what was sent; its own words are above, its log may say more."
    else:
        fix = "See the server's log; repeating the call is safe."
    if resumable:
        fix += " A run that is repeated goes on from there: what was acknowledged is kept."
    return StoreFault(problem, fix=fix)


def replaced(what: str, text: str) -> CollectionReplaced:
    """The error for a collection that is not the one any more that was opened."""
    return CollectionReplaced(
        f"could not {what}: it was deleted or replaced since it was opened ({text})",
        fix="Open it again: what has its name now may have been built otherwise. It was neither "
        "read nor changed.",
    )


def _of_transport(source: Exception) -> Failure:
    import httpx
    from pydantic import ValidationError

    kind, text = type(source).__name__, _line(str(source))
    if isinstance(source, ValidationError):
        return Failure("stranger", "the answer is not that of a Qdrant server this client knows")
    if isinstance(source, httpx.TimeoutException):
        # a connection that cannot be made in time does not mean that the request was too much
        away = isinstance(source, httpx.ConnectTimeout)
        return Failure("away" if away else "slow", text or kind)
    if "SSL" in text or "CERTIFICATE" in text:
        # one that ends too early broke off, as a connection without TLS may
        return Failure("cut" if "EOF" in text else "tls", text)
    if isinstance(source, (httpx.ConnectError, httpx.ProxyError)):
        return Failure("away", text or kind)
    if isinstance(source, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return Failure("cut", text or kind)
    return Failure("refused", text or kind)


def _of_status(error: Any) -> Failure:
    status = error.status_code or 0
    body = _line(_reason(error.content))
    text = f"status {status} {error.reason_phrase}: {body}"
    kind: FailureKind = "refused"
    if status in (401, 403):
        kind = "denied"
    elif status == 404:
        kind = "missing"
    elif status == 409 or (status == 400 and "already exists" in body):
        kind = "exists"
    elif status == 400 and _REPLACED.search(body):
        kind = "replaced"
    elif status == 507 or _FULL.search(body):
        kind = "full"
    elif status == 413 or _LARGE.search(body):
        kind = "large"
    elif status in (408, 504):
        kind = "slow"
    elif status in (502, 503):
        kind = "away"  # as gRPC's UNAVAILABLE; often a proxy whose server is away
    elif status == 429 or (status >= 500 and status not in (501, 505)):
        kind = "busy"
    wait = error.headers.get("Retry-After") if error.headers is not None else None
    return Failure(kind, text, retry_after(wait) if wait and kind in ("away", "busy") else 0.0)


def _reason(content: bytes) -> str:
    """The server's words, out of its envelope where there is one."""
    text = content.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return text


_CODES: dict[str, FailureKind] = {
    "UNAVAILABLE": "away",
    "CANCELLED": "away",  # the stream was reset; nobody else cancels
    "DEADLINE_EXCEEDED": "slow",
    "RESOURCE_EXHAUSTED": "busy",
    "ABORTED": "busy",
    # what is status 500 over REST
    "INTERNAL": "busy",
    "UNKNOWN": "busy",
    "NOT_FOUND": "missing",
    "ALREADY_EXISTS": "exists",
    "UNAUTHENTICATED": "denied",
    "PERMISSION_DENIED": "denied",
}


def _of_rpc(error: Any) -> Failure:
    name = error.code().name
    details = _line(error.details() or "")
    text = f"{name}: {details}" if details else name
    if _FULL.search(details):
        return Failure("full", text)
    if _LARGE.search(details):
        return Failure("large", text)
    if "already exists" in details:
        return Failure("exists", text)
    if _REPLACED.search(details):
        return Failure("replaced", text)
    if name == "UNAVAILABLE" and ("SSL" in details or "CERTIFICATE" in details):
        return Failure("tls", text)
    return Failure(_CODES.get(name, "refused"), text)


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]
