"""How errors are answered: one place decides status, headers and, by the address, the body's form.

Addresses under `/v1` share one body, which is also the one that OpenAI's clients read; those of
other protocols have the forms that their own clients read.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from app.errors import (
    BadRequest,
    BodyTooLarge,
    ServiceError,
    UnsupportedBody,
    error_code,
    http_status,
    retry_after,
)
from app.protocols.requests import ClientGone
from retrieval.errors import InvalidInput, RetrievalError

log = logging.getLogger(__name__)

Shape = tuple[Callable[[RetrievalError, str], dict[str, Any]], Callable[[RetrievalError], int]]
"""The body and the status of an error in one protocol."""

CLIENT_GONE = 499
"""nginx's word in logs for a client that did not wait; nobody reads the answer."""

_MOST_SHOWN = 3
_MOST_CHARACTERS = 2000

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
    problem: str = Field(description="what was given and what was expected")
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


class InvalidField(ServiceError, InvalidInput):
    """A field of the request has a value that cannot be used. `param`: its place, with dots."""

    status, code = 422, "invalid_input"

    def __init__(self, problem: str, *, fix: str, param: str | None) -> None:
        super().__init__(problem, fix=fix)
        self.param = param


class PlainHttpError(ServiceError):
    """What the web framework refuses by itself: an unknown address, another method."""

    def __init__(self, problem: str, *, fix: str, status: int, code: str) -> None:
        super().__init__(problem, fix=fix)
        self.status, self.code = status, code


_DESCRIPTIONS = {
    400: "the body is no JSON, or cannot be read",
    401: "no API key, or an unknown one",
    403: "the key may not do this",
    404: "no such collection, document, model or job",
    405: "another method is expected here",
    408: "the body did not arrive in time",
    409: "it is there already, or something else is being done to it",
    413: "the body is too large",
    415: "a content type that is not read here",
    422: "a field or an option that cannot be used; `param` says which",
    429: "too much to do, or the key's own limit; see Retry-After",
    500: "a fault of the service; its log has more under the request id",
    501: "not installed or not configured",
    502: "the language model's endpoint failed",
    503: "the index or a model cannot be reached, or the service is stopping",
    504: "not answered within `timeout_ms`",
    507: "the disk is full",
}
_ALWAYS = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI is told of a route's errors: those any route can have, and these."""
    return {
        status: {"model": ErrorBody, "description": _DESCRIPTIONS[status]}
        for status in sorted({*_ALWAYS, *statuses})
    }


