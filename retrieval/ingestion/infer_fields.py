"""Chooses which metadata fields get an index, from the first documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from retrieval.types import Document, FieldKind

MOST_FIELDS = 16
LONGEST_KEYWORD = 64
"""Characters of a text that is rather a keyword than prose."""

_RESERVED = ("document_id", "source", "title", "position", "and", "or", "not", "metadata")
_PLAIN = re.compile(r"[^\".\[\]]+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?")
_EXACT = 2**53


def payload_fields(documents: Sequence[Document]) -> dict[str, FieldKind]:
    """Fields to index, named as in `where`, of at most `MOST_FIELDS` that most documents have.

    Text of mostly up to `LONGEST_KEYWORD` characters, and booleans, become "keyword", numbers
    "number", text that is a date in ISO form throughout "datetime". Fields within objects have
    dotted names, a list counts by its elements. A field of mixed kinds has no index, which
    makes filters on it no worse than slower.
    """
    values: dict[str, Counter[str]] = {}
    documents_with: Counter[str] = Counter()
    for document in documents:
        own: set[str] = set()
        for name, value in _scalars(document.metadata, ""):
            values.setdefault(name, Counter())[_kind(value)] += 1
            own.add(name)
        documents_with.update(own)
    found: dict[str, FieldKind] = {}
    for name, _ in sorted(documents_with.items(), key=lambda item: (-item[1], item[0])):
        kind = _field_kind(values[name])
        if kind is not None and len(found) < MOST_FIELDS:
            found[name] = kind
    return found


def _scalars(value: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if not isinstance(key, str) or not key:
            continue
        if not _is_text(key) or '"' in key:
            continue  # no filter can name it
        name = prefix + (key if _PLAIN.fullmatch(key) else f'"{key}"')
        if not prefix and key in _RESERVED:
            name = f"metadata.{name}"
        if isinstance(item, Mapping):
            yield from _scalars(item, f"{name}.")
        elif isinstance(item, list):
            yield from ((name, one) for one in item if not isinstance(one, (list, Mapping)))
        else:
            yield name, item


def _kind(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, (int, float)):
        return "number" if abs(value) < _EXACT else "other"
    if not isinstance(value, str) or not _is_text(value):
        return "other"
    if _is_date(value):
        return "datetime"
    return "keyword" if len(value) <= LONGEST_KEYWORD else "prose"


def _field_kind(kinds: Counter[str]) -> FieldKind | None:
    held = {kind: count for kind, count in kinds.items() if kind != "none"}
    if held.keys() == {"number"}:
        return "number"
    if held.keys() == {"datetime"}:
        return "datetime"
    if held.keys() == {"flag"}:
        return "keyword"
    # A date among words is a word.
    short = held.get("keyword", 0) + held.get("datetime", 0)
    if short and held.keys() <= {"keyword", "datetime", "prose"}:
        return "keyword" if held.get("prose", 0) * 10 <= short else None
    return None


def _is_date(value: str) -> bool:
    if not _DATE.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
