"""The API key in a request's headers, in the forms that the protocols' clients send it."""

from __future__ import annotations

import base64
import binascii
import re

from starlette.datastructures import Headers

from app.errors import Unauthorized

_FIX = "Send a key as the header `Authorization: Bearer KEY`."
_PROGRAMS = re.compile(
    r"/(?:v1|v2|mcp|rerank|embed|embed_sparse|embed_all|info|health|predict|retrieval|metrics"
    r"|healthz|readyz|openapi\.json|docs|redoc)(?:/.*)?",
    re.DOTALL,
)


def is_page(path: str) -> bool:
    """Whether an address belongs to the page for people, and not to programs."""
    return _PROGRAMS.fullmatch(path) is None


def token_of(path: str, headers: Headers) -> str:
    """The key that a request has sent.

    `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`; for the page also HTTP Basic
    with the key as password. Browsers send that by themselves once they have it, for requests of
    any page, so the addresses of programs do not take it.

    Raises:
        Unauthorized: the request has no key, or the header is malformed.
    """
    header = headers.get("authorization")
    if header is None:
        for name in ("x-api-key", "api-key"):
            value = headers.get(name, "").strip()
            if value:
                return value
        raise Unauthorized("the request has no API key", fix=_FIX, reason="missing")
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value and " " not in value:
        return value
    if scheme.lower() == "basic" and is_page(path):
        return _password(value)
    raise Unauthorized("the header Authorization is not `Bearer KEY`", fix=_FIX, reason="malformed")


def _password(value: str) -> str:
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    _, colon, password = text.partition(":")
    if not colon or not password:
        raise Unauthorized(
            "the header Authorization holds no password", fix=_FIX, reason="malformed"
        )
    return password
