"""The service's own errors, and which HTTP status every error is answered with.

    RetrievalError
    └── ServiceError             has `status` and `code`
        ├── BadRequest           400: a body that is not JSON, or a value that a protocol refuses
        ├── Unauthorized         401: no key, a malformed header or an unknown key (`reason`)
        ├── Forbidden            403: a key that may not do this
        ├── NotHere              404: a model, a job, a document that the service does not have
        ├── Conflict             409: it exists already, or is being written
        ├── BodyTooLarge         413
        ├── BodyTimeout          408: the body came too slowly
        ├── UnsupportedBody      415
        ├── RateLimited          429: the key's own limit (`retry_after_s`)
        ├── Overloaded           429: the service's queue is full (`retry_after_s`)
        ├── DeadlinePassed       504: the request's own `timeout_ms`
        ├── Stopping             503: the service is being stopped
        ├── NoLanguageModel      501: nothing is configured to write answers
        └── LanguageModelFault   502: the configured endpoint failed

The library's errors have their statuses in `_STATUSES`.
"""

from __future__ import annotations

import re
from typing import Literal

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    CollectionReplaced,
    CorpusError,
    DiskFull,
    InvalidInput,
    ManifestMismatch,
    MissingExtra,
    ModelFault,
    ModelNotFound,
    RetrievalError,
    StoreDenied,
    StoreFault,
    StoreLocked,
    UserError,
)


class ServiceError(RetrievalError):
    """An error of the service itself. `code` is a stable name for programs."""

    status = 500
    code = "internal"


class BadRequest(ServiceError):
    """What was sent cannot be read."""

    status, code = 400, "bad_request"


class Unauthorized(ServiceError):
    """The request names no key, or none that is known.

    Args:
        problem, fix: see `RetrievalError`.
        reason: "missing", "malformed" (a header that is not `Bearer KEY`) or "unknown".
    """

    status, code = 401, "unauthorized"

    def __init__(
        self, problem: str, *, fix: str, reason: Literal["missing", "malformed", "unknown"]
    ) -> None:
        super().__init__(problem, fix=fix)
        self.reason = reason


class Forbidden(ServiceError):
    """The key is known and may not do this."""

    status, code = 403, "forbidden"


class NotHere(ServiceError):
    """The service has no such model, job or document.

    Args:
        problem, fix: see `RetrievalError`.
        what: "model", "job", "document", …; the code is `<what>_not_found`.
    """

    status = 404

    def __init__(self, problem: str, *, fix: str, what: str) -> None:
        super().__init__(problem, fix=fix)
        self.code = f"{what}_not_found"


class Conflict(ServiceError):
    """It exists already, or another operation changes it."""

    status, code = 409, "conflict"


class BodyTooLarge(ServiceError):
    """The body, or one upload in it, is larger than the service takes."""

    status, code = 413, "body_too_large"


class BodyTimeout(ServiceError):
    """The body did not arrive in time."""

    status, code = 408, "body_timeout"


class UnsupportedBody(ServiceError):
    """The body has a content type that this address does not take."""

    status, code = 415, "unsupported_media_type"


class _Retry(ServiceError):
    status = 429

    def __init__(self, problem: str, *, fix: str, retry_after_s: float) -> None:
        super().__init__(problem, fix=fix)
        self.retry_after_s = retry_after_s


class RateLimited(_Retry):
    """The key has used up its own requests. `retry_after_s`: seconds until the next may come."""

    code = "rate_limited"


class Overloaded(_Retry):
    """The queue is full. `retry_after_s`: seconds until the queue should have room."""

    code = "overloaded"


class DeadlinePassed(ServiceError):
    """The request's own `timeout_ms` passed before it was answered."""

    status, code = 504, "deadline_passed"


class Stopping(ServiceError):
    """The service is being stopped and takes nothing new."""

    status, code = 503, "stopping"


class NoLanguageModel(ServiceError):
    """No endpoint of a language model is configured."""

    status, code = 501, "no_language_model"


class LanguageModelFault(ServiceError):
    """The configured endpoint refused, failed, or did not answer in time."""

    status, code = 502, "language_model_fault"


# The first class that fits counts.
_STATUSES: tuple[tuple[type[RetrievalError], int], ...] = (
    (CollectionNotFound, 404),
    (CollectionReplaced, 503),
    (CollectionExists, 409),
    (ManifestMismatch, 409),
    (MissingExtra, 501),
    (ModelNotFound, 503),
    (StoreLocked, 503),
    (CorpusError, 422),
    (InvalidInput, 422),
    (UserError, 400),
    (DiskFull, 507),
    (StoreDenied, 503),
    (StoreFault, 503),
    (ModelFault, 500),
)


def http_status(error: RetrievalError) -> int:
    """The HTTP status that an error is answered with."""
    if isinstance(error, ServiceError):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def error_code(error: RetrievalError) -> str:
    """A stable word for programs: `collection_not_found`, `invalid_input`, `overloaded`, …"""
    if isinstance(error, ServiceError):
        return error.code
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


def retry_after(error: RetrievalError) -> float | None:
    """Seconds after which the same request may succeed; None where waiting changes nothing."""
    if isinstance(error, (_Retry, StoreFault)):
        return error.retry_after_s
    if isinstance(error, Stopping):
        return 5.0
    if isinstance(error, StoreFault):
        return error.retry_after_s
    if isinstance(error, CollectionReplaced):
        return 1.0  # what replaced it is opened by the next request
    return None
