"""Payload indexes: which paths have one, and that having one changes no filter's meaning.

Qdrant answers some conditions from an index differently from reading payloads (tried on Edge
0.9, which shares the server's code): an index for numbers takes dates for seconds since 1970, one
for dates takes numbers likewise, both lose texts that are UUIDs, and one for keywords loses
values that are not text when asked for everything except some. Such conditions are said in another
way that reads payloads, or refused where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from retrieval.errors import InvalidFilter, InvalidInput
from retrieval.index.filters import as_list
from retrieval.index.payload import FLAGS, METADATA, RESERVED
from retrieval.index.payload_paths import path_parts, payload_path, values_at
from retrieval.types import FieldKind

if TYPE_CHECKING:
    from qdrant_client import models

Find: TypeAlias = "Callable[[models.Filter], Iterable[tuple[str, Mapping[str, Any]]]]"

_KINDS = ("keyword", "number", "datetime")

_MOST_IDS = 10_000


def index_paths(fields: Mapping[str, FieldKind]) -> dict[str, FieldKind]:
    """The payload paths to index for `Storage.fields`, and the kind of each index.

    A keyword field also gets one on the mirror of its booleans, see `payload.py`.

    Raises:
        InvalidInput: a name is not a path of fields, or a kind is unknown.
    """
    paths: dict[str, FieldKind] = {}
    for name, kind in fields.items():
        if kind not in _KINDS:
            raise InvalidInput(
                f"the index of the field {name!r} is of the kind {kind!r}, expected one of "
                + ", ".join(_KINDS),
                fix='Give for example fields={"lang": "keyword", "year": "number"}.',
            )
        try:
            paths[payload_path(name)] = kind
            if kind == "keyword" and name not in RESERVED:
                paths[payload_path(name, flags=True)] = kind
        except InvalidFilter as error:
            raise InvalidInput(error.problem, fix=error.fix) from None
    return paths


_Path = tuple[str, ...]


class IndexedFields:
    """The payload indexes of a collection, and filters that do not depend on them.

    Args:
        kinds: payload path → kind of its index, see `fields.py`.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds: dict[_Path, str] = {path_parts(path): kind for path, kind in kinds.items()}

    def same(self, where: models.Filter, *, find: Find | None = None) -> models.Filter:
        """The filter in a form that means the same whether its fields are indexed or not.

        Args:
            find: given where an engine has to answer by these indexes alone: ids and payloads of
                what a filter matches. Then a MatchExcept does not see numbers in a list beside
                the texts that it excepts.

        Raises:
            InvalidFilter: it compares numbers with a field indexed for dates, or the reverse; or
                no index answers it, and one has to.
        """
        return _filter(where, _Indexes(self._kinds, find), ())


@dataclass(frozen=True, slots=True)
class _Indexes:
    kinds: Mapping[_Path, str]
    find: Find | None


def _filter(where: models.Filter, kinds: _Indexes, within: _Path) -> models.Filter:
    changed: dict[str, Any] = {}
    for name in ("must", "should", "must_not"):
        parts = as_list(getattr(where, name))
        if parts:
            changed[name] = [_condition(part, kinds, within) for part in parts]
    if where.min_should is not None:
        parts = [_condition(part, kinds, within) for part in where.min_should.conditions]
        changed["min_should"] = where.min_should.model_copy(update={"conditions": parts})
    return where.model_copy(update=changed)


def _condition(condition: Any, kinds: _Indexes, within: _Path) -> Any:
    from qdrant_client import models

    if isinstance(condition, models.Filter):
        return _filter(condition, kinds, within)
    if isinstance(condition, models.NestedCondition):
        key = condition.nested.key
        # the engine looks for an index under the whole path, of a list of objects
        inside = (*within, *path_parts(key if key.endswith("]") else f"{key}[]"))
        inner = _filter(condition.nested.filter, kinds, inside)
        nested = condition.nested.model_copy(update={"filter": inner})
        return condition.model_copy(update={"nested": nested})
    if not isinstance(condition, models.FieldCondition):
        return condition
    kind = kinds.kinds.get((*within, *path_parts(condition.key)))
    if kind == "float" and kinds.find is not None:
        condition = _exactly(condition, kinds.find, within)
        if isinstance(condition, models.HasIdCondition):
            return condition
    if kind in ("integer", "float", "datetime"):
        return _ordered(condition, dates=kind == "datetime")
    return condition if kind is None else _keyword(condition, kinds.find is not None)


