"""What to do next when a call to a Qdrant server failed."""

from __future__ import annotations

import re

_FIXES = {
    "missing": "Check the name and the URL, or index into it again.",
    "full": "Give the server more space; what was acknowledged before is kept.",
    "slow": "Try again; if it stays slow, raise the timeout or give the server more memory and "
    "processors.",
    "stranger": "Check the URL, its port and its path (http://localhost:6333 by default, without "
    "/dashboard), and that the versions of the server and of qdrant-client are close together.",
    "tls": "Check that the URL begins with https:// where the server speaks TLS and with http:// "
    "where it does not, and give ca_certificate where its certificate is signed by an authority "
    "of your own, and client_certificate where it asks its clients for one.",
    "large": "Ask for less at once, or let the server take larger requests.",
    "refused": "The server refuses what was sent; its own words are above, its log may say more.",
}


def fix_of(kind: str, text: str, *, retry_after_s: float, grpc: bool) -> str:
    """A sentence or two for a failed call, see `errors.Failure`."""
    if retry_after_s:
        return f"The server asks to wait {retry_after_s:.0f} s: try again then."
    if kind == "denied":
        return _of_denied(text)
    if grpc and kind in ("away", "cut", "stranger"):
        return (
            "Check that the server runs and that this is its gRPC port (grpc_port, 6334 by "
            "default), which is another than that of the URL."
        )
    if kind in ("away", "cut"):
        return (
            "Check that the server runs and that the URL and port are right "
            "(http://localhost:6333 by default)."
        )
    return _FIXES.get(kind, "See the server's log; repeating the call is safe.")


def _of_denied(text: str) -> str:
    """What helps against a server's refusal of a key."""
    found = _SCOPED.search(text)
    if found is not None:
        access = "write access ('rw')" if found["write"] else "access"
        return (
            f"The key is a token for some collections only: it needs {access} to "
            f"{found['name']!r}. It must list a collection's name and each of its versions "
            "('docs' and 'docs@v1')."
        )
    if "manage access" in text.lower() or "global access" in text.lower():
        return (
            "The key may only read, or is a token for some collections only: give one that may "
            "do this (collections are made, switched and deleted with a key for all)."
        )
    return "Give the right api_key."


_SCOPED = re.compile(r"(?:(?P<write>Write a)|A)ccess to collection (?P<name>.+?) is required")
