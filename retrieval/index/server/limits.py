"""What a server allows of a collection in one request (its strict mode), and requests that fit.

A collection's own description says it when it is opened. What it did not say then, or says no
longer, is learned from the words of a refusal, and the request is repeated as they allow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from retrieval.errors import InvalidFilter
from retrieval.index.filters import as_list
from retrieval.index.point_store import Bounds
from retrieval.index.server.errors import OverLimit

if TYPE_CHECKING:
    from qdrant_client import models

    from retrieval.types import Storage

logger = logging.getLogger("retrieval.index.server.index")
_T = TypeVar("_T")

_FIELDS = {
    "max_query_limit": "results",
    "upsert_max_batchsize": "upserts",
    "search_max_batchsize": "searches",
    "search_max_hnsw_ef": "ef",
    "search_max_oversampling": "oversampling",
    "condition_max_size": "values",
    "filter_max_conditions": "conditions",
    "search_allow_exact": "exact",
    "unindexed_filtering_retrieve": "unindexed",
}


@dataclass(slots=True)
class Limits:
    """The limits of one collection that matter here; None and True: there is none.

    Attributes:
        results: of one search, and points of a page.
        upserts: points of one write.
        searches: searches of one request.
        ef: nodes of the graph that a search looks at.
        oversampling: how many times as many are re-scored with whole vectors.
        values: of one condition, such as "any of".
        conditions: of one filter.
        exact: whether searches and counts may be exact.
        unindexed: whether filters may use fields without an index.
        learned: how often a refusal said something new.
        rationed: whether reading costs tokens, of which a minute brings so many.
    """

    results: int | None = None
    upserts: int | None = None
    searches: int | None = None
    ef: int | None = None
    oversampling: float | None = None
    values: int | None = None
    conditions: int | None = None
    exact: bool = True
    unindexed: bool = True
    rationed: bool = False
    learned: int = 0

    def read(self, info: Any) -> None:
        """Take over what a collection's description says, in place of what was known."""
        given = getattr(info.config, "strict_mode_config", None)
        enabled = given is not None and given.enabled
        for setting, name in _FIELDS.items():
            value = getattr(given, setting, None) if enabled else None
            switch = name in ("exact", "unindexed")
            setattr(self, name, value is not False if switch else value)
        self.rationed = enabled and getattr(given, "read_rate_limit", None) is not None

    def learn(self, refusal: OverLimit, seen: int) -> bool:
        """Take over what a refusal says; False where that was known when the request was made.

        Args:
            seen: `learned` of that time; another thread may have been refused since.
        """
        name = _FIELDS.get(refusal.setting)
        if name is None or getattr(self, name) == refusal.most:
            return self.learned != seen
        setattr(self, name, refusal.most)
        self.learned += 1
        logger.info("the server allows less than was asked for: %s", refusal.problem)
        return True

    def ask(self, call: Callable[[], _T]) -> _T:
        """The answer to `call`, which is repeated where its refusal says what is allowed."""
        while True:
            seen = self.learned
            try:
                return call()
            except OverLimit as refusal:
                if not self.learn(refusal, seen):
                    raise

    @property
    def bounds(self) -> Bounds:
        """What those who ask must know, because it shows in what is found."""
        return Bounds(self.results, self.values, self.conditions, self.unindexed)

    def page(self, limit: int) -> int:
        """How many points of a page of `limit` may be asked for at once."""
        return limit if self.results is None else min(limit, self.results)

    def parts(self, items: Sequence[_T]) -> list[Sequence[_T]]:
        """Points of one write in as many parts as must be."""
        size = self.upserts or max(1, len(items))
        return [items[start : start + size] for start in range(0, len(items), size)]

    def filter(self, where: models.Filter | None) -> models.Filter | None:
        """A filter that means the same, of conditions that are not too long.

        Raises:
            InvalidFilter: there is none, or it has too many conditions.
        """
        if where is None or (self.values is None and self.conditions is None):
            return where
        fitting = where if self.values is None else _shortened(where, self.values)
        count = sum(1 for _ in _conditions(fitting))
        if self.conditions is not None and count > self.conditions:
            raise InvalidFilter(
                f"the filter has {count} conditions, and the server allows {self.conditions} in "
                "one request (filter_max_conditions of the collection's strict mode)",
                fix="Use a filter of fewer conditions, or let the server take more of them.",
            )
        return fitting

    def notes(self, storage: Storage, legs: int) -> tuple[str, ...]:
        """What the limits change in answers, in sentences.

        Args:
            storage: of the collection.
            legs: how many results each leg of a hybrid search would give without limits.
        """
        found: list[str] = []
        width = storage.search_ef or 256
        if self.results is not None and self.results < legs:
            found.append(
                f"A search gives at most {self.results} results: so many candidates can be "
                f"re-ranked, and so many instead of {legs} does each leg of a hybrid search give "
                "(the server's max_query_limit)."
            )
        if self.ef is not None and self.ef < width:
            found.append(
                f"Searches look at {self.ef} nodes of the graph instead of {width}, and may miss "
                "a few more (the server's search_max_hnsw_ef)."
            )
        if (
            storage.quantization != "none"
            and self.oversampling is not None
            and self.oversampling < storage.oversampling
        ):
            found.append(
                f"Searches re-score {self.oversampling:g} times as many instead of "
                f"{storage.oversampling:g} (the server's search_max_oversampling)."
            )
        if not self.exact:
            found.append(
                "Exact searches are not allowed, and counting reads every id (the server's "
                "search_allow_exact)."
            )
        if not self.unindexed:
            found.append(
                "Filters may use indexed fields only (the server's unindexed_filtering_retrieve)."
            )
        return tuple(found)


