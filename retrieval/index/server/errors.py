"""What went wrong between us and a Qdrant server, over REST or gRPC, in the library's words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias

from retrieval.errors import (
    CollectionNotFound,
    CollectionReplaced,
    DiskFull,
    InvalidFilter,
    RetrievalError,
    StoreDenied,
    StoreFault,
)
from retrieval.index.payload import RESERVED
from retrieval.index.server.advice import fix_of

FailureKind: TypeAlias = Literal[
    "away", "cut", "slow", "busy", "large", "denied", "missing", "exists", "full", "tls",
    "stranger", "replaced", "limited", "unindexed", "refused",
]  # fmt: skip
"""away: no connection. cut: it broke under way. slow: no answer in time. busy: it asks to come
back later, or failed within itself. large: too much for one request. full: its disk or memory. tls:
certificates or protocol. stranger: what answers is not a Qdrant server. replaced: the collection
has no vectors of these names, see `names.py`. limited: more than its strict mode allows. unindexed:
a filter on a field without an index, where that allows none. refused: anything else, for good."""

_LARGE = re.compile(
    r"(payload|message|body|entity|request)\b.{0,60}(too large|larger than|size limit)",
    re.IGNORECASE | re.DOTALL,
)
_REPLACED = re.compile(
    r"Not existing vector name|vector \S+ is not found in the collection", re.IGNORECASE
)
_FULL = re.compile(
    r"no space left|available disk space|disk quota|(disk|memory) usage is at", re.IGNORECASE
)
_LIMITED = re.compile(
    r"Limit exceeded [\d.]+ > (?P<most>[\d.]+) for \"(?P<name>[^\"]+)\""
    r"|(?P<part>Filter condition limit|Condition size limit) reached \(\d+ > (?P<count>\d+)\)"
    r"|(?P<exact>Exact search disabled|vector indexing is disabled)"
    r"|(?P<tokens>larger than rate limiter capacity)"
)
_UNINDEXED = re.compile(
    r"Index required but not found for \"(?P<path>.+)\" of one of the following types: "
    r"\[(?P<kinds>[^\]]*)\]"
)
_SETTINGS = {
    "limit": "max_query_limit",
    "upsert limit": "upsert_max_batchsize",
    "search batch size": "search_max_batchsize",
    "hnsw_ef": "search_max_hnsw_ef",
    "oversampling": "search_max_oversampling",
    "timeout": "max_timeout",
    "Filter condition limit": "filter_max_conditions",
    "Condition size limit": "condition_max_size",
}
_LONGEST_TEXT = 500
_STRANGER = "the answer is not that of a Qdrant server this client knows"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call. `retry_after_s`: what the server asked to wait. grpc: of the gRPC port."""

    kind: FailureKind
    text: str
    retry_after_s: float = 0.0
    grpc: bool = False


