"""Errors as Text Embeddings Inference answers them, and the ones that only its addresses have."""

from __future__ import annotations

from typing import Any

from app.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlinePassed,
    NotHere,
    ServiceError,
    Stopping,
    http_status,
    retry_after,
)
from app.protocols.errors import ErrorForm
from app.protocols.openapi_responses import described
from app.protocols.tei.schemas import ErrorType, TeiError
from retrieval import RetrievalError
from retrieval.errors import Fault, ModelFault, ModelNotFound


class EmptyBatch(BadRequest):
    """A list without a text in it."""

    code = "empty_batch"


class TooManyInputs(BodyTooLarge):
    """More texts than one request may have."""

    code = "too_many_inputs"


class InputTooLong(BodyTooLarge):
    """A text is longer than the model reads, and the request does not allow to truncate it."""

    code = "input_too_long"


class Unhealthy(ServiceError):
    """The service cannot answer now."""

    status, code = 503, "unhealthy"


def error_body(error: RetrievalError, request_id: str) -> dict[str, Any]:
    """The body of every error of TEI's routes; the header X-Request-ID has the request's id."""
    text = str(error)
    return TeiError(error=text, error_type=_error_type(error), message=text).model_dump()


def error_status(error: RetrievalError) -> int:
    """TEI's own status for an error: 424 where the model cannot do it, else the service's."""
    return 424 if isinstance(error, (NotHere, ModelFault)) else http_status(error)


ERROR_FORM = ErrorForm(
    ("/embed", "/embed_sparse", "/rerank", "/predict", "/info", "/health"),
    error_body,
    error_status,
)

RESPONSES = described(
    TeiError,
    {
        400: "Empty: no text was sent. Validation: the body, or a text in it, cannot be read.",
        401: "Validation: no API key, or an unknown one.",
        403: "Validation: the API key may not do this.",
        408: "Validation: the body did not arrive in time.",
        413: "Validation: too many texts, a text is too long, or the body too large.",
        415: "Validation: the body is not JSON.",
        422: "Validation: a value cannot be used.",
        424: "Backend: the service has no such model, or it failed.",
        429: "Overloaded: too many requests; Retry-After says when to come back.",
        500: "Backend: a part of the service failed.",
        503: "Unhealthy: the service cannot answer now.",
        504: "Overloaded: the request took longer than it may.",
    },
)
"""What OpenAPI says of the errors of TEI's routes."""


def _error_type(error: RetrievalError) -> ErrorType:
    if isinstance(error, EmptyBatch):
        return "Empty"
    if isinstance(error, (Unhealthy, Stopping)):
        return "Unhealthy"
    if isinstance(error, DeadlinePassed) or retry_after(error) is not None:
        return "Overloaded"
    if isinstance(error, (NotHere, Fault, ModelNotFound)) or http_status(error) >= 500:
        return "Backend"
    return "Validation"
