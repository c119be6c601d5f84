"""`where=`: one filter language, compiled to one Qdrant filter for every engine.

    {"lang": "en"}                          equal; a list in the metadata matches by any element
    {"lang": ["en", "de"]}                  any of
    {"year": {"gte": 2000, "lt": 2010}}     range (gt, gte, lt, lte): numbers, or ISO dates
    {"author": {"exists": True}}            has a value (null and [] are none)
    {"author": None}                        has no value; the same as {"exists": False}
    {"and": [..]}, {"or": [..]}, {"not": {..}}
    {"lang": "en", "draft": False}          several keys: all of them

Keys address passage metadata; `document_id`, `source`, `title` and `position` address the
passage itself, and `metadata.title` the metadata of that name. A dot goes into objects
(`author.name`), `[]` into lists of objects (`authors[].name`), and quotes hold a name together
(`"file.name"`). Numbers compare by value (2000 equals 2000.0), text exactly, dates without a
time zone are UTC. Whole numbers from 2**53 on match exactly, as whole numbers only, and
ranges take them for their nearest float. `not` also holds for passages that lack the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval._validate import is_number, unicode_text
from retrieval.errors import InvalidFilter
from retrieval.index.payload import FLAGS, METADATA, read_exactly
from retrieval.index.payload_paths import payload_path
from retrieval.types import Where

if TYPE_CHECKING:
    from qdrant_client import models

OPERATORS = ("gt", "gte", "lt", "lte", "exists")
CONNECTIVES = ("and", "or", "not")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def compile_filter(where: Where | None) -> models.Filter | None:
    """The Qdrant filter that `where` means; None where it says nothing (None, {}, Filter()).

    Raises:
        InvalidFilter: it cannot be understood; the message names the place within it.
    """
    if where is None or (isinstance(where, Mapping) and not where):
        return None
    from qdrant_client import models

    if isinstance(where, models.Filter):
        return None if _says_nothing(where) else _rewrite(where, "where", nested=False)
    if not isinstance(where, Mapping):
        raise InvalidFilter(
            f"where is a {type(where).__name__}, expected a mapping or a qdrant_client "
            "models.Filter",
            fix='Write it as, for example, {"lang": "en", "year": {"gte": 2000}}.',
        )
    return models.Filter(must=_conditions(where, "where"))


def compile_delete_filter(where: Where) -> models.Filter:
    """As `compile_filter`, for deleting: a filter that says nothing is refused.

    Raises:
        InvalidFilter: also when `where` is empty, which would delete everything.
    """
    compiled = compile_filter(where)
    if compiled is None:
        raise InvalidFilter(
            "an empty where would delete every passage; nothing was deleted",
            fix="Name what is to go, or delete the whole collection.",
        )
    return compiled


def _conditions(where: Mapping[Any, Any], at: str) -> list[models.Condition]:
    """One condition per key, all of which must hold."""
    from qdrant_client import models

    if not where:
        raise InvalidFilter(
            f"{at} is empty, expected at least one condition", fix="Fill it or leave it out."
        )
    found: list[models.Condition] = []
    for key, value in where.items():
        here = f"{at}[{key!r}]"
        if not isinstance(key, str):
            raise InvalidFilter(f"{at} has the key {key!r}, expected text", fix="Use text keys.")
        if key in ("and", "or"):
            if not isinstance(value, (list, tuple)) or not value:
                raise InvalidFilter(
                    f"{here} is {value!r}, expected a list of at least one filter",
                    fix=f'Write {{"{key}": [{{"lang": "en"}}, …]}}. A metadata field named '
                    f'"{key}" is addressed as "metadata.{key}".',
                )
            parts: list[models.Condition] = [
                models.Filter(must=_conditions(_mapping(part, f"{here}[{i}]"), f"{here}[{i}]"))
                for i, part in enumerate(value)
            ]
            found.append(models.Filter(must=parts) if key == "and" else models.Filter(should=parts))
        elif key == "not":
            inner = models.Filter(must=_conditions(_mapping(value, here), here))
            found.append(models.Filter(must_not=[inner]))
        else:
            found.append(_field(key, value, here))
    return found


def _field(key: str, value: Any, at: str) -> models.Condition:
    from qdrant_client import models

    if isinstance(value, Mapping):
        return models.Filter(must=_operators(key, value, at))
    if isinstance(value, (list, tuple, set, frozenset)):
        if not value:
            raise InvalidFilter(
                f"{at} is an empty list, which nothing can match",
                fix="Leave the key out to allow every value, or give the values to allow.",
            )
        # a set has no order; sorting keeps the compiled filter the same from run to run
        values = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        texts = [
            _unicode(item, f"{at}[{i}]") for i, item in enumerate(values) if isinstance(item, str)
        ]
        others = [(i, item) for i, item in enumerate(values) if not isinstance(item, str)]
        any_of = [_equal(key, item, f"{at}[{i}]") for i, item in others]
        if texts:
            match = models.MatchAny(any=texts)
            any_of.append(models.FieldCondition(key=payload_path(key, at=at), match=match))
        return models.Filter(should=any_of)
    return _equal(key, value, at)


def _equal(key: str, value: Any, at: str) -> models.Condition:
    from qdrant_client import models

    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=payload_path(key, at=at)))
    if isinstance(value, (bool, np.bool_)):
        match = models.MatchValue(value="true" if value else "false")
        return models.FieldCondition(key=payload_path(key, at=at, flags=True), match=match)
    if isinstance(value, str):
        match = models.MatchValue(value=_unicode(value, at))
        return models.FieldCondition(key=payload_path(key, at=at), match=match)
    if isinstance(value, (int, float, np.integer, np.floating)):
        number = _number(value, at)
        if isinstance(number, int) and abs(number) >= 2**53:
            # from here on float ranges cannot tell whole numbers apart
            match = models.MatchValue(value=number)
            return models.FieldCondition(key=payload_path(key, at=at), match=match)
        # a range, since Qdrant's exact match takes 2000 and 2000.0 for different values
        low = high = number
        if isinstance(number, float) and not read_exactly(number):
            # the engine may hold its neighbour
            low, high = math.nextafter(number, -math.inf), math.nextafter(number, math.inf)
        equal = models.Range(gte=low, lte=high)
        return models.FieldCondition(key=payload_path(key, at=at), range=equal)
    raise InvalidFilter(
        f"{at} is {value!r}, a {type(value).__name__}; expected text, a number, true, false, "
        "null, a list of these or operators",
        fix=f'Operators are {", ".join(OPERATORS)}; for dates use {{"gte": "2024-01-31"}}.',
    )


def _operators(key: str, operators: Mapping[Any, Any], at: str) -> list[models.Condition]:
    from qdrant_client import models

    unknown = [name for name in operators if name not in OPERATORS]
    if unknown or not operators:
        got = f"the unknown operator {unknown[0]!r}" if unknown else "no operator"
        raise InvalidFilter(
            f"{at} has {got}; the operators are {', '.join(OPERATORS)}",
            fix='Write for example {"year": {"gte": 2000, "lt": 2010}}; '
            f"connect filters with {', '.join(CONNECTIVES)} above the field; go into an object "
            'with a dot, as in "author.name".',
        )
    found: list[models.Condition] = []
    if "exists" in operators:
        if not isinstance(operators["exists"], bool):
            raise InvalidFilter(
                f"{at}['exists'] is {operators['exists']!r}, expected true or false",
                fix='Write {"exists": true} or {"exists": false}.',
            )
        empty = _equal(key, None, at)
        found.append(models.Filter(must_not=[empty]) if operators["exists"] else empty)
    bounds = {name: value for name, value in operators.items() if name != "exists"}
    if bounds:
        path = payload_path(key, at=at)
        if all(isinstance(value, (str, date)) for value in bounds.values()):
            moments = {name: _moment(value, f"{at}[{name!r}]") for name, value in bounds.items()}
            found.append(models.FieldCondition(key=path, range=models.DatetimeRange(**moments)))
        else:
            numbers = {name: _number(value, f"{at}[{name!r}]") for name, value in bounds.items()}
            found.append(models.FieldCondition(key=path, range=models.Range(**numbers)))
    return found


def _number(value: Any, at: str) -> int | float:
    plain = value.item() if isinstance(value, np.generic) else value
    if is_number(plain) and (isinstance(plain, float) or _INT_MIN <= plain <= _INT_MAX):
        return plain
    raise InvalidFilter(
        f"{at} is {value!r}, expected a finite number of 64 bits (or, for every bound of a "
        "range alike, an ISO date)",
        fix='Write for example {"gte": 2000, "lt": 2010} or {"gte": "2024-01-31"}.',
    )


def _moment(value: str | date, at: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise InvalidFilter(
            f"{at} is {value!r}, expected a number or an ISO 8601 date",
            fix='Write for example {"gte": "2024-01-31"} or {"lt": "2024-01-31T12:00:00Z"}.',
        ) from None
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _unicode(text: str, at: str) -> str:
    return unicode_text(
        text, f"{at}: {text!r}", fix="Write the filter in UTF-8.", error=InvalidFilter
    )


def _mapping(value: Any, at: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InvalidFilter(
            f"{at} is {value!r}, expected a filter (a mapping)",
            fix='Write for example {"not": {"lang": "en"}}.',
        )
    return value


# --- a Qdrant filter as it is, except booleans ---------------------------------------------


def as_list(value: Any) -> list[Any]:
    """A clause of a Qdrant filter, which allows one condition in place of a list of them."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _says_nothing(where: models.Filter) -> bool:
    """Whether a filter matches everything because it has no conditions."""
    from qdrant_client import models

    if as_list(where.must_not) or where.min_should is not None:
        return False
    asked = [*as_list(where.must), *as_list(where.should)]
    return all(isinstance(part, models.Filter) and _says_nothing(part) for part in asked)


