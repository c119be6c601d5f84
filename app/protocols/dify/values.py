"""Values in the metadata of passages: which fields they are in, and what counts as equal.

Conditions that the index cannot answer are checked by the same rules as its `where`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from app.errors import BadRequest
from retrieval import Passage

OWN = ("document_id", "source", "title", "position")
"""Fields of the passage itself, which `where` addresses by their own name."""

_SEGMENT = re.compile(r'(?:"([^"]+)"|([^".\[\]]+))((?:\[\d*\])*)(?:\.(?!$)|$)')
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
# A number of 64 bits needs no more.
_MOST_DIGITS = 64


def alike(value: Any) -> list[Any]:
    """The values that count as equal to one: what it is, and the same written as text."""
    if isinstance(value, bool):
        return [value, as_text(value)]
    if isinstance(value, str):
        number = as_number(value)
        others: list[Any] = [] if number is None else [number]
        return [value, *others, *([value == "true"] if value in ("true", "false") else [])]
    texts = {json.dumps(value)}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        texts.add(str(int(value)))
    return [value, *sorted(texts)]


def same(leaf: Any, other: Any) -> bool:
    """Whether two values are equal: numbers by value, all else by type, too."""
    if is_number(leaf) and is_number(other):
        return bool(leaf == other)
    return type(leaf) is type(other) and bool(leaf == other)


def is_number(value: Any) -> bool:
    """Whether it is a number; a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_number(value: Any) -> int | float | None:
    """A number of 64 bits as it is, also where it is written as text; None for all else."""
    if isinstance(value, str):
        if len(value) > _MOST_DIGITS or not _JSON_NUMBER.fullmatch(value):
            return None
        value = json.loads(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if is_number(value) and -(2**63) <= value < 2**63 else None


def as_moment(value: Any) -> datetime | None:
    """A time in ISO 8601, in UTC where it names no zone; None for all else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def epoch(number: float) -> datetime | None:
    """The time that a number of seconds since 1970 is; None for one that is none."""
    try:
        return datetime.fromtimestamp(number, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def as_text(value: Any) -> str | None:
    """Text as it is, numbers and booleans as JSON writes them; None for all else."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def field_reader(name: str) -> Callable[[Passage], list[Any]]:
    """What gives the values of a field, those of a list one by one, without nulls.

    Raises:
        BadRequest: the name is not a path of fields.
    """
    path: list[str | int | None] = []
    position = 0
    while match := _SEGMENT.match(name, position):
        quoted, plain, brackets = match.groups()
        path.append(quoted or plain)
        path += [int(at) if at else None for at in re.findall(r"\[(\d*)\]", brackets)]
        position = match.end()
        if position == len(name):
            break
    if not path or position != len(name):
        raise BadRequest(
            f"the name {name!r} is not a path of fields",
            fix='Write "author.name" for a field within an object, "authors[].name" for one '
            "within a list, and quotes around a name that holds dots or brackets.",
        )
    if name in OWN:
        return lambda passage: [getattr(passage, name)]
    steps = path[1:] if len(path) > 1 and name.startswith("metadata.") else path

    def read(passage: Passage) -> list[Any]:
        values: list[Any] = [passage.metadata]
        for step in steps:
            values = [found for value in values for found in _step(value, step)]
        flat = [x for value in values for x in (value if isinstance(value, list) else [value])]
        return [value for value in flat if value is not None]

    return read


def _step(value: Any, step: str | int | None) -> list[Any]:
    if isinstance(step, str):
        return [value[step]] if isinstance(value, Mapping) and step in value else []
    if not isinstance(value, list):
        return []
    return value if step is None else value[step : step + 1]
