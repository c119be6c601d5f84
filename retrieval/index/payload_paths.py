"""Where in a payload the fields are that `where` and payload indexes name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from retrieval._validate import unicode_text
from retrieval.errors import InvalidFilter
from retrieval.index.payload import FLAGS, METADATA, RESERVED

_SEGMENT = re.compile(r'(?:"([^"]+)"|([^".\[\]]+))((?:\[\d*\])*)')
_SIMPLE = re.compile(r"[A-Za-z0-9_-]+")


def payload_path(key: str, *, at: str = "fields", flags: bool = False) -> str:
    """The path in a payload of a field.

    Args:
        key: the field as `where` names it, see `filters.py`.
        at: where the key is, for messages.
        flags: the path of the field's booleans, which are stored a second time as keywords.

    Raises:
        InvalidFilter: it is not a path of fields.
    """
    unicode_text(key, f"{at}: {key!r}", fix="Write the filter in UTF-8.", error=InvalidFilter)
    segments: list[tuple[str, bool, str]] = []
    position = 0
    while match := _SEGMENT.match(key, position):
        quoted, plain, brackets = match.groups()
        segments.append((quoted or plain, quoted is not None, brackets))
        position = match.end()
        if position == len(key):
            break
        if key[position] != ".":
            break
        position += 1
    if not segments or position != len(key) or key.endswith("."):
        raise InvalidFilter(
            f"{at}: the key {key!r} is not a path of fields",
            fix='Write "author.name" for a field within an object, "authors[].name" for one '
            "within a list, and quotes around a name that holds dots or brackets.",
        )
    first, quoted_first, brackets_first = segments[0]
    if len(segments) == 1 and not quoted_first and not brackets_first and first in RESERVED:
        if flags:
            raise InvalidFilter(
                f"{at} compares {first} with a boolean, but it holds "
                f"{'a number' if first == 'position' else 'text'}",
                fix=f'For a metadata field of that name write "metadata.{first}".',
            )
        return first
    if len(segments) > 1 and not quoted_first and not brackets_first and first == METADATA:
        del segments[0]
    names = ((name if _SIMPLE.fullmatch(name) else f'"{name}"') + b for name, _, b in segments)
    return ".".join((FLAGS if flags else METADATA, *names))


def path_parts(path: str) -> tuple[str, ...]:
    """A payload path in parts, the same for all its spellings: `a."b"[]` is a, b, [].

    A path that the engine will not understand is one part.
    """
    parts: list[str] = []
    position = 0
    while match := _SEGMENT.match(path, position):
        quoted, plain, brackets = match.groups()
        parts += [quoted or plain, *re.findall(r"\[\d*\]", brackets)]
        position = match.end()
        if path[position : position + 1] != ".":
            break
        position += 1
    return tuple(parts) if position == len(path) else (path,)


def values_at(value: Any, parts: Sequence[str]) -> list[Any]:
    """The values at a path, in parts, of a payload: of a list at its end the elements."""
    if not parts:
        return value if isinstance(value, list) else [value]
    if parts[0] == "[]":
        elements = value if isinstance(value, list) else []
        return [found for one in elements for found in values_at(one, parts[1:])]
    if isinstance(value, Mapping) and parts[0] in value:
        return values_at(value[parts[0]], parts[1:])
    return []
