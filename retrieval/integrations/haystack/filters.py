"""Haystack's filters as a `where` of this library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrieval.errors import InvalidFilter
from retrieval.types import Where

_RANGES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_CONNECTIVES = ("AND", "OR", "NOT")


def where_of(filters: Mapping[str, Any] | None) -> Where | None:
    """What Haystack's filters mean; a `where` stays as it is, and None or {} says nothing.

    `meta.year` is the metadata field `year`. As in Haystack, `!=` and `not in` also hold where the
    field is missing, and NOT means that not all of its conditions hold.

    Raises:
        InvalidFilter: it cannot be understood; says where.
    """
    if not filters:
        return None
    if not isinstance(filters, Mapping):
        raise InvalidFilter(
            f"filters is a {type(filters).__name__}, expected a mapping",
            fix='Write them as {"field": "meta.year", "operator": ">=", "value": 2020}.',
        )
    if "operator" in filters and ("field" in filters or "conditions" in filters):
        return _condition(filters, "filters")
    return filters


def _condition(given: object, at: str) -> dict[str, Any]:
    if not isinstance(given, Mapping) or "operator" not in given:
        raise InvalidFilter(
            f"{at} is {given!r}, expected a mapping with an operator",
            fix='Write it as {"field": "meta.year", "operator": ">=", "value": 2020}.',
        )
    operator = given["operator"]
    if "conditions" in given:
        return _joined(operator, given["conditions"], at)
    if "field" not in given or "value" not in given:
        raise InvalidFilter(
            f"{at} has the keys {sorted(map(str, given))}, expected field, operator and value",
            fix="Add what is missing.",
        )
    name = str(given["field"]).removeprefix("meta.")
    value = given["value"]
    if operator in ("in", "not in"):
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidFilter(
                f"{at} compares {name!r} by {operator!r} with {value!r}, expected a list of values",
                fix="Give at least one value.",
            )
        found: dict[str, Any] = {name: list(value)}
        return found if operator == "in" else {"not": found}
    if operator in _RANGES:
        return {name: {_RANGES[operator]: value}}
    if operator in ("==", "!="):
        if isinstance(value, (list, tuple)):
            raise InvalidFilter(
                f"{at} compares {name!r} by {operator!r} with a list",
                fix="Use the operator 'in' or 'not in', or a condition for each value.",
            )
        return {name: value} if operator == "==" else {"not": {name: value}}
    known = ", ".join(["==", "!=", *_RANGES, "in", "not in", *_CONNECTIVES])
    raise InvalidFilter(
        f"{at} has the operator {operator!r}, expected one of {known}", fix="Use one of these."
    )


def _joined(operator: object, conditions: object, at: str) -> dict[str, Any]:
    if operator not in _CONNECTIVES or not isinstance(conditions, (list, tuple)) or not conditions:
        raise InvalidFilter(
            f"{at} has the operator {operator!r} over {conditions!r}, expected AND, OR or NOT "
            "over a list of conditions",
            fix="Correct the operator, or give at least one condition.",
        )
    parts = [_condition(part, f"{at}.conditions[{i}]") for i, part in enumerate(conditions)]
    if operator == "NOT":
        return {"not": {"and": parts}}
    return {"and" if operator == "AND" else "or": parts}
