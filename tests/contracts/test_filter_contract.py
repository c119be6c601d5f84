"""`where=` means the same on every engine: what a plain Python reading of it says."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import InvalidFilter
from retrieval.index.collection import CollectionIndex
from retrieval.types import Passage, Storage

Make = Callable[..., Passage]

DATES = ["2023-12-31", "2024-01-01", "2024-01-01T12:00:00Z", "2024-01-01T12:00:00+02:00",
         "2024-06-30T23:59:59.5Z"]  # fmt: skip
SCALARS: list[Any] = [
    None, True, False, 0, 1, 2, 2000, -3, 2**53, 2**53 + 1, 2**53 + 2, 0.5, 1.0, 2000.0, -0.5,
    "", "1", "true", "en", "EN", "naïve", "北京", "a b", 'say "hi"', *DATES,
]  # fmt: skip
KEYS = ["a", "b", "tags", "o.x", "with space", '"dot.ted"', "键", "metadata.title"]


def random_value(rng: random.Random) -> Any:
    if rng.random() < 0.25:
        return [rng.choice(SCALARS) for _ in range(rng.randrange(4))]
    return rng.choice(SCALARS)


def corpus(passage: Make) -> list[Passage]:
    rng = random.Random(7)
    passages: list[Passage] = []
    for i in range(150):
        metadata: dict[str, Any] = {
            name: random_value(rng)
            for name in ("a", "b", "tags", "with space", "dot.ted", "键", "title")
            if rng.random() < 0.8
        }
        if rng.random() < 0.7:
            metadata["o"] = {"x": random_value(rng)} if rng.random() < 0.8 else {}
        if rng.random() < 0.5:
            metadata["people"] = [{"name": rng.choice(["Ann", "Bo"]), "active": rng.choice(
                [True, False])} for _ in range(rng.randrange(3))]  # fmt: skip
        passages.append(
            passage(f"d{i // 3}", i % 3, title=rng.choice(["", "A", "B"]), source=f"s{i % 4}",
                    metadata=metadata)
        )  # fmt: skip
    return passages


# --- the oracle -----------------------------------------------------------------------------

_MISSING = object()


def stored(passage: Passage, key: str) -> Any:
    if key in ("document_id", "source", "title", "position"):
        return getattr(passage, key)
    value: Any = passage.metadata
    for part in key.removeprefix("metadata.").split(".") if '"' not in key else [key.strip('"')]:
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def elements(value: Any) -> list[Any]:
    return [] if value is _MISSING else value if isinstance(value, list) else [value]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def equal(found: Any, wanted: Any) -> bool:
    if wanted is None:
        return found is _MISSING or found is None or found == []
    if is_number(wanted) and abs(wanted) < 2**53:
        return any(is_number(item) and float(item) == wanted for item in elements(found))
    return any(type(item) is type(wanted) and item == wanted for item in elements(found))


def moment(text: Any) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def within(item: Any, bounds: Mapping[str, Any]) -> bool:
    if all(isinstance(bound, str) for bound in bounds.values()):
        item, bounds = moment(item), {name: moment(bound) for name, bound in bounds.items()}
        if item is None:
            return False
    elif is_number(item):
        item, bounds = float(item), {name: float(bound) for name, bound in bounds.items()}
    else:
        return False
    return all(
        {"gt": item > bound, "gte": item >= bound, "lt": item < bound, "lte": item <= bound}[name]
        for name, bound in bounds.items()
    )


def matches(passage: Passage, where: Mapping[str, Any]) -> bool:
    for key, value in where.items():
        if key == "and":
            good = all(matches(passage, part) for part in value)
        elif key == "or":
            good = any(matches(passage, part) for part in value)
        elif key == "not":
            good = not matches(passage, value)
        elif isinstance(value, Mapping):
            found = stored(passage, key)
            bounds = {name: bound for name, bound in value.items() if name != "exists"}
            good = "exists" not in value or equal(found, None) != value["exists"]
            good &= not bounds or any(within(item, bounds) for item in elements(found))
        elif isinstance(value, list):
            good = any(equal(stored(passage, key), wanted) for wanted in value)
        else:
            good = equal(stored(passage, key), value)
        if not good:
            return False
    return True


NUMBERS = st.sampled_from([-3, 0, 0.5, 1, 2, 1999.5, 2000])
BOUNDS = st.dictionaries(
    st.sampled_from(["gt", "gte", "lt", "lte"]), NUMBERS, min_size=1, max_size=2
) | st.dictionaries(
    st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from(DATES), min_size=1, max_size=2
)
EXISTS = st.booleans().map(lambda answer: {"exists": answer})
CONDITION = (
    st.sampled_from(SCALARS)
    | st.lists(st.sampled_from(SCALARS), min_size=1, max_size=4)
    | BOUNDS
    | EXISTS
    | st.tuples(BOUNDS, EXISTS).map(lambda pair: {**pair[0], **pair[1]})
)
RESERVED = (
    st.fixed_dictionaries({"document_id": st.sampled_from(["d0", "d7", "d99"])})
    | st.fixed_dictionaries({"title": st.sampled_from(["", "A", ["A", "B"]])})
    | st.fixed_dictionaries({"source": st.just(["s1", "s2"])})
    | st.fixed_dictionaries({"position": st.sampled_from([0, {"gte": 1}, [0, 2]])})
)
WHERE = st.recursive(
    st.dictionaries(st.sampled_from(KEYS), CONDITION, min_size=1, max_size=2) | RESERVED,
    lambda inner: (
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"not": inner})
        | st.tuples(inner, inner).map(lambda pair: {**pair[0], **pair[1]})
    ),
    max_leaves=4,
)


class Filled:
    """A collection and what is in it; no dataclass, which hypothesis would print whole."""

    def __init__(self, index: CollectionIndex, passages: list[Passage]) -> None:
        self.index = index
        self.passages = passages


@pytest.fixture(scope="module")
def filled(new_index: Callable[..., CollectionIndex], passage: Make) -> Filled:
    index, passages = new_index(), corpus(passage)
    index.upsert(passages, np.ones((len(passages), 8), dtype=np.float32))
    return Filled(index, passages)


def found_ids(index: CollectionIndex, where: Any) -> list[str]:
    vector = np.ones(8, dtype=np.float32)
    found = index.search(mode="dense", limit=500, vector=vector, where=where)
    assert index.count(where) == len(found)
    return [candidate.passage.id for candidate in found]


@given(where=WHERE)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_filters_mean_what_plain_python_says(filled: Filled, where: dict[str, Any]) -> None:
    index, passages = filled.index, filled.passages
    expected = sorted(passage.id for passage in passages if matches(passage, where))
    assert found_ids(index, where) == expected


@pytest.mark.parametrize("key", KEYS)
def test_every_value_at_every_key(filled: Filled, key: str) -> None:
    for wanted in SCALARS:
        expected = sorted(p.id for p in filled.passages if equal(stored(p, key), wanted))
        assert found_ids(filled.index, {key: wanted}) == expected, wanted


def test_lists_of_objects(filled: Filled) -> None:
    index, passages = filled.index, filled.passages

    def people(passage: Passage) -> list[Any]:
        return list(passage.metadata.get("people", []))

    named = sorted(p.id for p in passages if any(x["name"] == "Ann" for x in people(p)))
    active = sorted(p.id for p in passages if any(x["active"] for x in people(p)))
    second = sorted(p.id for p in passages if len(people(p)) > 1 and not people(p)[1]["active"])
    assert named
    assert found_ids(index, {"people[].name": "Ann"}) == named
    assert found_ids(index, {"people[].active": True}) == active
    assert found_ids(index, {"people[1].active": False}) == second


def test_a_qdrant_filter_is_taken_as_it_is(
    filled: Filled,
) -> None:
    from qdrant_client import models as m

    index, passages = filled.index, filled.passages

    def on(key: str, **condition: Any) -> m.FieldCondition:
        return m.FieldCondition(key=key, **condition)

    def expect(where: m.Filter, good: Callable[[Passage], bool]) -> None:
        assert found_ids(index, where) == sorted(p.id for p in passages if good(p))

    true = on("metadata.a", match=m.MatchValue(value=True))
    expect(m.Filter(must=true), lambda p: equal(stored(p, "a"), True))
    expect(m.Filter(must_not=[true]), lambda p: not equal(stored(p, "a"), True))
    two = on("document_id", match=m.MatchAny(any=["d1", "d2"]))
    expect(m.Filter(should=[two, true]),
           lambda p: p.document_id in ("d1", "d2") or equal(stored(p, "a"), True))  # fmt: skip
    least = m.MinShould(conditions=[two, true, on("source", match=m.MatchValue(value="s1"))],
                        min_count=2)  # fmt: skip
    expect(
        m.Filter(min_should=least),
        lambda p: (p.document_id in ("d1", "d2")) + equal(stored(p, "a"), True)
        + (p.source == "s1") >= 2,
    )  # fmt: skip
    expect(m.Filter(must=[m.HasIdCondition(has_id=[passages[3].id, passages[9].id])]),
           lambda p: p.id in (passages[3].id, passages[9].id))  # fmt: skip
    expect(m.Filter(must=[m.HasVectorCondition(has_vector="dense")]), lambda p: True)
    expect(m.Filter(must=[on("title", match=m.MatchExcept(**{"except": ["A"]}))]),
           lambda p: p.title != "A")  # fmt: skip
    expect(m.Filter(must=[on("position", range=m.Range(gt=0, lte=1))]),
           lambda p: p.position == 1)  # fmt: skip
    year = m.DatetimeRange(gte=datetime(2024, 1, 1, tzinfo=UTC))
    since = {"gte": DATES[1]}
    expect(m.Filter(must=[on("metadata.a", range=year)]),
           lambda p: any(within(v, since) for v in elements(stored(p, "a"))))  # fmt: skip
    expect(m.Filter(must=[on("metadata.people", values_count=m.ValuesCount(gte=2))]),
           lambda p: len(p.metadata.get("people", [])) >= 2)  # fmt: skip
    inner = m.Filter(must=[on("name", match=m.MatchValue(value="Bo"))])
    expect(m.Filter(must=[m.NestedCondition(nested=m.Nested(key="metadata.people", filter=inner))]),
           lambda p: any(x["name"] == "Bo" for x in p.metadata.get("people", [])))  # fmt: skip
    expect(m.Filter(must=[m.IsNullCondition(is_null=m.PayloadField(key="metadata.b"))]),
           lambda p: "b" in p.metadata and (p.metadata["b"] is None or None in elements(
               p.metadata["b"])))  # fmt: skip
    expect(m.Filter(), lambda p: True)


def test_indexed_fields_tell_values_apart_as_others_do(
    new_index: Callable[..., CollectionIndex], passage: Make
) -> None:
    from qdrant_client import models as m

    values: list[Any] = [
        "en", "de", ["en"], ["en", "de"], [], None, 5, True, [True, "en"], ["en", 5], 2**53,
        2**53 + 1, 2**53 + 2, [1, 2**53 + 1], float(2**53), -(2**53) - 1,
    ]  # fmt: skip
    passages = [
        passage(f"d{n}", 0, metadata={"lang": one, "number": one, "free": one})
        for n, one in enumerate(values)
    ]
    index = new_index(storage=Storage(fields={"lang": "keyword", "number": "number"}))
    index.upsert(passages, np.eye(8, dtype=np.float32)[np.arange(len(values)) % 8])
    for name in ("lang", "number", "free"):
        other = m.MatchExcept(**{"except": ["en"]})
        where = m.Filter(must=[m.FieldCondition(key=f"metadata.{name}", match=other)])
        assert index.count(where) == sum(
            any(one is not None and one != "en" for one in elements(value)) for value in values
        ), name
        for number in (2**53, 2**53 + 1, 2**53 + 3, -(2**53) - 1):
            assert index.count({name: number}) == sum(
                any(type(one) is int and one == number for one in elements(value))
                for value in values
            ), (name, number)


def test_a_boolean_that_cannot_be_matched_is_refused(
    filled: Filled,
) -> None:
    from qdrant_client import models as m

    index = filled.index
    true = m.MatchValue(value=True)
    inner = m.Filter(must=[m.FieldCondition(key="active", match=true)])
    refused = [
        m.Filter(must=[m.FieldCondition(key="position", match=true)]),
        m.Filter(must=[m.NestedCondition(nested=m.Nested(key="metadata.people", filter=inner))]),
    ]
    for where in refused:
        with pytest.raises(InvalidFilter, match="boolean"):
            index.count(where)