def _conditions(where: models.Filter) -> Iterator[Any]:
    from qdrant_client import models

    several = where.min_should.conditions if where.min_should is not None else []
    for part in [
        *as_list(where.must), *as_list(where.should), *as_list(where.must_not), *several,
    ]:  # fmt: skip
        if isinstance(part, models.Filter):
            yield from _conditions(part)
        elif isinstance(part, models.NestedCondition):
            yield from _conditions(part.nested.filter)
        else:
            yield part


def _shortened(where: models.Filter, most: int) -> models.Filter:
    changed: dict[str, Any] = {}
    for name in ("must", "should", "must_not"):
        parts = as_list(getattr(where, name))
        if parts:
            changed[name] = [_short(part, most) for part in parts]
    if where.min_should is not None:
        parts = [_short(part, most) for part in where.min_should.conditions]
        changed["min_should"] = where.min_should.model_copy(update={"conditions": parts})
    return where.model_copy(update=changed)


def _short(condition: Any, most: int) -> Any:
    """A condition, or a filter of several shorter ones that mean the same together."""
    from qdrant_client import models

    if isinstance(condition, models.Filter):
        return _shortened(condition, most)
    if isinstance(condition, models.NestedCondition):
        inner = _shortened(condition.nested.filter, most)
        nested = condition.nested.model_copy(update={"filter": inner})
        return condition.model_copy(update={"nested": nested})
    if isinstance(condition, models.HasIdCondition):
        if len(condition.has_id) <= most:
            return condition
        ids = _pieces(condition.has_id, most)
        return models.Filter(should=[models.HasIdCondition(has_id=piece) for piece in ids])
    match = getattr(condition, "match", None)
    if isinstance(match, models.MatchAny) and len(match.any) > most:
        return models.Filter(
            should=[
                condition.model_copy(update={"match": models.MatchAny(any=piece)})
                for piece in _pieces(match.any, most)
            ]
        )
    if isinstance(match, models.MatchExcept) and len(match.except_) > most:
        raise InvalidFilter(
            f"the filter excepts {len(match.except_)} values of {condition.key!r}, and the server "
            f"allows {most} in one condition (condition_max_size of the collection's strict mode)",
            fix="Except fewer values, or let the server take more of them.",
        )
    return condition


def _pieces(values: Sequence[Any], most: int) -> list[list[Any]]:
    return [list(values[start : start + most]) for start in range(0, len(values), most)]
