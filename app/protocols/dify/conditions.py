"""Dify's metadata conditions: the index filters by some, passages are checked for the others.

The operators come in pairs, and the second is the exact opposite of the first, so it also holds
for passages that lack the field:

    contains, not contains            the text holds it; of a list, any element does
    start with, end with              likewise
    is, is not; =, ≠                  equal; 2020 and "2020" are alike, true and "true", too
    in, not in                        equal to any of a list, or of a text split at commas
    empty, not empty                  missing, null or []
    >, <, ≥, ≤, before, after         numbers compare with numbers, ISO dates with dates; before
                                      and after take seconds since 1970, too

Of several names any may fulfil the condition (and none of them its opposite). Names are keys of
`where`: passage metadata with a dot into objects, and `document_id`, `source`, `title` and
`position`. Letter case counts. The index knows no parts of texts: contains, start with and end
with, and any condition joined to one of them by `or`, are checked in Python (see `Selection`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from app.errors import BadRequest
from app.protocols.dify.values import (
    OWN,
    alike,
    as_moment,
    as_number,
    as_text,
    epoch,
    field_reader,
    is_number,
    same,
)
from retrieval import Passage

Number: TypeAlias = int | Annotated[float, Field(allow_inf_nan=False)]
Scalar: TypeAlias = bool | Number | Annotated[str, Field(max_length=8192)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=512)]
Holds: TypeAlias = Callable[[Passage], bool]

MOST_VALUES = 4096

PAIRS = {
    "contains": "not contains",
    "start with": "",
    "end with": "",
    "is": "is not",
    "=": "≠",
    "in": "not in",
    "empty": "not empty",
    ">": "",
    "<": "",
    "≥": "",
    "≤": "",
    "before": "",
    "after": "",
}
"""Operators and their opposites."""

_NEGATIVE = {opposite: name for name, opposite in PAIRS.items() if opposite}
_SPELLINGS = {"==": "=", "!=": "≠", ">=": "≥", "<=": "≤", "null": "empty", "not null": "not empty"}
_ORDERED = {">": "gt", "<": "lt", "≥": "gte", "≤": "lte", "before": "lt", "after": "gt"}
_TIMES = ("before", "after")
_EPOCH = re.compile(r"\d{9,13}")
"""Seconds since 1970 as text: Dify sends the values of its time fields so."""
_FIRST_EPOCH = 10**8  # 1973; what is less is a year, a price or a count
_COMPARE = {"gt": operator.gt, "lt": operator.lt, "gte": operator.ge, "lte": operator.le}
_PARTS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda text, part: part in text,
    "start with": str.startswith,
    "end with": str.endswith,
}


class Condition(BaseModel):
    """One condition on metadata."""

    model_config = ConfigDict(extra="ignore", strict=True)  # "1" is not a number

    name: Name | Annotated[list[Name], Field(min_length=1, max_length=16)] = Field(
        description="name of a metadata field, or several of which any may fulfil it"
    )
    comparison_operator: str = Field(
        max_length=16,
        description=", ".join([*PAIRS, *_NEGATIVE]),
        examples=["contains"],
    )
    value: Scalar | Annotated[list[Scalar], Field(max_length=1024)] | None = Field(
        None, description="left out for empty and not empty; a list for in and not in"
    )


class MetadataCondition(BaseModel):
    """Conditions, all or any of which must hold."""

    model_config = ConfigDict(extra="ignore", strict=True)

    logical_operator: Literal["and", "or"] | None = "and"
    conditions: Annotated[list[Condition], Field(max_length=64)] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which passages are meant: those that `where` finds and of which `holds` is true.

    where: None for all passages. holds: None where the index does everything. nothing: no passage
    can be meant (`in` an empty list).
    """

    where: dict[str, Any] | None = None
    holds: Holds | None = None
    nothing: bool = False


@dataclass(frozen=True, slots=True)
class _Test:
    """A condition both ways; `where` None: the index cannot. `always`: whatever the passage."""

    holds: Holds
    where: dict[str, Any] | None = None
    always: bool | None = None


def selection_of(condition: MetadataCondition | None) -> Selection:
    """What the conditions mean.

    Raises:
        BadRequest: an operator that is not known, a value that it cannot be used with, or more
            than `MOST_VALUES` values in all.
    """
    conditions = condition.conditions if condition else None
    if condition is None or not conditions:
        return Selection()
    compared = sum(
        (len(one.name) if isinstance(one.name, list) else 1) * _size(one.value)
        for one in conditions
    )
    if compared > MOST_VALUES:
        raise BadRequest(
            f"the conditions compare {compared:,} values, at most {MOST_VALUES:,} are taken",
            fix="Name fewer values and fields, or store what they have in common as metadata.",
        )
    tests = [_test(one) for one in conditions]
    either = condition.logical_operator == "or"
    if any(test.always is either for test in tests):
        return Selection(nothing=not either)
    tests = [test for test in tests if test.always is None]
    if not tests:
        return Selection(nothing=either)
    wheres = [test.where for test in tests if test.where is not None]
    unknown = [test.holds for test in tests if test.where is None]
    if not unknown:
        return Selection(where={"or" if either else "and": wheres})
    if either:
        every = [test.holds for test in tests]
        return Selection(holds=lambda passage: any(holds(passage) for holds in every))
    return Selection(
        where={"and": wheres} if wheres else None,
        holds=lambda passage: all(holds(passage) for holds in unknown),
    )


