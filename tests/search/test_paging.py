"""Maximal marginal relevance against a plain reference, and what a page takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.search.mmr import diverse
from retrieval.search.paging import Page
from retrieval.types import Hit, Passage


def hit(name: str, score: float = 0.0, document: str = "d", rank: int = 1) -> Hit:
    passage = Passage(name, document, 0, name, 0, len(name))
    return Hit(passage, rank, score, None, rank, score)


def names(hits: Any) -> list[str]:
    return [one.passage.id for one in hits]


def plain_mmr(
    scores: dict[str, float], vectors: dict[str, Sequence[float]], diversity: float
) -> list[str]:
    """The formula as it is in the paper, with no thought of speed."""
    low, high = min(scores.values()), max(scores.values())

    def relevance(name: str) -> float:
        return (scores[name] - low) / (high - low) if high > low else 0.0

    def cosine(one: str, other: str) -> float:
        a, b = vectors.get(one), vectors.get(other)
        if a is None or b is None:
            return 0.0
        lengths = math.hypot(*a) * math.hypot(*b)
        return round(sum(x * y for x, y in zip(a, b, strict=True)) / lengths, 6)

    chosen: list[str] = []
    left = set(scores)
    while left:
        values = {
            name: (1.0 - diversity) * relevance(name)
            - diversity * max(cosine(name, other) for other in chosen)
            if chosen
            else relevance(name)
            for name in left
        }
        best = min(left, key=lambda name: (-values[name], name))
        chosen.append(best)
        left.remove(best)
    return chosen


# Few values, so that ties are the rule; none so close that rounding could decide.
scores_ = st.sampled_from([-3.0, 0.0, 0.5, 2.0])
vectors_ = st.sampled_from(
    [(1.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 0.5, 2.0)]
)


@settings(max_examples=60, deadline=None)
@given(
    pool=st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3), st.tuples(scores_, vectors_), min_size=1
    ),
    missing=st.integers(0, 2),
    diversity=st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]),
)
def test_it_is_the_formula(
    pool: dict[str, tuple[float, tuple[float, ...]]], missing: int, diversity: float
) -> None:
    vectors = {name: vector for name, (_, vector) in list(pool.items())[missing:]}
    expected = plain_mmr({name: score for name, (score, _) in pool.items()}, vectors, diversity)
    stored = {name: np.array(vector, dtype=np.float32) for name, vector in vectors.items()}
    hits = [hit(name, score) for name, (score, _) in pool.items()]
    assert names(diverse(hits, stored, diversity)) == expected
    assert names(diverse(hits[::-1], stored, diversity)) == expected
    assert names(islice(diverse(hits, stored, diversity), 2)) == expected[:2]


def test_many_random_vectors() -> None:
    random = np.random.default_rng(5)
    rows = random.standard_normal((60, 24)).astype(np.float32)
    ids = [f"p{place:02}" for place in range(60)]
    scores = dict(zip(ids, random.standard_normal(60).tolist(), strict=True))
    vectors = dict(zip(ids, rows, strict=True))
    hits = [hit(name, score) for name, score in scores.items()]
    floats = {name: row.astype(float).tolist() for name, row in vectors.items()}
    for diversity in (0.2, 0.5, 0.9):
        found = names(diverse(hits, vectors, diversity))
        assert found == plain_mmr(scores, floats, diversity)
        assert found != sorted(ids, key=lambda name: -scores[name]), "it changed the order"


def test_of_equal_passages_the_second_waits() -> None:
    same = np.array([1.0, 0.0], dtype=np.float32)
    other = np.array([0.6, 0.8], dtype=np.float32)
    hits = [hit("b", 2.0), hit("a", 2.0), hit("c", 1.5), hit("z", 0.0)]
    vectors = {"a": same, "b": same, "c": other, "z": -same}
    assert names(diverse(hits, vectors, 0.5)) == ["a", "z", "c", "b"]
    assert names(diverse(hits, vectors, 0.05)) == ["a", "b", "c", "z"]


def test_scores_of_any_scale_weigh_the_same() -> None:
    random = np.random.default_rng(1)
    vectors = {f"p{i}": random.standard_normal(8).astype(np.float32) for i in range(20)}
    scores = random.standard_normal(20)
    logits, sums = (
        [hit(name, score) for name, score in zip(vectors, scale, strict=True)]
        for scale in (scores * 16, 0.1 + scores / 128)
    )
    assert names(diverse(logits, vectors, 0.4)) == names(diverse(sums, vectors, 0.4))


def test_none_and_one() -> None:
    assert names(diverse([], {}, 0.5)) == []
    assert names(diverse([hit("a")], {}, 1.0)) == ["a"]


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.sampled_from("abcd"), max_size=40),
    offset=st.integers(0, 8),
    size=st.integers(1, 8),
    most=st.none() | st.integers(1, 3),
    cut=st.integers(0, 40),
)
def test_a_page_is_a_slice_of_what_counts(
    documents: list[str], offset: int, size: int, most: int | None, cut: int
) -> None:
    hits = [hit(f"{place:02}", document=name) for place, name in enumerate(documents)]
    page = Page(offset, offset + size, most)
    page.offer(hits[:cut])
    page.offer(hits[cut:])
    counted: list[str] = []
    so_far: Counter[str] = Counter()
    for one in hits:
        if most is None or so_far[one.passage.document_id] < most:
            so_far[one.passage.document_id] += 1
            counted.append(one.passage.id)
    assert names(page.hits) == counted[offset : offset + size]
    assert [one.rank for one in page.hits] == list(range(offset + 1, offset + 1 + len(page.hits)))
    assert page.full is (len(counted) >= offset + size)


def test_a_full_page_asks_for_nothing_more() -> None:
    def endless() -> Any:
        yield hit("a")
        yield hit("b")
        pytest.fail("the page was full")

    page = Page(1, 2, None)
    page.offer(endless())
    page.offer(endless())
    assert names(page.hits) == ["b"]
