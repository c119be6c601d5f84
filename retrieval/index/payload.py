"""A passage as a Qdrant payload and back, exactly.

The payload carries every field of the passage. Booleans in the metadata are mirrored, as the
keywords "true" and "false", under `metadata_flags` in the same shape: Qdrant Edge turns a
boolean in a filter into a number, so only the mirror can be filtered on, on every engine alike.
Metadata with a float that the engines' JSON reader may miss by its last bit is kept as text too.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from retrieval._validate import is_whole_number, unicode_text
from retrieval.errors import InvalidBatch, StoreFault
from retrieval.types import Passage

METADATA = "metadata"
FLAGS = "metadata_flags"
EXACT = "metadata_json"
TEXT_FIELDS = ("document_id", "source", "title")
"""Passage fields holding text that `where=` addresses by their own name."""

RESERVED = (*TEXT_FIELDS, "position")
"""All passage fields that it addresses."""

MAX_DEPTH = 64
"""Levels of nesting in metadata; the engine cannot read back more than 128 in all."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_STRINGS = ("document_id", "text", "title", "source", "document_hash")
_NUMBERS = ("position", "start", "end", "document_passages")
_FIX = (
    "Metadata holds JSON values only (text, numbers, true, false, null, lists, objects); convert "
    "the value before indexing. Nothing was written."
)


def passage_to_payload(passage: Passage) -> dict[str, Any]:
    """The payload of a passage.

    Raises:
        InvalidBatch: a value would not come back as it went in.
    """
    payload: dict[str, Any] = {}
    for name in _STRINGS:
        payload[name] = _text(getattr(passage, name), name)
    for name in _NUMBERS:
        value = getattr(passage, name)
        if not is_whole_number(value, 0, _INT_MAX):
            raise _invalid(f"{name} is {value!r}, expected a whole number of at least 0")
        payload[name] = value
    if not isinstance(passage.headings, tuple):
        raise _invalid(f"headings is a {type(passage.headings).__name__}, expected a tuple")
    payload["headings"] = [_text(h, f"headings[{i}]") for i, h in enumerate(passage.headings)]
    if not isinstance(passage.metadata, Mapping):
        raise _invalid(f"metadata is a {type(passage.metadata).__name__}, expected a mapping")
    payload[METADATA] = _json(passage.metadata, METADATA, 0)
    flags = _flags(payload[METADATA])
    if flags is not None:
        payload[FLAGS] = flags
    if not _read_exactly(payload[METADATA]):
        payload[EXACT] = json.dumps(payload[METADATA], ensure_ascii=False)
    return payload


def payload_to_passage(passage_id: str, payload: Mapping[str, Any] | None) -> Passage:
    """The passage that a payload was made of.

    Raises:
        StoreFault: the payload was not written by this library.
    """
    stored = {} if payload is None else payload
    try:
        # written out: a search makes a hundred of them
        return Passage(
            id=passage_id,
            document_id=stored["document_id"],
            position=stored["position"],
            text=stored["text"],
            start=stored["start"],
            end=stored["end"],
            title=stored["title"],
            headings=tuple(stored["headings"]),
            metadata=json.loads(stored[EXACT]) if EXACT in stored else stored[METADATA],
            source=stored["source"],
            document_hash=stored["document_hash"],
            document_passages=stored["document_passages"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreFault(
            f"the point {passage_id} is not a passage of this library (missing or wrong: {error})",
            fix="The collection was written to by something else: index into a new collection.",
        ) from error


def read_exactly(number: float) -> bool:
    """Whether the engines read a float back from its decimal digits to the last bit.

    They parse JSON with serde_json, whose fast way is exact for digits below 2**53 times a power
    of ten up to 22, and otherwise may be one unit in the last place off.
    """
    _, digits, exponent = Decimal(repr(number)).as_tuple()
    whole = int("".join(map(str, digits)))
    return whole < 2**53 and isinstance(exponent, int) and abs(exponent) <= 22


def canonical_id(passage_id: object) -> str:
    """The passage id, checked: a UUID in its usual form of 36 lower-case characters.

    Raises:
        InvalidBatch: it is none; Qdrant would refuse it or hand it back in another form.
    """
    try:
        if isinstance(passage_id, str) and str(uuid.UUID(passage_id)) == passage_id:
            return passage_id
    except ValueError:
        pass
    raise InvalidBatch(
        f"passage ids are UUIDs such as {uuid.UUID(int=10)}, got {passage_id!r}",
        fix="Take the ids that the splitter gives (uuid5 of document id and position).",
    )


def _json(value: Any, at: str, depth: int) -> Any:
    """A plain copy of a JSON value; refuses what JSON or the engine would change."""
    if depth > MAX_DEPTH:
        raise _invalid(f"{at} is nested more than {MAX_DEPTH} levels deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, at)
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise _invalid(f"{at} is {value}, which does not fit 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid(f"{at} is {value}, expected a finite number")
        return float(value)
    if isinstance(value, Mapping):
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise _invalid(f"{at} has the key {key!r}, expected text")
            copy[_text(key, f"a key of {at}")] = _json(item, f"{at}.{key}", depth + 1)
        return copy
    if isinstance(value, list):
        return [_json(item, f"{at}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise _invalid(f"{at} is a {type(value).__name__}, which is not a JSON value")


def _read_exactly(value: Any) -> bool:
    if isinstance(value, float):
        return read_exactly(value)
    if isinstance(value, dict):
        return all(map(_read_exactly, value.values()))
    return not isinstance(value, list) or all(map(_read_exactly, value))


def _flags(value: Any) -> Any:
    """The booleans within a JSON value as keywords in the same places, or None without any."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        found = {key: flag for key, item in value.items() if (flag := _flags(item)) is not None}
        return found or None
    if isinstance(value, list):
        flags = [_flags(item) for item in value]
        return flags if any(flag is not None for flag in flags) else None
    return None


def _text(value: object, at: str) -> str:
    return str(unicode_text(value, at, fix=_FIX, error=InvalidBatch))


def _invalid(problem: str) -> InvalidBatch:
    return InvalidBatch(
        problem,
        fix=_FIX,
    )
