"""Errors of a language model's endpoint, as `LanguageModelFault`, without the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.errors import LanguageModelFault

RETRY = "Try again; if the error persists, see the log of its endpoint."

_MOST_QUOTED = 300


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What messages name of an endpoint, and its key, which they never have.

    model: its name there. place: the address, from `shown_url`. timeout_s: of one answer.
    """

    model: str
    place: str
    key: str | None
    timeout_s: float


def shown_url(url: str) -> str:
    """An address without the parts that may be secret: user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path


def endpoint_fault(error: Exception, endpoint: Endpoint) -> LanguageModelFault | None:
    """The fault that an error of the `openai` package or of the connection is; None for others."""
    import httpx2
    import openai

    model = f"the language model at {endpoint.place}"
    match error:
        case TimeoutError() | openai.APITimeoutError() | httpx2.TimeoutException():
            return LanguageModelFault(
                f"{model} did not answer within {endpoint.timeout_s:g} seconds",
                fix="Ask again, ask for a shorter answer, or raise llm_timeout_s.",
            )
        case openai.APIStatusError():
            return _status_fault(model, error, endpoint)
        case openai.APIConnectionError() | httpx2.HTTPError():
            return LanguageModelFault(
                f"the connection to {model} failed ({_quoted(error, endpoint)})",
                fix="Check that the endpoint runs and that llm_url is right.",
            )
        case openai.OpenAIError() | ValueError():
            return LanguageModelFault(
                f"{model} sent an answer that cannot be read ({_quoted(error, endpoint)})",
                fix="Check that llm_url is the base URL of an OpenAI-compatible endpoint; it "
                "usually ends in /v1.",
            )
    return None


def _status_fault(model: str, error: Any, endpoint: Endpoint) -> LanguageModelFault:
    status = error.status_code
    if status in (401, 403):
        # nothing of what it said: some endpoints repeat the key
        return LanguageModelFault(
            f"{model} refused the service's key (HTTP {status})",
            fix="The service's operator must correct llm_key.",
        )
    what, fix = (
        "refused the request",
        ("Check that llm_context_tokens and llm_answer_tokens fit the model."),
    )
    if status == 404:
        what = f"has no such address or no model {endpoint.model!r}"
        fix = "The service's operator must correct llm_url or llm_model."
    elif status == 429:
        what, fix = "is overloaded", "Ask again later."
    elif status >= 500:
        what, fix = "failed", RETRY
    return LanguageModelFault(
        f"{model} {what} (HTTP {status}: {_quoted(error, endpoint)})", fix=fix
    )


def _quoted(error: Exception, endpoint: Endpoint) -> str:
    """The start of what was said, without the key."""
    cause = error.__cause__ or error
    said = " ".join(str(getattr(cause, "message", cause)).split()) or type(cause).__name__
    if endpoint.key:
        said = said.replace(endpoint.key, "…")
    return said[:_MOST_QUOTED]
