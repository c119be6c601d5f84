"""A qdrant_client filter as a Qdrant Edge filter, part by part.

Edge has its own classes and reads no JSON, so each condition is built anew. What Edge has no
counterpart for is refused, never left out: a dropped condition would widen the result.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from retrieval.errors import InvalidFilter

if TYPE_CHECKING:
    import qdrant_edge as edge
    from qdrant_client import models


def to_edge_filter(where: models.Filter | None) -> edge.Filter | None:
    """The same filter for Edge; None stays None.

    Raises:
        InvalidFilter: a condition that the embedded engine does not have.
    """
    if where is None:
        return None
    import qdrant_edge as edge

    least = where.min_should
    return edge.Filter(
        must=_clause(where.must),
        should=_clause(where.should),
        must_not=_clause(where.must_not),
        min_should=None
        if least is None
        else edge.MinShould([_condition(part) for part in least.conditions], least.min_count),
    )


def _clause(value: Any) -> list[Any] | None:
    if value is None:
        return None
    return [_condition(part) for part in (value if isinstance(value, list) else [value])]


def _condition(condition: Any) -> Any:
    import qdrant_edge as edge
    from qdrant_client import models

    match condition:
        case models.Filter():
            return to_edge_filter(condition)
        case models.FieldCondition():
            return _field(condition)
        case models.IsEmptyCondition():
            return edge.IsEmptyCondition(condition.is_empty.key)
        case models.IsNullCondition():
            return edge.IsNullCondition(condition.is_null.key)
        case models.HasIdCondition():
            return edge.HasIdCondition(set(condition.has_id))
        case models.HasVectorCondition():
            return edge.HasVectorCondition(condition.has_vector)
        case models.NestedCondition():
            inner = to_edge_filter(condition.nested.filter)
            assert inner is not None
            return edge.NestedCondition(condition.nested.key, inner)
    raise _unsupported(condition)


def _field(condition: models.FieldCondition) -> Any:
    import qdrant_edge as edge

    box, circle, area = condition.geo_bounding_box, condition.geo_radius, condition.geo_polygon
    counts = condition.values_count
    return edge.FieldCondition(
        condition.key,
        match=None if condition.match is None else _match(condition.match),
        range=None if condition.range is None else _range(condition.range),
        geo_bounding_box=None
        if box is None
        else edge.GeoBoundingBox(_point(box.top_left), _point(box.bottom_right)),
        geo_radius=None if circle is None else edge.GeoRadius(_point(circle.center), circle.radius),
        geo_polygon=None
        if area is None
        else edge.GeoPolygon(
            [_point(point) for point in area.exterior.points],
            [[_point(point) for point in ring.points] for ring in area.interiors or []],
        ),
        values_count=None
        if counts is None
        else edge.ValuesCount(lt=counts.lt, gt=counts.gt, lte=counts.lte, gte=counts.gte),
        is_empty=condition.is_empty,
        is_null=condition.is_null,
    )


def _match(match: Any) -> Any:
    import qdrant_edge as edge
    from qdrant_client import models

    match match:
        case models.MatchValue():
            return edge.MatchValue(match.value)
        case models.MatchAny():
            return edge.MatchAny(match.any)
        case models.MatchExcept():
            return edge.MatchExcept(match.except_)
        case models.MatchText():
            return edge.MatchText(match.text)
        case models.MatchTextAny():
            return edge.MatchTextAny(match.text_any)
        case models.MatchPhrase():
            return edge.MatchPhrase(match.phrase)
    # younger than the oldest qdrant-client that is allowed
    for name, field in (("MatchPrefix", "prefix"), ("MatchSubstring", "substring")):
        if type(match).__name__ == name:
            return getattr(edge, name)(getattr(match, field))
    raise _unsupported(match)


def _range(bounds: Any) -> Any:
    import qdrant_edge as edge
    from qdrant_client import models

    values = {name: getattr(bounds, name) for name in ("gte", "gt", "lte", "lt")}
    if isinstance(bounds, models.DatetimeRange):
        return edge.RangeDateTime(**{name: _moment(value) for name, value in values.items()})
    return edge.RangeFloat(**values)


def _moment(value: Any) -> str | None:
    if value is None:
        return None
    # Edge reads a moment without a zone as UTC, as the server does
    text: str = value.isoformat()
    return text if isinstance(value, datetime) else f"{text}T00:00:00Z"


def _point(point: models.GeoPoint) -> edge.GeoPoint:
    import qdrant_edge as edge

    return edge.GeoPoint(point.lon, point.lat)


def _unsupported(part: object) -> InvalidFilter:
    return InvalidFilter(
        f"the embedded engine has no {type(part).__name__}",
        fix="Leave it out of the filter, or use a Qdrant server.",
    )
