"""What the models' room asks of its input, and says of other packages' errors, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput


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


def check_at_least(name: str, value: object, least: int) -> None:
    """Raise InvalidInput unless the argument `name` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInput(
            f"{name}={value!r} was given, expected a whole number of at least {least}",
            fix="Give such a number, or leave it out for the usual one.",
        )


def _items(given: object, what: str) -> Iterable[object]:
    """`given`, if it is a list, a tuple, an array …: of known length and read more than once."""
    single = isinstance(given, str | bytes | Mapping)
    if not single and isinstance(given, Sized) and hasattr(given, "__getitem__"):
        items: Iterable[object] = given  # type: ignore[assignment]  # it can be indexed
        return items
    raise InvalidInput(
        f"{_describe(given)} was given where a list of {what} is expected",
        fix="Put it into a list." if single else "Turn it into a list first.",
    )


def _describe(value: object) -> str:
    name = type(value).__name__
    if isinstance(value, tuple | list):
        return f"a {name} of {len(value)}"
    return f"a value of type {name}"


def first_line(error: BaseException) -> str:
    """What an error of another package says, short enough to be quoted in one of ours."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def unique_pairs(
    pairs: Sequence[tuple[str, str]],
) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """Each pair once, and int64 (n,): which of them each given one is."""
    places: dict[tuple[str, str], int] = {}
    rows = np.fromiter(
        (places.setdefault((query, passage), len(places)) for query, passage in pairs),
        dtype=np.int64,
        count=len(pairs),
    )
    return list(places), rows
