"""Checks of arguments: each returns the value it was given, or raises an error that says
what was given, what was expected and what to do.

A boolean is an `int` to Python; here it is never a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sized
from typing import TypeGuard, TypeVar, get_args

from retrieval.errors import InvalidInput, InvalidQuery

T = TypeVar("T")

_SURROGATE = re.compile("[\ud800-\udfff]")
# Characters that show nothing: format marks and what Unicode calls default-ignorable, variation
# selectors, fillers of Hangul and Braille, controls.
_INVISIBLE = (
    "\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
VISIBLE = re.compile(f"[^\\s{_INVISIBLE}]")
"""A character that shows something."""


def is_blank(text: str) -> bool:
    """Whether a text shows nothing, and so says nothing.

    Example:
        >>> is_blank(" \\u200b\\ufeff\\n"), is_blank("a")
        (True, False)
    """
    return VISIBLE.search(text) is None


def is_whole_number(
    value: object, least: float = -math.inf, most: float = math.inf
) -> TypeGuard[int]:
    """Whether a value is an `int` between two bounds, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(
    value: object, least: float = -math.inf, most: float = math.inf
) -> TypeGuard[int | float]:
    """Whether a value is a finite number between two bounds, both included."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    # compared, not converted: a whole number may be too large for a float
    return abs(value) < math.inf and least <= value <= most


def whole_number(
    value: object, name: str, *, least: int = 1, most: int | None = None, fix: str = ""
) -> int:
    """A whole number between two bounds, as it is.

    Raises:
        InvalidInput: it is another kind of value, or outside the bounds.
    """
    if is_whole_number(value, least, math.inf if most is None else most):
        return value
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise InvalidInput(
        f"{name} is {value!r}, expected a whole number {bounds}",
        fix=fix or f"Give {name} as such a number, or leave it out for the default.",
    )


def number(
    value: object,
    name: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    expected: str = "a finite number",
    fix: str,
) -> float:
    """A finite number, as it is: from `least` to `most`, and greater than `above`.

    Args:
        value: what was given.
        name: the argument, for the message.
        least, most: bounds, both included.
        above: a bound that is not included.
        expected: the bounds and the unit in words, for the message.
        fix: what to do, for the message.

    Raises:
        InvalidInput: it is another kind of value, not finite, or outside the bounds.
    """
    if is_number(value, least, most) and value > above:
        return value
    raise InvalidInput(f"{name} is {value!r}, expected {expected}", fix=fix)


def one_of(value: T, choices: object, name: str, *, fix: str = "") -> T:
    """A value among some choices, as it is.

    Args:
        value: what was given.
        choices: a `Literal` type, or a tuple of str.
        name: the argument, for the message.
        fix: what to do, for the message.

    Raises:
        InvalidInput: it is not among them.
    """
    allowed = choices if isinstance(choices, tuple) else get_args(choices)
    if value not in allowed:
        raise InvalidInput(
            f"{name} is {value!r}, expected one of {', '.join(allowed)}",
            fix=fix or f"Choose one of them for {name}.",
        )
    return value


def true_or_false(value: object, name: str, *, fix: str) -> bool:
    """A boolean, as it is.

    Raises:
        InvalidInput: it is another kind of value.
    """
    if isinstance(value, bool):
        return value
    raise InvalidInput(f"{name} is {value!r}, expected True or False", fix=fix)


def surrogate_at(text: str) -> int | None:
    """Where a text holds its first lone surrogate; None where it is Unicode throughout.

    Python's `str` can hold half of a surrogate pair. No encoding of Unicode can, so that neither
    files nor services nor tokenisers take such a text.
    """
    if text.isascii():
        return None
    found = _SURROGATE.search(text)
    return None if found is None else found.start()


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each lone surrogate: its length and offsets stay."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def unicode_text(
    value: object, name: str, *, fix: str, error: type[InvalidInput] = InvalidInput
) -> str:
    """A text without lone surrogates, as it is.

    Raises:
        InvalidInput: it is another kind of value, or has a lone surrogate; `error` may be a
            subclass.
    """
    if not isinstance(value, str):
        raise error(f"{name} is a {type(value).__name__}, expected text (str)", fix=fix)
    if (place := surrogate_at(value)) is not None:
        raise error(
            f"{name} has a lone surrogate at character {place}, which is not Unicode text", fix=fix
        )
    return value


def query_text(query: object) -> str:
    """A query that is not blank, as it is.

    Raises:
        InvalidQuery: it is blank, not a str, or has a lone surrogate.
    """
    if isinstance(query, str) and is_blank(query):
        raise InvalidQuery("the query is empty", fix="Write what you are looking for.")
    # BM25 refuses a surrogate, and a vector search would read something else: every mode refuses.
    fix = "Write the query in UTF-8." if isinstance(query, str) else "Pass the question as a str."
    return unicode_text(query, "the query", fix=fix, error=InvalidQuery)


def check_texts(texts: object, what: str = "text") -> None:
    """Raise InvalidInput unless `texts` is a sequence of str, naming the first that is not."""
    plural = "queries" if what == "query" else f"{what}s"
    for index, text in enumerate(_items(texts, plural)):
        if not isinstance(text, str):
            raise InvalidInput(
                f"{what} {index} is of type {type(text).__name__}, expected str",
                fix=f"Remove it or turn it into a str before encoding the {plural}.",
            )


def check_pairs(pairs: object) -> None:
    """Raise InvalidInput unless `pairs` is a sequence of (str, str)."""
    for index, pair in enumerate(_items(pairs, "(query, passage) pairs")):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InvalidInput(
                f"pair {index} is {_describe(pair)}, expected a (query, passage) tuple",
                fix="Give a list of (query, passage) tuples of str.",
            )
        for name, text in zip(("query", "passage"), pair, strict=True):
            if not isinstance(text, str):
                raise InvalidInput(
                    f"the {name} of pair {index} is of type {type(text).__name__}, expected str",
                    fix="Remove the pair or turn both of its texts into str.",
                )


def _items(value: object, what: str) -> Iterable[object]:
    """A list, a tuple, an array …: something of known length that can be read more than once."""
    single = isinstance(value, str | bytes | Mapping)
    if not single and isinstance(value, Sized) and hasattr(value, "__getitem__"):
        items: Iterable[object] = value  # type: ignore[assignment]  # it can be indexed
        return items
    raise InvalidInput(
        f"{_describe(value)} was given where a list of {what} is expected",
        fix="Put it into a list." if single else "Turn it into a list first.",
    )


def _describe(value: object) -> str:
    name = type(value).__name__
    if isinstance(value, tuple | list):
        return f"a {name} of {len(value)}"
    return f"a value of type {name}"