def answer(
    path: str,
    error: RetrievalError,
    request_id: str,
    *,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer to a request that failed.

    Args:
        path: of the request; decides the body's form.
        error: status, code and Retry-After follow from it.
        request_id: for the body, so that the log can be searched for it.
        headers: further ones.
    """
    body, status = _shape_of(path)
    all_headers = dict(headers or {})
    code = status(error)
    wait = retry_after(error)
    if wait is not None and math.isfinite(wait):
        all_headers.setdefault("Retry-After", str(max(1, math.ceil(wait))))
    if code == HTTPStatus.UNAUTHORIZED:
        all_headers.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(_clean(body(error, request_id)), code, headers=all_headers)


def error_body(error: RetrievalError, request_id: str) -> dict[str, Any]:
    """The body of every address under `/v1`, in OpenAI's form and with more in it."""
    return {
        "error": {
            "message": str(error),
            "type": error_type(http_status(error)),
            "param": getattr(error, "param", None),
            "code": error_code(error),
            "problem": error.problem,
            "fix": error.fix,
            "request_id": request_id,
        }
    }


def error_type(status: int) -> ErrorType:
    """OpenAI's word for the kind of an error."""
    known: dict[int, ErrorType] = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
    return known.get(status, "server_error" if status >= 500 else "invalid_request_error")


def request_id_of(request: Request) -> str:
    """The id that the guard gave the request; one of its own where there is no guard."""
    known = getattr(request.state, "request_id", None)
    if not isinstance(known, str):
        known = uuid.uuid4().hex[:16]
        request.state.request_id = known
    return known


def install(app: FastAPI) -> None:
    """Let the app answer every error in the form of the address that was asked."""

    def told(
        request: Request, error: RetrievalError, headers: Mapping[str, str] | None = None
    ) -> Response:
        request.state.error_code = error_code(error)  # for the metrics
        return answer(request.url.path, error, request_id_of(request), headers=headers)

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, RetrievalError)
        if http_status(error) >= 500:
            log.warning("request %s: %s", request_id_of(request), error)
        return told(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return told(request, _invalid(request, error))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return told(request, _plain(request, error), error.headers)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def unexpected(request: Request, error: Exception) -> Response:
        # The framework raises the error again after the answer, so the server logs its traceback.
        request_id = request_id_of(request)
        log.error("request %s failed: %s", request_id, type(error).__name__)
        fault = ServiceError(
            "the service has a fault, and the request was not answered",
            fix=f"Try again; the service's log says more about request {request_id}.",
        )
        return told(request, fault)

    app.add_exception_handler(RetrievalError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(ClientGone, gone)
    app.add_exception_handler(Exception, unexpected)


def is_json(content_type: str) -> bool:
    """Whether a Content-Type header says JSON."""
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or (
        media.startswith("application/") and media.endswith("+json")
    )


def _shape_of(path: str) -> Shape:
    if path.startswith("/v2/"):
        from app.protocols.rerank.routes import cohere_error_body

        return cohere_error_body, http_status
    if path in ("/embed", "/embed_sparse", "/rerank", "/predict", "/info", "/health"):
        from app.protocols.tei import routes as tei

        return tei.error_body, getattr(tei, "error_status", http_status)
    if path == "/retrieval":
        from app.protocols.dify import routes as dify

        return dify.error_body, dify.error_status
    return error_body, http_status


def _invalid(request: Request, error: RequestValidationError) -> ServiceError:
    """What pydantic refused, in the words of this service."""
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        where = first["loc"][-1] if first["loc"] else 0
        return BadRequest(
            f"the body is no JSON: {_reason(first)} at character {where}",
            fix="Send one JSON value in UTF-8, with Content-Type: application/json.",
        )
    whole = tuple(first["loc"]) == ("body",)
    given = request.headers.get("content-type", "")
    if whole and first["type"] == "missing":
        return InvalidField("the request has no body", fix="Send a JSON object.", param=None)
    if whole and not is_json(given):
        return UnsupportedBody(
            f"the body has the content type {given[:100]!r}, and this address reads JSON",
            fix="Send JSON, with Content-Type: application/json.",
        )
    told = [_told(problem) for problem in problems[:_MOST_SHOWN]]
    more = len(problems) - len(told)
    text = "; ".join(told) + (f"; and {more:,} more" if more > 0 else "")
    unknown = first["type"] == "extra_forbidden"
    return InvalidField(
        text[:_MOST_CHARACTERS],
        fix="Correct its name, or leave it out; /openapi.json has all fields."
        if unknown
        else "Correct the request; /openapi.json describes its fields.",
        param=_place(first),
    )


def _told(problem: Mapping[str, Any]) -> str:
    place = _place(problem)
    if problem["type"] == "extra_forbidden":
        return f"there is no field {place!r} here"
    return f"{place or 'the body'}: {_reason(problem)}"


def _reason(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    reason = str(context.get("error") or problem["msg"])
    if problem["type"] == "value_error":
        reason = reason.removeprefix("Value error, ")
    return reason[:1].lower() + reason[1:]


def _place(problem: Mapping[str, Any]) -> str | None:
    """Where in the request: `where.year`, `documents.3.id`."""
    parts = [str(part)[:100] for part in problem["loc"]]
    if parts and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    return ".".join(parts) or None


def _plain(request: Request, error: HTTPException) -> ServiceError:
    path, method = request.url.path[:200], request.method
    if error.status_code == HTTPStatus.NOT_FOUND:
        return PlainHttpError(
            f"there is no address {path!r}", fix="See /openapi.json for all there are.",
            status=404, code="address_not_found",
        )  # fmt: skip
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        return PlainHttpError(
            f"{path!r} does not take {method}, but {allowed}", fix="Use that method.",
            status=405, code="method_not_allowed",
        )  # fmt: skip
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return BadRequest(
            "the body cannot be read: nested too deeply, a number too large, or not what its "
            "content type says",
            fix="Send one JSON value in UTF-8, with Content-Type: application/json.",
        )
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return BodyTooLarge("the body is too large", fix="Send less at once.")
    phrase = str(error.detail)[:_MOST_CHARACTERS]
    return PlainHttpError(
        phrase, fix="See /openapi.json for what is expected.",
        status=error.status_code, code=phrase.lower().replace(" ", "_")[:60],
    )  # fmt: skip


def _clean(value: Any) -> Any:
    """With what UTF-8 cannot hold written out, so that an answer can always be sent."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items()}
    return value