class KnownFailure(Exception):
    """A call that failed for a reason that is known already, or was found by looking."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class OverLimit(StoreFault):
    """More than a collection's strict mode allows.

    Attributes:
        setting: the server's name of the limit.
        most: what it allows; False where it forbids, None where a request costs more tokens than
            there ever are.
    """

    def __init__(self, problem: str, *, fix: str, setting: str, most: float | bool | None) -> None:
        super().__init__(problem, fix=fix)
        self.setting = setting
        self.most = most


def failure_of(error: Exception) -> Failure:
    """What an exception of the client means."""
    if isinstance(error, KnownFailure):
        return error.failure
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
    # what another program answers is no JSON, or JSON without a result
    if isinstance(error, json.JSONDecodeError) or (
        isinstance(error, AssertionError) and "returned None" in text
    ):
        return Failure("stranger", _STRANGER)
    # the in-memory double raises ValueErrors
    if _REPLACED.search(text):
        return Failure("replaced", text)
    if "not found" in text:
        return Failure("missing", text)
    return Failure("exists" if "already exists" in text else "refused", text)


def hidden(failure: Failure, key: str | None) -> Failure:
    """The same failure, without the API key where a server repeats it."""
    if key and key in failure.text:
        return replace(failure, text=failure.text.replace(key, "[the API key]"))
    return failure


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
    failure: Failure,
    what: str,
    *,
    tried_s: float = 0.0,
    resumable: bool = False,
    proxy: str | None = None,
) -> RetrievalError:
    """The library's error for a failed call.

    Args:
        failure: what happened last.
        what: what was tried, as in "could not <what>".
        tried_s: for how long, where it was tried more than once.
        resumable: whether a long run was cut off, which can be continued.
        proxy: of the environment, that requests to this server go through.
    """
    text, kind = failure.text, failure.kind
    if kind == "slow":
        text = "no answer in time"
    if tried_s >= 1:
        text += f"; it was tried for {tried_s:.0f} s"
    fix = fix_of(kind, failure.text, retry_after_s=failure.retry_after_s, grpc=failure.grpc)
    if resumable:
        fix += " A run that is repeated goes on from there: what was acknowledged is kept."
    if proxy is not None:
        what += f" through the environment's proxy {proxy}"
        fix += (
            " The proxy may be what answers, or what is in the way: without it, name the server "
            "in NO_PROXY or give proxy=False (in the URL: ?proxy=false)."
        )
    problem = f"could not {what}: {text}"
    if kind == "denied":
        return StoreDenied(f"no permission to {what} ({text})", fix=fix)
    if kind == "missing":
        return CollectionNotFound(f"could not {what}: it is not there ({text})", fix=fix)
    if kind == "replaced":
        return replaced(what, text)
    if kind in ("limited", "large") and (limited := _over_limit(problem)):
        return limited
    if kind == "unindexed" and (found := _UNINDEXED.search(text)):
        return _unindexed(found["path"], found["kinds"])
    if kind == "full" and "memory usage" in text:
        return DiskFull(
            f"could not {what}: its memory is full ({text})",
            fix="Give the server more memory, or delete what is not needed; what was acknowledged "
            "before is kept.",
        )
    if kind == "full":
        return DiskFull(f"could not {what}: its disk is full ({text})", fix=fix)
    wait = failure.retry_after_s or (_COMES_BACK_S if kind in _COMES_BACK else None)
    return StoreFault(problem, fix=fix, retry_after_s=wait)


_COMES_BACK: frozenset[FailureKind] = frozenset({"away", "cut", "slow", "busy"})
_COMES_BACK_S = 2.0


def _over_limit(problem: str) -> OverLimit | None:
    found = _LIMITED.search(problem)
    if found is None:
        return None
    most: float | bool | None
    if found["exact"]:
        setting, most = "search_allow_exact", False
    elif found["tokens"]:
        setting = "write_rate_limit" if "Write rate" in problem else "read_rate_limit"
        most = None
    else:
        number = float(found["most"] or found["count"])
        most = int(number) if number.is_integer() else number
        setting = _SETTINGS.get(found["name"] or found["part"], found["name"])
    return OverLimit(
        problem,
        fix=f"Ask for less at once, or raise {setting} in the strict mode of the collection.",
        setting=setting,
        most=most,
    )


def _unindexed(path: str, kinds: str) -> InvalidFilter:
    """What indexes a field, by the name that `where` has for it."""
    name = re.sub(r"^(metadata|metadata_flags)\.", "", path)
    if path.startswith("metadata.") and name in RESERVED:
        name = path
    wanted = kinds.split(", ")
    kind = "keyword" if "keyword" in wanted else "datetime" if "datetime" in wanted else "number"
    return InvalidFilter(
        f"the filter uses {name!r}, which has no index of the kind {kind}, and the strict mode of "
        "the collection allows filters on indexed fields only",
        fix=f"Leave it out, or index the field: retrieval reindex PATH --field {name}:{kind}, with "
        "the collection's --collection and --store.",
    )


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
        return Failure("stranger", _STRANGER)
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
    words = _server_words(error.content)
    if words is None:
        body = _line(error.content.decode("utf-8", "replace"))
        page = body.lstrip().startswith("<")
        text = f"status {status} {error.reason_phrase}, and not in a Qdrant server's form"
        if status == 404 or (page and status in (400, 401, 403, 405, 407)):
            tls = status == 400 and "HTTPS" in body
            return Failure("tls" if tls else "stranger", f"{text}: {body[:100]}".rstrip(": "))
        if page:
            body = body[:100]
    else:
        body = _line(words)
    text = f"status {status} {error.reason_phrase}: {body}".rstrip(": ")
    kind: FailureKind = "refused"
    if status in (401, 403, 407):
        kind = "denied"
    elif status == 404:
        kind = "missing"
    elif status == 409 or (status == 400 and "already exists" in body):
        kind = "exists"
    elif status == 400 and _REPLACED.search(body):
        kind = "replaced"
    elif status == 507 or _FULL.search(body):
        kind = "full"
    elif status == 400 and (limited := _limited(body)):
        kind = limited
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


def _server_words(content: bytes) -> str | None:
    """The server's words out of its envelope; None where there is none."""
    try:
        return str(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return None


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
    "UNIMPLEMENTED": "stranger",
}


def _of_rpc(error: Any) -> Failure:
    name = error.code().name
    details = _line(error.details() or "")
    text = f"{name}: {details}" if details else name
    kind = _CODES.get(name, "refused")
    if _FULL.search(details):
        kind = "full"
    elif _LARGE.search(details):
        kind = "large"
    elif "already exists" in details:
        kind = "exists"
    elif _REPLACED.search(details):
        kind = "replaced"
    elif name == "INVALID_ARGUMENT" and (limited := _limited(details)):
        kind = limited
    elif name == "UNAVAILABLE" and ("SSL" in details or "CERTIFICATE" in details):
        kind = "tls"
    elif "http1" in details or "http2 header with status" in details:
        kind = "stranger"  # a port that speaks HTTP, or a proxy that does not know gRPC
    return Failure(kind, text, grpc=True)


def _limited(text: str) -> FailureKind | None:
    if _LIMITED.search(text):
        return "limited"
    return "unindexed" if _UNINDEXED.search(text) else None


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]
