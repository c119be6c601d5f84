"""Random filters, queries, modes and fusions: every engine, with and without payload indexes,
gives the same passages in the same order with the same scores."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from contracts.messy import (
    DIMENSION,
    FIELDS,
    TOKEN_DIMENSION,
    Corpus,
    corpus,
    query,
    where,
)

from retrieval.errors import InvalidFilter
from retrieval.index.collection import CollectionIndex
from retrieval.types import (
    Candidate,
    Fusion,
    IndexQuery,
    Layout,
    LexicalWeights,
    Mode,
    Storage,
)

LAYOUT = Layout(lexical=True, token_dimension=TOKEN_DIMENSION)
INDEXED = Storage(fields=FIELDS)  # type: ignore[arg-type]
MODES: list[Mode] = ["dense", "sparse", "lexical", "hybrid"]
FUSIONS = [Fusion(), Fusion(k=60, weights=(0.7, 1.0, 0.2)), Fusion("dbsf"),
           Fusion("dbsf", weights=(2.0, 0.5, 1.0))]  # fmt: skip
ROUNDS = 60
SIZE = 180

Legs = dict[str, CollectionIndex]


@pytest.fixture(scope="module")
def filled() -> Corpus:
    return corpus(SIZE, seed=11)


@pytest.fixture(scope="module")
def legs(
    filled: Corpus, run_engine: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Legs]:
    with contextlib.ExitStack() as stack:
        store = tmp_path_factory.mktemp("store")
        make: dict[str, Callable[..., CollectionIndex]] = {
            engine: stack.enter_context(run_engine(engine, store))
            for engine in ("embedded", "memory", "http")
        }
        options = {"dimension": DIMENSION, "layout": LAYOUT}
        found = {
            "embedded": make["embedded"](**options),
            "embedded, indexed": make["embedded"](**options, storage=INDEXED),
            "embedded, indexed and optimized": make["embedded"](**options, storage=INDEXED),
            "memory": make["memory"](**options),
            "http, indexed": make["http"](**options, storage=INDEXED),
        }
        for index in found.values():
            index.upsert(
                filled.passages, filled.vectors, lexical=filled.lexical,
                token_vectors=filled.token_vectors,
            )  # fmt: skip
        found["embedded, indexed and optimized"].optimize()
        yield found


def said(found: list[list[Candidate]]) -> list[list[tuple[str, int]]]:
    return [[(c.passage.id, c.rank) for c in candidates] for candidates in found]


def scores(found: list[list[Candidate]]) -> list[float]:
    return [c.score for candidates in found for c in candidates]


def ask(index: CollectionIndex, request: Callable[[CollectionIndex], Any]) -> Any:
    """The answer, or that the filter asks of an indexed field what its index cannot say."""
    try:
        return request(index)
    except InvalidFilter as refusal:
        if "has an index for" in refusal.problem:
            return None
        raise


def test_random_searches_agree_on_every_engine(legs: Legs) -> None:
    rng, arrays = random.Random(5), np.random.default_rng(5)
    refused = matched = 0
    for round_ in range(ROUNDS):
        queries = [query(rng, arrays) for _ in range(rng.randrange(1, 3))]
        arguments: dict[str, Any] = {
            "mode": rng.choice(MODES),
            "limit": (limit := rng.choice([1, 5, 20, 300])),
            "where": where(rng) if rng.random() < 0.95 else None,
            "fusion": rng.choice(FUSIONS),
            "refine": limit + rng.randrange(30) if rng.random() < 0.25 else None,
            "exact": rng.random() < 0.2,
        }
        expected = legs["embedded"].search_batch(queries, **arguments)
        count = legs["embedded"].count(arguments["where"])
        matched += 0 < count < SIZE
        answers: dict[str, Any] = {}
        for name, index in list(legs.items())[1:]:
            if name.startswith("http") and round_ % 4:
                continue  # the slowest, with the same code below as memory
            found = ask(index, lambda one: one.search_batch(queries, **arguments))  # noqa: B023
            answers[name] = found
            if found is None:
                continue
            what = f"round {round_}, {name}: {arguments}"
            assert said(found) == said(expected), what
            # dbsf divides by how far a leg's scores lie apart, and so enlarges their rounding
            near = 1e-3 if arguments["fusion"].method == "dbsf" else 3e-5
            assert scores(found) == pytest.approx(scores(expected), abs=near), what
            if arguments["mode"] == "dense" and limit == 300 and not arguments["refine"]:
                assert len(found[0]) == count, what
            if round_ % 3 == 0:
                assert index.count(arguments["where"]) == count, what
        # a filter is refused on every engine alike, or on none
        kinds = {found is None for name, found in answers.items() if "indexed" in name}
        assert len(kinds) == 1, arguments["where"]
        assert answers["memory"] is not None
        refused += kinds == {True}
    # the filters are no use if most match nothing or all, or most are refused
    assert matched > ROUNDS * 0.6
    assert 0 < refused < ROUNDS * 0.3


def test_random_filters_count_the_same(legs: Legs) -> None:
    """More filters than searches, on the legs that are fast."""
    rng = random.Random(6)
    for _ in range(400):
        asked = where(rng, depth=3)
        expected = legs["embedded"].count(asked)
        for name in ("embedded, indexed", "embedded, indexed and optimized"):
            found = ask(legs[name], lambda one: one.count(asked))  # noqa: B023
            assert found in (None, expected), (name, asked)


def test_qdrant_filters_mean_the_same_with_an_index(legs: Legs) -> None:
    """Conditions that only a Qdrant filter can say, on fields with an index."""
    from qdrant_client import models as m

    def on(key: str, **condition: Any) -> m.Filter:
        return m.Filter(must=[m.FieldCondition(key=key, **condition)])

    def except_(*values: Any) -> m.MatchExcept:
        return m.MatchExcept(**{"except": list(values)})

    uuid = "d3225403-3c8a-5b4a-80b1-72fb3836b9a1"
    nested = m.Nested(key="metadata.people", filter=on("name", match=m.MatchValue(value="Bo")))
    asked = [
        *(on(f"metadata.{name}", match=except_("en", "1")) for name in ("lang", "mixed", "o.x")),
        on("metadata.mixed", match=except_(1, 2000)),
        on('"metadata"."mixed"', match=except_("en")),
        m.Filter(must_not=[on("metadata.lang", match=except_("en"))]),
        *(on(f"metadata.{name}", match=m.MatchValue(value=uuid)) for name in (
            "year", "published", "mixed", "lang")),
        *(on(f"metadata.{name}", match=m.MatchAny(any=[uuid, "en"])) for name in (
            "year", "published", "mixed")),
        on("metadata.mixed", values_count=m.ValuesCount(gte=2)),
        on("metadata.year", is_empty=True),
        on("metadata.lang", is_null=True),
        m.Filter(must=[m.NestedCondition(nested=nested)]),
        m.Filter(min_should=m.MinShould(min_count=1, conditions=[
            on("metadata.mixed", match=except_("de")), on("metadata.year", range=m.Range(gt=1))])),
    ]  # fmt: skip
    for number, one in enumerate(asked):
        counts = {name: index.count(one) for name, index in legs.items()}
        assert len(set(counts.values())) == 1, (number, counts)
        assert 0 < counts["memory"] < SIZE, (number, counts)


def test_what_an_index_would_answer_wrongly_is_refused(legs: Legs) -> None:
    from qdrant_client import models as m

    refused: list[Any] = [
        {"year": {"gte": "2024-01-01"}},
        {"not": {"or": [{"year": {"lt": "2024-01-01"}}, {"lang": "en"}]}},
        {"published": {"gte": 2000}},
        {"published": 2000},
        {"published": ["2024-01-01", 5]},
        {"position": {"lt": "2024-01-01"}},
        {"people[].age": {"gte": "2024-01-01"}},
        m.Filter(must=[m.NestedCondition(nested=m.Nested(
            key="metadata.people", filter=m.Filter(must=[m.FieldCondition(
                key="age", range=m.DatetimeRange(gte="2024-01-01T00:00:00Z"))])))]),
        m.Filter(must=[m.FieldCondition(key="metadata.people[].name",
                                        match=m.MatchExcept(**{"except": ["Ann"]}))]),
    ]  # fmt: skip
    for name, index in legs.items():
        for asked in refused:
            if "indexed" not in name and asked != {"position": {"lt": "2024-01-01"}}:
                index.count(asked)  # fine without an index
                continue
            with pytest.raises(InvalidFilter, match="has an index for") as caught:
                index.count(asked)
            assert "index" in caught.value.fix or "must_not" in caught.value.fix
            with pytest.raises(InvalidFilter):
                index.delete_where(asked)
            assert index.count() == SIZE


def test_points_of_one_engine_are_those_of_another(legs: Legs) -> None:
    every = {name: list(index.points()) for name, index in legs.items()}
    first = every["embedded"]
    assert [point.id for point in first] == sorted(point.id for point in first)
    for name, points in every.items():
        for mine, its in zip(first, points, strict=True):
            assert (mine.id, mine.payload, mine.sparse.indices) == (
                its.id, its.payload, its.sparse.indices), name  # fmt: skip
            np.testing.assert_allclose(mine.dense, its.dense, atol=1e-6)
            np.testing.assert_allclose(mine.sparse.values, its.sparse.values, rtol=1e-6)
            assert mine.lexical is not None
            assert its.lexical is not None
            assert mine.lexical.indices == its.lexical.indices
            np.testing.assert_allclose(mine.lexical.values, its.lexical.values, rtol=1e-6)
            assert mine.tokens is not None
            assert its.tokens is not None
            np.testing.assert_allclose(mine.tokens, its.tokens, atol=1e-6)


def test_the_corpus_comes_back(legs: Legs, filled: Corpus) -> None:
    expected = sorted(filled.passages, key=lambda passage: passage.id)
    by_id = dict(zip((p.id for p in filled.passages), filled.vectors, strict=True))
    wanted = [filled.passages[i].id for i in (0, 7, 100)]
    for index in legs.values():
        assert list(index.passages()) == expected
        found = index.vectors([*wanted, "00000000-0000-0000-0000-000000000000"])
        assert found.keys() == set(wanted)
        for key, vector in found.items():
            assert vector.dtype == np.float32
            np.testing.assert_allclose(vector, by_id[key], atol=1e-6)


def test_a_query_without_words_or_weights_has_its_other_legs(legs: Legs) -> None:
    nothing = IndexQuery(
        vector=np.eye(DIMENSION, dtype=np.float32)[0],
        text="the of",
        lexical=LexicalWeights(np.zeros(0, np.int32), np.zeros(0, np.float32)),
    )
    answers = [
        said(index.search_batch([nothing], mode="hybrid", limit=10)) for index in legs.values()
    ]
    assert len(answers[0][0]) == 10
    assert all(answer == answers[0] for answer in answers)
