"""Strict mode as a server enforces it: which request meets which limit, in the server's words.

    client.update_collection("docs@v1", strict_mode_config=models.StrictModeConfig(
        enabled=True, max_query_limit=100))
    server.backend.strict_default = models.StrictModeConfig(enabled=True, read_rate_limit=60)

What the client's models do not know any more is set on the double: `server.backend.resources`.
Not enforced: sizes of the whole collection, per-vector settings, and `max_timeout` (a limit of a
request parameter that this library does not send).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from .rejected import Rejected

if TYPE_CHECKING:
    from .backend import Kept

_ANY_INDEX = ["bool", "datetime", "float", "geo", "integer", "keyword", "text", "uuid"]


@dataclass
class Resources:
    """What the node has used, and the limits that stop writes (None: there is none)."""

    disk_percent: int = 78
    memory_percent: int = 50
    max_disk_usage_percent: int | None = None


def check_upsert(kept: Kept, points: int, resources: Resources) -> None:
    """Refuse an upsert that is too large, or that the node has no room for."""
    _check_room(kept, resources)
    if limits := _limits(kept):
        _limit(points, limits.upsert_max_batchsize, "upsert limit")


def check_delete(kept: Kept, selector: Any) -> None:
    """Refuse a deletion by a filter that is too long or has no index."""
    if (limits := _limits(kept)) and isinstance(selector, models.FilterSelector):
        _check_filter(kept, limits, selector.filter, limits.unindexed_filtering_update)


def check_scroll(kept: Kept, asked: models.ScrollRequest) -> None:
    """Refuse a page that is too long, or its filter."""
    if limits := _limits(kept):
        _limit(10 if asked.limit is None else asked.limit, limits.max_query_limit, "limit")
        _check_filter(kept, limits, asked.filter, limits.unindexed_filtering_retrieve)


def check_count(kept: Kept, asked: models.CountRequest) -> None:
    """Refuse an exact count where there is none, or its filter."""
    if limits := _limits(kept):
        _check_filter(kept, limits, asked.filter, limits.unindexed_filtering_retrieve)
        exact = True if asked.exact is None else asked.exact
        _exact(exact, limits)


def check_batch(kept: Kept, searches: Sequence[Any]) -> None:
    """Refuse a batch of searches that is too long, or one of them."""
    if limits := _limits(kept):
        _limit(len(searches), limits.search_max_batchsize, "search batch size")
        for asked in searches:
            check_query(kept, asked)


def check_query(kept: Kept, asked: Any) -> None:
    """Refuse a search (with all that it prefetches) by its limit, filter and parameters."""
    if not (limits := _limits(kept)):
        return
    nested = asked.prefetch or []
    for prefetch in nested if isinstance(nested, list) else [nested]:
        check_query(kept, prefetch)
    if not nested and asked.query is not None:
        _check_full_scan(kept, limits, asked)
    _limit(10 if asked.limit is None else asked.limit, limits.max_query_limit, "limit")
    _check_filter(kept, limits, asked.filter, limits.unindexed_filtering_retrieve)
    if (params := asked.params) is None:
        return
    oversampling = params.quantization.oversampling if params.quantization else None
    _limit(oversampling, limits.search_max_oversampling, "oversampling")
    _limit(params.hnsw_ef, limits.search_max_hnsw_ef, "hnsw_ef")
    _exact(bool(params.exact), limits)


def conditions(where: models.Filter | None) -> Iterator[Any]:
    """The conditions of a filter, those of filters within it in place of these."""
    for condition in _parts(where):
        if isinstance(condition, models.Filter):
            yield from conditions(condition)
        elif isinstance(condition, models.NestedCondition):
            yield from conditions(condition.nested.filter)
        else:
            yield condition


def _limits(kept: Kept) -> models.StrictModeConfig | None:
    given = kept.config.strict_mode_config
    return given if given is not None and given.enabled else None


def _refuse(text: str, help_: str) -> Rejected:
    return Rejected(400, f"{text}. Help: {help_}")


def _limit(value: float | None, most: float | None, name: str) -> None:
    if value is not None and most is not None and value > most:
        text = f'Limit exceeded {value:g} > {most:g} for "{name}"'
        raise _refuse(text, f'Reduce the "{name}" parameter to or below {most:g}.')


def _exact(exact: bool, limits: models.StrictModeConfig) -> None:
    if exact and limits.search_allow_exact is False:
        raise _refuse("Exact search disabled!", "Set exact=false.")


def _check_full_scan(kept: Kept, limits: models.StrictModeConfig, asked: Any) -> None:
    vectors = kept.config.vectors
    if limits.search_allow_exact is not False or not isinstance(vectors, dict):
        return
    params = vectors.get(asked.using or "")
    if params is None or params.hnsw_config is None or params.hnsw_config.m != 0:
        return
    tenants = {path for path, schema in kept.indexes.items() if getattr(schema, "is_tenant", False)}
    narrowed = any(getattr(one, "key", None) in tenants for one in conditions(asked.filter))
    if not narrowed or params.hnsw_config.payload_m == 0:
        raise _refuse(
            f"Request is forbidden on '{asked.using}' because global vector indexing is disabled "
            "(hnsw_config.m = 0)",
            "Use tenant-specific filter, enable global vector indexing or enable strict mode "
            "`search_allow_exact` option",
        )


def _check_room(kept: Kept, resources: Resources) -> None:
    limits = _limits(kept)
    memory = limits.max_resident_memory_percent if limits else None
    for what, whole, used, most, setting in (
        ("Disk", "capacity", resources.disk_percent, resources.max_disk_usage_percent, "disk"),
        ("Resident memory", "memory", resources.memory_percent, memory, "memory"),
    ):
        if most is not None and used >= most:
            raise _refuse(
                f"{what} usage is at {used}% of total {whole}, exceeding the configured limit of "
                f"{most}%",
                f"Reduce {setting} usage (e.g. delete points or drop collections)",
            )


def _check_filter(
    kept: Kept, limits: models.StrictModeConfig, where: models.Filter | None, free: bool | None
) -> None:
    if where is None:
        return
    found = list(conditions(where))
    most = limits.filter_max_conditions
    if most is not None and len(found) > most:
        raise _refuse(
            f"Filter condition limit reached ({len(found)} > {most})",
            "Reduce the amount of conditions of your filter.",
        )
    size, most = max(map(_size, found), default=0), limits.condition_max_size
    if most is not None and size > most:
        raise _refuse(
            f"Condition size limit reached ({size} > {most})", "Reduce the size of your condition."
        )
    if free is False:
        for key, wanted in _indexes(where, ""):
            if _kind(kept.indexes.get(key)) not in wanted:
                raise _refuse(
                    f'Index required but not found for "{key}" of one of the following types: '
                    f"[{', '.join(sorted(wanted))}]",
                    "Create an index for this key or use a different filter.",
                )


def _parts(where: models.Filter | None) -> Iterator[Any]:
    if where is None:
        return
    for clause in (where.must, where.should, where.must_not):
        yield from clause if isinstance(clause, list) else [] if clause is None else [clause]
    if where.min_should is not None:
        yield from where.min_should.conditions


def _size(condition: Any) -> int:
    if isinstance(condition, models.HasIdCondition):
        return len(condition.has_id)
    match = getattr(condition, "match", None)
    if isinstance(match, models.MatchAny):
        return len(match.any)
    return len(match.except_) if isinstance(match, models.MatchExcept) else 0


def _indexes(where: models.Filter, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Each path that a filter asks for, and the kinds of index that answer it."""
    for condition in _parts(where):
        if isinstance(condition, models.Filter):
            yield from _indexes(condition, prefix)
        elif isinstance(condition, models.NestedCondition):
            key = condition.nested.key
            inside = key if key.endswith("[]") else f"{key}[]"
            yield from _indexes(condition.nested.filter, f"{prefix}{inside}.")
        elif isinstance(condition, models.IsEmptyCondition):
            yield prefix + condition.is_empty.key, _ANY_INDEX
        elif isinstance(condition, models.IsNullCondition):
            yield prefix + condition.is_null.key, _ANY_INDEX
        elif isinstance(condition, models.FieldCondition):
            yield prefix + condition.key, _wanted(condition)


def _wanted(condition: models.FieldCondition) -> list[str]:
    match, bounds = condition.match, condition.range
    if isinstance(bounds, models.DatetimeRange):
        return ["datetime"]
    if bounds is not None:
        return ["float", "integer"]
    values: list[Any]
    if isinstance(match, models.MatchValue):
        values = [match.value]
    elif isinstance(match, models.MatchAny):
        values = list(match.any)
    elif isinstance(match, models.MatchExcept):
        values = list(match.except_)
    else:
        return _ANY_INDEX if match is None else ["text"]
    if values and isinstance(values[0], bool):
        return ["bool"]
    if values and isinstance(values[0], int):
        return ["integer"]
    return ["keyword", "uuid"] if all(map(_is_uuid, values)) else ["keyword"]


def _is_uuid(value: Any) -> bool:
    try:
        uuid.UUID(value)
    except ValueError:
        return False
    return True


def _kind(schema: Any) -> str | None:
    if schema is None:
        return None
    kind = schema if isinstance(schema, models.PayloadSchemaType) else schema.type
    return str(kind.value)
