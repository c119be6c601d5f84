"""Filters over attributes in OpenAI's form, and their translation into the library's `where`.

    {"type": "eq", "key": "lang", "value": "en"}
    {"type": "and", "filters": [{"type": "gte", "key": "year", "value": 2020}, …]}

Keys are those of `where`: passage metadata, with a dot into objects, and `document_id`, `source`,
`title` and `position` of the passage itself (`metadata.title` is the metadata of that name). A
list in the metadata matches by any of its elements. `ne` and `nin` are the exact opposites of
`eq` and `in`, so they also hold for passages that lack the attribute. `gt`, `gte`, `lt` and `lte`
take numbers, or ISO dates in text.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from app.errors import BadRequest

MOST_LEVELS = 16
MOST_CONDITIONS = 256
MOST_VALUES = 4096

_Number: TypeAlias = int | Annotated[float, Field(allow_inf_nan=False)]
_Text: TypeAlias = Annotated[str, Field(max_length=8192)]


class ComparisonFilter(BaseModel):
    """One attribute compared with a value."""

    model_config = ConfigDict(extra="ignore", strict=True)  # "1" is not a number

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: str = Field(min_length=1, max_length=512, description="name of the attribute")
    value: (
        bool
        | _Number
        | _Text
        | Annotated[
            list[bool | _Number | _Text],
            Field(max_length=MOST_VALUES, description="for in and nin"),
        ]
    )


class CompoundFilter(BaseModel):
    """Several filters, all or any of which must hold."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["and", "or"]
    filters: list[AttributeFilter] = Field(min_length=1, max_length=MOST_CONDITIONS)


AttributeFilter: TypeAlias = Annotated[
    ComparisonFilter | CompoundFilter, Field(discriminator="type")
]

CompoundFilter.model_rebuild()


def where_of(filters: ComparisonFilter | CompoundFilter) -> dict[str, Any]:
    """The same filter as `retrieval` takes it.

    Raises:
        BadRequest: nested too deep, too many conditions or values, or a list where one value is
            expected (and the other way round).
    """
    return _where(filters, 1, [MOST_CONDITIONS, MOST_VALUES])


def _where(
    filters: ComparisonFilter | CompoundFilter, level: int, left: list[int]
) -> dict[str, Any]:
    if isinstance(filters, CompoundFilter):
        if level > MOST_LEVELS:
            raise BadRequest(
                f"filters are nested more than {MOST_LEVELS} levels deep",
                fix="Write them flatter: `and` and `or` take any number of filters.",
            )
        return {filters.type: [_where(part, level + 1, left) for part in filters.filters]}
    left[0] -= 1
    left[1] -= len(filters.value) if isinstance(filters.value, list) else 1
    if min(left) < 0:
        raise BadRequest(
            f"filters hold more than {MOST_CONDITIONS} conditions or {MOST_VALUES:,} values",
            fix="Join values of one key with `in`, or store what they have in common as metadata.",
        )
    return _comparison(filters)


def _comparison(filters: ComparisonFilter) -> dict[str, Any]:
    key, value = filters.key, filters.value
    # a key of that name would be taken for the connective
    key = f"metadata.{key}" if key in ("and", "or", "not") else key
    many = filters.type in ("in", "nin")
    if isinstance(value, list) is not many:
        got = "a list" if isinstance(value, list) else f"{value!r}"
        expected = "a list of values" if many else "one value"
        raise BadRequest(
            f"the filter {filters.type!r} on {filters.key!r} has {got}, expected {expected}",
            fix="Use `in` and `nin` with lists, the other comparisons with one value.",
        )
    if filters.type in ("eq", "in"):
        return {key: value}
    if filters.type in ("ne", "nin"):
        return {"not": {key: value}}
    return {key: {filters.type: value}}
