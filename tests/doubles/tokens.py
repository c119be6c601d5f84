"""Tokens (JWT) for some collections of the REST double: what each may do, in a server's words.

A token lists names as they are asked for: an alias and the collection behind it are two names.
Lists of collections and aliases come back filtered.
"""

from __future__ import annotations

import json
import re
from typing import Literal

Access = dict[str, Literal["r", "rw"]] | Literal["r"]
"""By name of a collection or alias; a plain "r" is a key that may read all, and write nothing."""

_READING = re.compile(r"/points(/(scroll|count|query|query/batch))?$")


def refusal(access: Access, method: str, path: str) -> str | None:
    """What a server answers (403) to a request of a token; None where it may."""
    reads = method == "GET" or (method == "POST" and _READING.search(path) is not None)
    if access == "r":
        return None if reads else "Forbidden: Global manage access is required"
    if path in ("/collections", "/aliases") and method == "GET":
        return None
    found = re.match(r"/collections/([^/]+)", path)
    if found is None or found[1] == "aliases":
        return "Forbidden: Global access is required"
    name = found[1]
    if name not in access:
        return f"Forbidden: Access to collection {name} is required"
    if path == f"/collections/{name}" and method != "GET":
        return "Forbidden: Manage access for this operation is required"
    if not reads and access[name] != "rw":
        return f"Forbidden: Write access to collection {name} is required"
    return None


def filtered(access: Access, path: str, body: bytes) -> bytes:
    """An answer without what a token does not list."""
    if path not in ("/collections", "/aliases") or access == "r":
        return body
    answer = json.loads(body)
    result = answer["result"]
    if path == "/collections":
        result["collections"] = [one for one in result["collections"] if one["name"] in access]
    else:
        result["aliases"] = [
            one
            for one in result["aliases"]
            if one["alias_name"] in access and one["collection_name"] in access
        ]
    return json.dumps(answer).encode()
