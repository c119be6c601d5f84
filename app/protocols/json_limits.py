"""JSON values that can be stored and answered: finite numbers, Unicode text, bounded depth."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from retrieval._validate import surrogate_at

MOST_DEPTH = 32
LARGEST_INT = 2**63 - 1
MOST_NAME = 255
MOST_QUERY = 32_768


def plain_text(text: str) -> str:
    """The text, where every part of the service can store and send it.

    Raises:
        ValueError: it has a NUL character or a lone surrogate.
    """
    if "\0" in text:
        raise ValueError(f"has a NUL character at {text.index(chr(0))}; leave it out")
    if (place := surrogate_at(text)) is not None:
        raise ValueError(f"has a lone surrogate at {place}, which is not Unicode text")
    return text


def plain_object(value: dict[str, Any]) -> dict[str, Any]:
    """The object, where everything in it can be stored and sent.

    Raises:
        ValueError: a value in it cannot.
    """
    _check(value, 0)
    return value


def _check(value: Any, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise ValueError(f"is nested more than {MOST_DEPTH} deep")
    match value:
        case str():
            plain_text(value)
        case bool() | None:
            pass
        case int():
            if abs(value) > LARGEST_INT:
                raise ValueError("holds a whole number of more than 64 bits; send it as text")
        case float():
            if not math.isfinite(value):
                raise ValueError(f"holds {value}, which JSON has no number for")
        case dict():
            for key, one in value.items():
                plain_text(key)
                _check(one, depth + 1)
        case list():
            for one in value:
                _check(one, depth + 1)


TEXT_PATTERN = {"pattern": r"^[^\x00]*$"}
Text = Annotated[str, AfterValidator(plain_text)]
Name = Annotated[Text, Field(min_length=1, max_length=MOST_NAME, json_schema_extra=TEXT_PATTERN)]
Query = Annotated[
    Text, Field(min_length=1, max_length=MOST_QUERY, json_schema_extra={"pattern": r"\S"})
]
JsonObject = Annotated[dict[str, Any], AfterValidator(plain_object)]
Milliseconds = Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]


class Strict(BaseModel):
    """A request: no unknown field, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)