def _rewrite(where: models.Filter, at: str, *, nested: bool) -> models.Filter:
    """The filter with each match of a boolean turned to the mirror of booleans."""
    changed: dict[str, Any] = {}
    for name in ("must", "should", "must_not"):
        conditions = as_list(getattr(where, name))
        if conditions:
            changed[name] = [
                _rewrite_condition(part, f"{at}.{name}[{i}]", nested=nested)
                for i, part in enumerate(conditions)
            ]
    if where.min_should is not None:
        parts = [
            _rewrite_condition(part, f"{at}.min_should[{i}]", nested=nested)
            for i, part in enumerate(where.min_should.conditions)
        ]
        changed["min_should"] = where.min_should.model_copy(update={"conditions": parts})
    return where.model_copy(update=changed)


def _rewrite_condition(condition: Any, at: str, *, nested: bool) -> Any:
    from qdrant_client import models

    if isinstance(condition, models.Filter):
        return _rewrite(condition, at, nested=nested)
    if isinstance(condition, models.NestedCondition):
        inner = _rewrite(condition.nested.filter, f"{at}.nested", nested=True)
        copy = condition.nested.model_copy(update={"filter": inner})
        return condition.model_copy(update={"nested": copy})
    if not isinstance(condition, models.FieldCondition):
        return condition
    match = condition.match
    if not isinstance(match, models.MatchValue) or not isinstance(match.value, bool):
        return condition
    if nested or not condition.key.startswith(f"{METADATA}."):
        raise InvalidFilter(
            f"{at} matches a boolean at {condition.key!r}, which the embedded engine cannot do",
            fix='Match booleans at keys that begin with "metadata.", outside of nested '
            'conditions, or use the mapping form: {"authors[].active": true}.',
        )
    keyword = models.MatchValue(value="true" if match.value else "false")
    key = FLAGS + condition.key.removeprefix(METADATA)
    return condition.model_copy(update={"key": key, "match": keyword})
