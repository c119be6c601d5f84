"""A `where` filter written as text, on a command line or in a form."""

from __future__ import annotations

import json
from typing import Any

from retrieval.errors import InvalidFilter


class Written(float):
    """A number that remembers how it was typed: `1.10` may be the name of a version."""

    def __new__(cls, value: float, text: str) -> Written:
        """Args: value: the number. text: as it was typed."""
        made = super().__new__(cls, value)
        made.text = text
        return made

    text: str


def written(number: float) -> str:
    """A number as it was typed, else as JSON has it."""
    return number.text if isinstance(number, Written) else json.dumps(number)


def parse_where(text: str) -> dict[str, Any]:
    """A `where` from text: a JSON object, or `key=value` pairs joined by commas.

    In pairs a value is read as JSON where it is JSON (`year=2020`, `draft=false`), else as text.

    Args:
        text: what the user typed.

    Returns:
        The filter, as `where=` takes it.

    Raises:
        InvalidFilter: the text has neither form.

    Example:
        >>> from retrieval import parse_where
        >>> parse_where("team=finance, year=2024")
        {'team': 'finance', 'year': 2024}
        >>> parse_where('{"year": {"gte": 2020}}')
        {'year': {'gte': 2020}}
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidFilter(
                f"the filter {text!r} is not valid JSON ({error})",
                fix='Write it as \'{"year": {"gte": 2020}}\', or as year=2020,lang=en.',
            ) from error
        return dict(parsed)
    where: dict[str, Any] = {}
    rest: str | None = text
    while rest is not None:
        key, equals, value = rest.partition("=")
        if not equals or not key.strip() or "," in key:
            raise InvalidFilter(
                f"the filter part {rest.partition(',')[0]!r} has no key=value form",
                fix='Write year=2020,lang=en, or a JSON object such as \'{"lang": ["en", "de"]}\'.',
            )
        where[key.strip()], rest = _first_value(value.strip())
    return where


def _first_value(text: str) -> tuple[Any, str | None]:
    """The value before the first comma that is not part of it, and what follows that comma."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        pass
    else:
        after = text[end:].lstrip()
        if not after or after.startswith(","):
            if type(value) is float:
                value = Written(value, text[:end])
            return value, after[1:] if after else None
    plain, comma, rest = text.partition(",")
    return plain.strip(), rest if comma else None
