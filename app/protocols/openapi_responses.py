"""What OpenAPI says of errors: the body of every error under `/v1`, and statuses with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Responses = dict[int | str, dict[str, Any]]

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "server_error",
]


class ErrorDetail(BaseModel):
    """What went wrong, and what to do next."""

    message: str = Field(description="`problem` and `fix`, for people")
    type: ErrorType = Field(description="kind of error, in OpenAI's words")
    param: str | None = Field(description="the field at fault, with dots into it; null if none")
    code: str = Field(description="a stable word for programs, such as `collection_not_found`")
    problem: str = Field(description="what was sent and what was expected")
    fix: str = Field(description="what to do next")
    request_id: str = Field(description="finds the request in the service's log")


class ErrorBody(BaseModel):
    """Every error under `/v1`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "there is no collection 'doks'; there are 'docs'. Check the "
                        "name, or make it first by writing documents to it.",
                        "type": "not_found_error",
                        "param": None,
                        "code": "collection_not_found",
                        "problem": "there is no collection 'doks'; there are 'docs'",
                        "fix": "Check the name, or make it first by writing documents to it.",
                        "request_id": "5f0c8f1e7d3a4f0b",
                    }
                }
            ]
        }
    )

    error: ErrorDetail


_DESCRIPTIONS = {
    400: "the body is not JSON, or cannot be read",
    401: "no API key, or an unknown one",
    403: "the key may not do this",
    404: "no such collection, document, model or job",
    405: "another method is expected here",
    408: "the body did not arrive in time",
    409: "it is there already, or something else is being done to it",
    413: "the body is too large",
    415: "a content type that is not read here",
    422: "a field or an option that cannot be used",
    429: "overloaded, or the key's own limit; see Retry-After",
    500: "a fault of the service; its log has more under the request id",
    501: "not installed or not configured",
    502: "the language model's endpoint failed",
    503: "the index or a model cannot be reached, or the service is stopping",
    504: "not answered within `timeout_ms`",
    507: "the disk is full",
}
_ALWAYS = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)


def responses(*statuses: int, model: type[BaseModel] = ErrorBody) -> Responses:
    """What OpenAPI is to say of a route's errors: those that any route can have, and `statuses`."""
    return described(
        model, {status: _DESCRIPTIONS[status] for status in sorted({*_ALWAYS, *statuses})}
    )


def described(model: type[BaseModel], descriptions: Mapping[int, str]) -> Responses:
    """The same for a protocol that gives statuses its own reasons."""
    return {status: {"model": model, "description": text} for status, text in descriptions.items()}