def _exactly(
    condition: models.FieldCondition, find: Find, within: _Path
) -> models.HasIdCondition | models.FieldCondition:
    """A match of a whole number, which an index for numbers takes for its nearest float, as the
    ids of the few points that have exactly that number."""
    from qdrant_client import models

    match = condition.match
    if not isinstance(match, models.MatchValue) or not isinstance(match.value, int):
        return condition
    near = float(match.value)
    bounds = models.Range(gte=math.nextafter(near, -math.inf), lte=math.nextafter(near, math.inf))
    around = models.FieldCondition(key=condition.key, range=bounds)
    parts, ids = path_parts(condition.key), []
    for key, payload in find(models.Filter(must=[around])) if not within else ():
        if any(type(one) is int and one == match.value for one in values_at(payload, parts)):
            ids.append(key)
        if len(ids) > _MOST_IDS:
            break
    if within or len(ids) > _MOST_IDS:
        raise InvalidFilter(
            f"the filter compares {condition.key!r} with the whole number {match.value} exactly, "
            "which an index for numbers cannot from 2**53 on, and the strict mode of the "
            "collection allows only what an index answers",
            fix="Store such numbers as text in a field with an index for keywords, or let the "
            "server allow filters without an index (unindexed_filtering_retrieve).",
        )
    return models.HasIdCondition(has_id=list(ids))


def _ordered(condition: models.FieldCondition, *, dates: bool) -> models.FieldCondition:
    """A condition on a field with an index for numbers or dates."""
    from qdrant_client import models

    bounds, match = condition.range, condition.match
    if bounds is not None and isinstance(bounds, models.DatetimeRange) != dates:
        holds, other = ("dates", "numbers") if dates else ("numbers", "dates")
        raise InvalidFilter(
            f"the field {condition.key!r} has an index for {holds}, and the filter compares it "
            f"with {other}, which that index would answer wrongly",
            fix=f"Compare it with {holds}, or index again without an index on it, or with one "
            'for "keyword", which leaves ranges of numbers and of dates as they are.',
        )
    if isinstance(match, models.MatchValue) and isinstance(match.value, str):
        # these indexes answer for a text that is a UUID; "any of" one text they leave alone
        return condition.model_copy(update={"match": models.MatchAny(any=[match.value])})
    return condition


def _keyword(
    condition: models.FieldCondition, only_indexed: bool
) -> models.FieldCondition | models.Filter:
    """A condition on a field with an index for keywords."""
    from qdrant_client import models

    match = condition.match
    if not isinstance(match, models.MatchExcept) or not isinstance(match.except_[0], str):
        return condition
    key = condition.key
    if "[" in key:
        raise InvalidFilter(
            f"the field {key!r} has an index for keywords, which would answer a MatchExcept on "
            "values within lists of objects wrongly",
            fix="Put a MatchAny of the same values into must_not instead.",
        )
    # "key[]" has no index, and holds for lists; of anything else, not being one of them is enough
    in_list = condition.model_copy(update={"key": f"{key}[]"})
    field = models.PayloadField(key=key)
    alone = models.Filter(
        must_not=[
            models.IsEmptyCondition(is_empty=field),
            models.IsNullCondition(is_null=field),
            models.FieldCondition(key=key, match=models.MatchAny(any=match.except_)),
        ]
    )
    if not only_indexed:
        return models.Filter(should=[in_list, alone])
    several: list[models.Condition] = [condition, alone]
    if key.startswith(f"{METADATA}."):
        # beside the texts of a list, what else can be found by an index
        flags = models.MatchAny(any=["true", "false"])
        name = FLAGS + key.removeprefix(METADATA)
        several.append(models.FieldCondition(key=name, match=flags))
    return models.Filter(should=several)