def _size(value: Any) -> int:
    if isinstance(value, str):
        return value.count(",") + 1
    return len(value) if isinstance(value, list) else 1


def _test(condition: Condition) -> _Test:
    asked = condition.comparison_operator.strip()
    asked = _SPELLINGS.get(asked, asked)
    positive = _NEGATIVE.get(asked, asked)
    if positive not in PAIRS:
        raise BadRequest(
            f"comparison_operator is {condition.comparison_operator!r}, which is not known",
            fix=f"Use one of: {', '.join([*PAIRS, *_NEGATIVE])}.",
        )
    names = [condition.name] if isinstance(condition.name, str) else condition.name
    tests = [_positive(name, positive, condition.value) for name in names]
    test = tests[0] if len(tests) == 1 else _any_of(tests)
    if positive == asked:
        return test
    return _Test(
        holds=lambda passage: not test.holds(passage),
        where=None if test.where is None else {"not": test.where},
        always=None if test.always is None else not test.always,
    )


def _any_of(tests: Sequence[_Test]) -> _Test:
    wheres = [test.where for test in tests if test.where is not None]
    return _Test(
        holds=lambda passage: any(test.holds(passage) for test in tests),
        where={"or": wheres} if len(wheres) == len(tests) else None,
        always=tests[0].always,  # the value's alone, the same for every name
    )


def _positive(name: str, asked: str, value: Any) -> _Test:
    read = field_reader(name)
    # a key of that name would be taken for the connective
    key = f"metadata.{name}" if name in ("and", "or", "not") else name
    if asked == "empty":
        return _Test(lambda passage: not read(passage), {key: None})
    if value is None:
        raise BadRequest(
            f"the condition {asked!r} on {name!r} has no value",
            fix="Send a value, or use `empty` and `not empty`.",
        )
    if asked in _ORDERED:
        return _ordered(read, key, asked, value)
    if asked == "in":
        items = value if isinstance(value, list) else None
        if isinstance(value, str):
            items = [part.strip() for part in value.split(",") if part.strip()]
        return _equal(read, key, [value] if items is None else items)
    if isinstance(value, list):
        raise BadRequest(
            f"the condition {asked!r} on {name!r} has a list, expected one value",
            fix="Use `in` or `not in` with lists, or one condition for each value.",
        )
    if asked in _PARTS:
        fits, part = _PARTS[asked], as_text(value) or ""
        return _Test(
            lambda passage: any(
                (text := as_text(leaf)) is not None and fits(text, part) for leaf in read(passage)
            )
        )
    return _equal(read, key, [value])


def _equal(read: Callable[[Passage], list[Any]], key: str, values: Sequence[Any]) -> _Test:
    if not values:
        return _Test(lambda passage: False, always=False)
    others = [other for value in values for other in alike(value)]
    if key in OWN:
        # of the passage itself: text or a number, never a boolean
        others = [other for other in others if not isinstance(other, bool)]
    return _Test(
        lambda passage: any(same(leaf, other) for leaf in read(passage) for other in others),
        {key: others},
    )


def _is_beyond(
    leaf: Any, compare: Callable[[Any, Any], bool], number: float, moment: datetime | None
) -> bool:
    if is_number(leaf):
        return compare(leaf, number)
    other = None if moment is None else as_moment(leaf)
    return other is not None and compare(other, moment)


def _ordered(read: Callable[[Passage], list[Any]], key: str, asked: str, value: Any) -> _Test:
    name = _ORDERED[asked]
    compare = _COMPARE[name]
    number = as_number(value)
    if number is None and asked in _TIMES and isinstance(value, str) and _EPOCH.fullmatch(value):
        number = int(value)
    if number is not None:
        moment = epoch(number) if asked in _TIMES and number >= _FIRST_EPOCH else None
        where: dict[str, Any] = {key: {name: number}}
        if moment is not None:
            where = {"or": [where, {key: {name: moment.isoformat()}}]}
        return _Test(
            lambda passage: any(
                _is_beyond(leaf, compare, number, moment) for leaf in read(passage)
            ),
            where,
        )
    moment = as_moment(value)
    if moment is None:
        raise BadRequest(
            f"the condition {asked!r} on {key!r} has the value {value!r}, expected a number or an "
            "ISO 8601 date",
            fix='Send for example 2020, "2024-01-31" or "2024-01-31T12:00:00Z".',
        )
    return _Test(
        lambda passage: any(
            (other := as_moment(leaf)) is not None and compare(other, moment)
            for leaf in read(passage)
        ),
        {key: {name: value}},
    )
