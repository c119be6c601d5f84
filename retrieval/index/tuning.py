"""The tuning of a collection as the JSON that its manifest holds."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from retrieval.types import Tuning

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def tuning_to_dict(tuning: Tuning) -> dict[str, Any]:
    """As JSON values, without what is as it was at first; empty where nothing was decided."""
    values: dict[str, Any] = _adapter().dump_python(tuning, mode="json", exclude_defaults=True)
    return values


def tuning_from_dict(values: object) -> Tuning:
    """From JSON values, every field checked.

    Raises:
        ValueError: a field is unknown, missing or of the wrong type; the message names it.
    """
    from pydantic import ValidationError

    try:
        tuning = _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where} is {first['input']!r}: {first['msg']}") from None
    if (unknown := _unknown(values, asdict(tuning))) is not None:
        raise ValueError(f"{unknown} is unknown")
    return tuning


def _unknown(given: object, known: object) -> str | None:
    """The first name in what was given that was not read: a newer version's, or a mistyped one."""
    if not isinstance(given, dict) or not isinstance(known, dict):
        return None
    for name, value in given.items():
        if name not in known:
            return str(name)
        if (inner := _unknown(value, known[name])) is not None:
            return f"{name}.{inner}"
    return None


@cache
def _adapter() -> TypeAdapter[Tuning]:
    from pydantic import TypeAdapter  # most collections have no tuning: it is not waited for

    return TypeAdapter(Tuning)
