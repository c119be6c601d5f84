"""JSON files: a list of documents where their entries have texts, else one document as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from retrieval.readers.code import fenced
from retrieval.readers.files import Unreadable, decode
from retrieval.readers.options import ReadOptions
from retrieval.readers.rows import DocumentRow, Roles, json_kind, row_of
from retrieval.readers.text import Content


def json_document(data: bytes, options: ReadOptions) -> Content | None:
    """The file as one document; None where it is a list of documents, alone or by one name.

    Raises:
        Unreadable: it is no JSON.
    """
    found = decode(data, options.codec)
    value = _loaded(found.text)
    if _entries(value, options) is not None:
        return None
    return Content(fenced(found.text, "json"), metadata={"language": "json"}, notes=found.notes)


def read_json(
    data: bytes, options: ReadOptions, on_bad_row: Callable[[Unreadable], None]
) -> Iterator[DocumentRow]:
    """The documents of a list; `line` is an entry's place in it, from 1."""
    entries = _entries(_loaded(decode(data, options.codec).text), options)
    for place, entry in enumerate(entries or (), 1):
        try:
            if not isinstance(entry, dict):
                raise Unreadable(f"is {json_kind(entry)}, expected an object with a text field")
            yield row_of(entry, place, options.columns)
        except Unreadable as bad:
            on_bad_row(Unreadable(bad.reason, place))


def _entries(value: Any, options: ReadOptions) -> list[Any] | None:
    """The entries, where the first has a text."""
    if isinstance(value, dict):
        lists = [one for one in value.values() if isinstance(one, list) and one]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return None
    roles = Roles.of(value[0], options.columns)
    return value if set(roles.text) & set(value[0]) else None


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(
            f"is not valid JSON: {error.msg} at column {error.colno}", error.lineno
        ) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not JSON that can be used: {error}") from error
