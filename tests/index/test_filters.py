"""What `where=` cannot be: each refusal names the place and what is allowed there."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

import pytest
from qdrant_client import models as m

from retrieval.errors import InvalidFilter
from retrieval.index.embedded.filters import to_edge_filter
from retrieval.index.filters import compile_delete_filter, compile_filter

REFUSED: list[tuple[Any, str]] = [
    ("lang=en", "where is a str"),
    ([{"lang": "en"}], "where is a list"),
    ({1: "en"}, "where has the key 1"),
    ({"year": {"$gte": 2000}}, r"where\['year'\] has the unknown operator '\$gte'"),
    ({"year": {}}, "has no operator; the operators are gt, gte, lt, lte, exists"),
    ({"author": {"name": "Ann"}}, "unknown operator 'name'"),
    ({"year": {"gte": "soon"}}, r"where\['year'\]\['gte'\] is 'soon', expected a number or an ISO"),
    ({"year": {"gte": 2000, "lt": "2024-01-01"}}, r"\['lt'\] is '2024-01-01'"),
    ({"year": {"gte": True}}, r"\['gte'\] is True"),
    ({"year": {"gte": None}}, r"\['gte'\] is None"),
    ({"year": {"gte": math.nan}}, "finite number"),
    ({"year": math.inf}, "finite number"),
    ({"year": 2**63}, "64 bits"),
    ({"a": {"exists": 1}}, r"\['exists'\] is 1, expected true or false"),
    ({"a": []}, "an empty list, which nothing can match"),
    ({"a": ["x", {"gte": 1}]}, r"where\['a'\]\[1\] is \{'gte': 1\}"),
    ({"a": b"x"}, "a bytes"),
    ({"a": date(2024, 1, 1)}, 'use {"gte": "2024-01-31"}'),
    ({"and": {"a": 1}}, r"where\['and'\] is \{'a': 1\}, expected a list"),
    ({"or": []}, r"where\['or'\] is \[\], expected a list of at least one"),
    ({"or": [{"a": 1}, {}]}, r"where\['or'\]\[1\] is empty"),
    ({"or": [{"a": 1}, "b"]}, r"where\['or'\]\[1\] is 'b', expected a filter"),
    ({"not": [{"a": 1}]}, r"where\['not'\] is \[\{'a': 1\}\], expected a filter"),
    ({"not": {}}, r"where\['not'\] is empty"),
    ({"not": {"or": [{"a": {"bad": 1}}]}}, r"where\['not'\]\['or'\]\[0\]\['a'\] has the unknown"),
    ({"must": [{"key": "a"}]}, r"where\['must'\]\[0\]"),
    ({"a": "\udcff"}, r"where\['a'\]: '\\udcff' has a lone surrogate"),
    ({"a": ["x", "\udcff"]}, r"where\['a'\]\[1\]: '\\udcff' has a lone surrogate"),
    ({"a\udcff": {"exists": True}}, "has a lone surrogate"),
    ({"": 1}, "is not a path of fields"),
    ({"a.": 1}, "is not a path of fields"),
    ({"a..b": 1}, "is not a path of fields"),
    ({".a": 1}, "is not a path of fields"),
    ({'a"b': 1}, "is not a path of fields"),
    ({"a[x]": 1}, "is not a path of fields"),
    ({"title": True}, "compares title with a boolean, but it holds text"),
    ({"position": [False]}, "compares position with a boolean, but it holds a number"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "problem"), REFUSED, ids=[repr(w)[:40] for w, _ in REFUSED])
def test_what_cannot_be_understood_is_named(where: Any, problem: str) -> None:
    with pytest.raises(InvalidFilter, match=problem) as caught:
        compile_filter(where)
    assert caught.value.fix


def test_nothing_is_no_filter() -> None:
    nothing: list[Any] = [None, {}, m.Filter(), m.Filter(must=[], should=[])]
    for where in nothing:
        assert compile_filter(where) is None
        with pytest.raises(InvalidFilter, match="delete every passage"):
            compile_delete_filter(where)
    # asked of nothing but still a condition: matches nothing, and must not become "no filter"
    assert compile_filter(m.Filter(must_not=[m.Filter()])) is not None


def keys(where: Any) -> list[str]:
    return [condition.key for condition in compile_filter(where).must]  # type: ignore[union-attr]


def test_keys_address_metadata_but_for_the_passages_own() -> None:
    assert keys({"lang": "en", "title": "A", "position": 1, "source": "s", "document_id": "d"}) == [
        "metadata.lang", "title", "position", "source", "document_id",
    ]  # fmt: skip
    assert keys({"metadata.title": "A"}) == ["metadata.title"]
    assert keys({"metadata": "A"}) == ["metadata.metadata"]
    assert keys({"metadata.metadata.x": "A"}) == ["metadata.metadata.x"]
    assert keys({"a.b": 1, '"a.b"': 1, "a b": 1, "a[].b[0]": 1, "title.x": 1}) == [
        "metadata.a.b", 'metadata."a.b"', 'metadata."a b"', "metadata.a[].b[0]", "metadata.title.x",
    ]  # fmt: skip
    assert keys({"draft": True, "a b[].x": False}) == [
        "metadata_flags.draft", 'metadata_flags."a b"[].x',
    ]  # fmt: skip


def test_dates_without_a_zone_are_utc() -> None:
    moments: list[Any] = ["2024-01-31", date(2024, 1, 31), datetime(2024, 1, 31),
                          "2024-01-31T01:00:00+01:00"]  # fmt: skip
    for moment in moments:
        compiled = compile_filter({"published": {"gte": moment}})
        bounds = compiled.must[0].must[0].range  # type: ignore[union-attr, index]
        assert bounds == m.DatetimeRange(gte=datetime(2024, 1, 31, tzinfo=UTC))


def test_a_users_filter_is_not_changed() -> None:
    where = m.Filter(
        must=[m.FieldCondition(key="metadata.a", match=m.MatchValue(value=True))],
        min_should=m.MinShould(
            conditions=[m.FieldCondition(key="metadata.b", match=m.MatchValue(value=False))],
            min_count=1,
        ),
    )
    before = where.model_copy(deep=True)
    compiled = compile_filter(where)
    assert where == before
    assert compiled is not None
    assert compiled.must[0].key == "metadata_flags.a"  # type: ignore[index, union-attr]
    assert compiled.min_should.conditions[0].key == "metadata_flags.b"  # type: ignore[union-attr]


def test_what_edge_lacks_is_refused_and_not_dropped() -> None:
    part = m.SliceCondition(slice=m.Slice(total=2, index=0))
    with pytest.raises(InvalidFilter, match="no SliceCondition"):
        to_edge_filter(m.Filter(must=[part]))


def test_every_condition_has_a_counterpart_on_edge() -> None:
    import qdrant_edge as edge

    point = m.GeoPoint(lon=13.4, lat=52.5)
    ring = m.GeoLineString(
        points=[point, m.GeoPoint(lon=1, lat=1), m.GeoPoint(lon=2, lat=1), point]
    )
    fields: list[dict[str, Any]] = [
        {"match": m.MatchText(text="a")},
        {"match": m.MatchTextAny(text_any="a b")},
        {"match": m.MatchPhrase(phrase="a b")},
        {"match": m.MatchPrefix(prefix="a")},
        {"match": m.MatchSubstring(substring="a")},
        {"geo_radius": m.GeoRadius(center=point, radius=5)},
        {"geo_bounding_box": m.GeoBoundingBox(top_left=point, bottom_right=point)},
        {"geo_polygon": m.GeoPolygon(exterior=ring, interiors=[ring])},
        {"range": m.DatetimeRange(lt=date(2024, 1, 1), gt=datetime(2024, 1, 1))},
        {"is_empty": True},
        {"is_null": True},
    ]
    for condition in fields:
        where = m.Filter(must=[m.FieldCondition(key="metadata.a", **condition)])
        assert isinstance(to_edge_filter(where), edge.Filter)
    assert to_edge_filter(None) is None
