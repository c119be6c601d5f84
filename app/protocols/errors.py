"""Error responses: one place decides status, headers and, by the address, the body's form.

Addresses under `/v1` share one body, which OpenAI's clients read, too (`NATIVE`). Where the clients
of a protocol read another body, its package has an `ErrorForm`, and the app hands it to `install`.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
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

CLIENT_GONE = 499
"""What nginx writes into its log for a client that did not wait, so the answer is not read."""

_MOST_SHOWN = 3
_MOST_CHARACTERS = 2000


class InvalidField(ServiceError, InvalidInput):
    """A field of the request has a value that cannot be used. `param`: its place, with dots."""

    status, code = 422, "invalid_input"

    def __init__(self, problem: str, *, fix: str, param: str | None) -> None:
        super().__init__(problem, fix=fix)
        self.param = param


class FrameworkError(ServiceError):
    """What the web framework refuses by itself: an unknown address, another method."""

    def __init__(self, problem: str, *, fix: str, status: int, code: str) -> None:
        super().__init__(problem, fix=fix)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """How a protocol answers errors.

    prefixes: its addresses; one that ends in "/" means all addresses below it. body: makes
    the body of an error and the request's id. status: the HTTP status of an error.
    """

    prefixes: tuple[str, ...]
    body: Callable[[RetrievalError, str], dict[str, Any]]
    status: Callable[[RetrievalError], int] = http_status

    def covers(self, path: str) -> bool:
        """Whether an address is one of this protocol's."""
        return any(
            path == prefix or (prefix.endswith("/") and path.startswith(prefix))
            for prefix in self.prefixes
        )


def answer(
    error: RetrievalError,
    request_id: str,
    form: ErrorForm,
    *,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer to a request that failed.

    Args:
        error: status, code and Retry-After follow from it.
        request_id: for the body, so that the log can be searched for it.
        form: of the protocol that the request's address belongs to; see `form_of`.
        headers: further ones.
    """
    all_headers = dict(headers or {})
    code = form.status(error)
    wait = retry_after(error)
    if wait is not None and math.isfinite(wait):
        all_headers.setdefault("Retry-After", str(max(1, math.ceil(wait))))
    if code == HTTPStatus.UNAUTHORIZED:
        all_headers.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(_clean(form.body(error, request_id)), code, headers=all_headers)


def form_of(path: str, forms: Sequence[ErrorForm]) -> ErrorForm:
    """The form that covers an address, and `NATIVE` where none does."""
    return next((form for form in forms if form.covers(path)), NATIVE)


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


NATIVE = ErrorForm(("/v1/",), error_body)
"""The form under `/v1`, and of all addresses that no other protocol has."""


def error_type(status: int) -> str:
    """OpenAI's word for the kind of an error."""
    known = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
    return known.get(status, "server_error" if status >= 500 else "invalid_request_error")


def request_id_of(request: Request) -> str:
    """The id that the guard set, or a new one where the app has no guard."""
    known = getattr(request.state, "request_id", None)
    if not isinstance(known, str):
        known = uuid.uuid4().hex[:16]
        request.state.request_id = known
    return known


def install(app: FastAPI, forms: Sequence[ErrorForm] = ()) -> None:
    """Let the app answer every error in the form of the address that was asked.

    Args:
        app: gets the handlers.
        forms: of the protocols that have their own; all other errors are answered in `NATIVE`.
    """

    def answered(
        request: Request, error: RetrievalError, headers: Mapping[str, str] | None = None
    ) -> Response:
        request.state.error_code = error_code(error)  # for the metrics
        form = form_of(request.url.path, forms)
        return answer(error, request_id_of(request), form, headers=headers)

    async def expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, RetrievalError)
        if http_status(error) >= 500:
            log.warning("request %s: %s", request_id_of(request), error)
        return answered(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answered(request, _validation_error(request, error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answered(request, _framework_error(request, error), error.headers)

    async def client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def unexpected(request: Request, error: Exception) -> Response:
        # The framework raises the error again after the answer, so the server logs its traceback.
        request_id = request_id_of(request)
        log.error("request %s failed: %s", request_id, type(error).__name__)
        fault = ServiceError(
            "the service has a fault, and the request was not answered",
            fix=f"Try again; the service's log says more about request {request_id}.",
        )
        return answered(request, fault)

    app.add_exception_handler(RetrievalError, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientGone, client_gone)
    app.add_exception_handler(Exception, unexpected)


def is_json(content_type: str) -> bool:
    """Whether a Content-Type header says JSON."""
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or (
        media.startswith("application/") and media.endswith("+json")
    )


def _validation_error(request: Request, error: RequestValidationError) -> ServiceError:
    """What pydantic refused, in the words of this service."""
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        where = first["loc"][-1] if first["loc"] else 0
        return BadRequest(
            f"the body is not JSON: {_reason(first)} at character {where}",
            fix="Send one JSON value in UTF-8, with Content-Type: application/json.",
        )
    whole = tuple(first["loc"]) == ("body",)
    content_type = request.headers.get("content-type", "")
    if whole and first["type"] == "missing":
        return InvalidField("the request has no body", fix="Send a JSON object.", param=None)
    if whole and not is_json(content_type):
        return UnsupportedBody(
            f"the body has the content type {content_type[:100]!r}, and this address reads JSON",
            fix="Send JSON, with Content-Type: application/json.",
        )
    sentences = [_sentence(problem) for problem in problems[:_MOST_SHOWN]]
    more = len(problems) - len(sentences)
    text = "; ".join(sentences) + (f"; and {more:,} more" if more > 0 else "")
    unknown = first["type"] == "extra_forbidden"
    return InvalidField(
        text[:_MOST_CHARACTERS],
        fix="Correct its name, or leave it out; /openapi.json has all fields."
        if unknown
        else "Correct the request; /openapi.json describes its fields.",
        param=_place(first),
    )


def _sentence(problem: Mapping[str, Any]) -> str:
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


def _framework_error(request: Request, error: HTTPException) -> ServiceError:
    path, method = request.url.path[:200], request.method
    if error.status_code == HTTPStatus.NOT_FOUND:
        return FrameworkError(
            f"there is no address {path!r}", fix="See /openapi.json for all there are.",
            status=404, code="address_not_found",
        )  # fmt: skip
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        return FrameworkError(
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
    return FrameworkError(
        phrase, fix="See /openapi.json for what is expected.",
        status=error.status_code, code=phrase.lower().replace(" ", "_")[:60],
    )  # fmt: skip


def _clean(value: Any) -> Any:
    """The text with characters that UTF-8 cannot encode escaped, so that an answer can always be
    sent."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items()}
    return value
