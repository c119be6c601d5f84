"""Modes, fusion, refinement and exactness mean the same on every engine: what numpy says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contracts.messy import DIMENSION, TOKEN_DIMENSION, Corpus, corpus, query

from retrieval.errors import InvalidBatch, InvalidInput
from retrieval.index.collection import CollectionIndex
from retrieval.types import (
    Candidate,
    FloatArray,
    Fusion,
    IndexQuery,
    Layout,
    LexicalWeights,
    Mode,
    Passage,
    Quantization,
    Storage,
)

NewIndex = Callable[..., CollectionIndex]
LAYOUT = Layout(lexical=True, token_dimension=TOKEN_DIMENSION)
SIZE = 140


class Filled:
    """A collection with all vectors, what is in it, and queries for it."""

    def __init__(self, index: CollectionIndex, given: Corpus) -> None:
        rng, arrays = random.Random(3), np.random.default_rng(3)
        self.index = index
        self.given = given
        self.ids = [passage.id for passage in given.passages]
        self.queries = [query(rng, arrays) for _ in range(5)]


@pytest.fixture(scope="module")
def filled(new_index: NewIndex) -> Filled:
    given = corpus(SIZE, seed=2)
    index = new_index(dimension=DIMENSION, layout=LAYOUT)
    write(index, given)
    return Filled(index, given)


def write(index: CollectionIndex, given: Corpus) -> None:
    index.upsert(
        given.passages, given.vectors, lexical=given.lexical, token_vectors=given.token_vectors
    )


def ranked(scores: dict[str, float], decimals: int) -> list[tuple[str, float]]:
    rounded = {key: round(score, decimals) for key, score in scores.items()}
    return sorted(rounded.items(), key=lambda item: (-item[1], item[0]))


def cosines(filled: Filled, asked: IndexQuery) -> list[tuple[str, float]]:
    scores = filled.given.vectors.astype(np.float64) @ asked.vector
    return ranked(dict(zip(filled.ids, scores.tolist(), strict=True)), 6)


def products(filled: Filled, asked: IndexQuery) -> list[tuple[str, float]]:
    assert asked.lexical is not None
    scores = {
        key: terms.dot(asked.lexical)
        for key, terms in zip(filled.ids, filled.given.lexical, strict=True)
        if set(terms.indices.tolist()) & set(asked.lexical.indices.tolist())
    }
    return ranked(scores, 5)


def max_sim(asked: IndexQuery, tokens: FloatArray) -> float:
    assert asked.token_vectors is not None
    return float((asked.token_vectors.astype(np.float64) @ tokens.T).max(axis=1).sum())


def pairs(found: list[Candidate]) -> list[tuple[str, float]]:
    return [(candidate.passage.id, candidate.score) for candidate in found]


def same(found: list[Candidate], expected: list[tuple[str, float]], near: float = 2e-5) -> None:
    assert [c.passage.id for c in found] == [key for key, _ in expected]
    assert [c.score for c in found] == pytest.approx([s for _, s in expected], abs=near)
    assert [c.rank for c in found] == list(range(1, len(found) + 1))


def test_dense_is_the_order_of_cosines(filled: Filled) -> None:
    for asked in filled.queries:
        for limit in (1, 30, SIZE + 50):
            found = filled.index.search(mode="dense", limit=limit, vector=asked.vector)
            same(found, cosines(filled, asked)[:limit])


def test_lexical_is_the_order_of_weighted_products(filled: Filled) -> None:
    for asked in filled.queries:
        for limit in (1, 30, SIZE + 50):
            found = filled.index.search(mode="lexical", limit=limit, lexical=asked.lexical)
            same(found, products(filled, asked)[:limit])


@pytest.mark.parametrize("fusion", [Fusion(), Fusion(k=3), Fusion(weights=(0.5, 2.0, 0.0)),
                                    Fusion("dbsf"), Fusion("dbsf", weights=(1.0, 0.2, 3.0))],
                         ids=["rrf", "k", "weights", "dbsf", "weighted dbsf"])  # fmt: skip
def test_hybrid_joins_three_legs(filled: Filled, fusion: Fusion) -> None:
    """By the papers' formulas, written out once more."""
    for asked in filled.queries:
        legs = [
            cosines(filled, asked)[:100],
            pairs(filled.index.search(mode="sparse", limit=100, text=asked.text)),
            products(filled, asked)[:100],
        ]
        scores: dict[str, float] = {}
        for leg, weight in zip(legs, fusion.weights, strict=True):
            values = np.array([score for _, score in leg])
            for rank, (key, score) in enumerate(leg):
                if fusion.method == "rrf":
                    part = 1 / (fusion.k + rank)
                else:
                    low, high = values.mean() + 3 * values.std(ddof=1) * np.array([-1, 1])
                    part = (score - low) / (high - low)
                scores[key] = scores.get(key, 0.0) + weight * float(part)
        expected = sorted(scores.items(), key=lambda item: (-round(item[1], 9), item[0]))
        found = filled.index.search(
            mode="hybrid", limit=40, vector=asked.vector, text=asked.text, lexical=asked.lexical,
            fusion=fusion,
        )  # fmt: skip
        same(found, expected[:40], near=1e-9)


@pytest.mark.parametrize("mode", ["dense", "sparse", "lexical", "hybrid"])
def test_refine_is_max_sim_of_the_first_stage(filled: Filled, mode: Mode) -> None:
    tokens = dict(zip(filled.ids, filled.given.token_vectors, strict=True))
    moved = 0
    for asked in filled.queries:
        (first,) = filled.index.search_batch([asked], mode=mode, limit=30)
        ids = [c.passage.id for c in first]
        expected = ranked({key: max_sim(asked, tokens[key]) for key in ids}, 5)
        (found,) = filled.index.search_batch([asked], mode=mode, limit=10, refine=30)
        same(found, expected[:10])
        moved += [c.passage.id for c in found] != ids[:10]
    assert moved > 2


def test_exact_is_what_a_scan_finds(filled: Filled) -> None:
    (found,) = filled.index.search_batch(filled.queries[:1], mode="dense", limit=20, exact=True)
    same(found, cosines(filled, filled.queries[0])[:20])
    for mode in ("sparse", "lexical", "hybrid"):
        one, other = (
            filled.index.search_batch(filled.queries, mode=mode, limit=20, exact=exact)
            for exact in (False, True)
        )
        assert one == other


@pytest.mark.parametrize("mode", ["dense", "sparse", "lexical", "hybrid"])
def test_a_batch_is_its_searches_one_by_one(filled: Filled, mode: Mode) -> None:
    many = filled.queries * 8  # more than an engine is asked at a time
    for options in ({}, {"refine": 12, "where": {"not": {"source": "s1"}}}):
        together = filled.index.search_batch(many, mode=mode, limit=7, **options)  # type: ignore[arg-type]
        alone = [
            filled.index.search(
                mode=mode, limit=7, vector=asked.vector, text=asked.text, lexical=asked.lexical,
                token_vectors=asked.token_vectors, **options,  # type: ignore[arg-type]
            )
            for asked in filled.queries
        ]  # fmt: skip
        assert together == alone * 8
    assert filled.index.search_batch([], mode=mode, limit=7) == []


def test_a_filter_holds_for_refined_and_exact_searches(filled: Filled) -> None:
    for options in ({"refine": 30}, {"exact": True}, {"refine": SIZE, "exact": True}):
        (found,) = filled.index.search_batch(
            filled.queries[:1], mode="hybrid", limit=30, where={"source": "s1"}, **options  # type: ignore[arg-type]
        )  # fmt: skip
        assert {c.passage.source for c in found} == {"s1"}
        assert len(found) == 30


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"mode": "lexical", "lexical": None}, "needs the query's lexical weights"),
        ({"mode": "hybrid", "lexical": None}, "needs the query's lexical weights"),
        ({"refine": 4}, "refine is 4, expected a whole number of at least 5"),
        ({"refine": 10, "token_vectors": None}, "refine needs the query's token vectors"),
        ({"refine": 10, "token_vectors": np.ones((2, 3), np.float32)}, "shape"),
        ({"refine": 10, "token_vectors": np.full((1, TOKEN_DIMENSION), np.nan, np.float32)},
         "finite"),
        ({"mode": "hybrid", "fusion": Fusion("sum")}, "fusion method is 'sum'"),  # type: ignore[arg-type]
        ({"mode": "hybrid", "fusion": Fusion("rrf", k=0)}, "k is 0"),
        ({"mode": "hybrid", "fusion": Fusion(weights=(1.0, -1.0, 1.0))}, "weights"),
        ({"tenant": "a"}, "made without tenants"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(filled: Filled, arguments: dict[str, Any], problem: str) -> None:
    asked = filled.queries[0]
    full: dict[str, Any] = {
        "mode": "dense",
        "limit": 5,
        "vector": asked.vector,
        "text": "cat",
        "lexical": asked.lexical,
        "token_vectors": asked.token_vectors,
        **arguments,
    }
    with pytest.raises(InvalidInput, match=problem):
        filled.index.search(**full)


def test_a_collection_without_these_vectors_says_so(
    index: CollectionIndex, passage: Callable[..., Passage]
) -> None:
    vector = np.ones(8, dtype=np.float32)
    tokens = np.ones((1, TOKEN_DIMENSION), dtype=np.float32)
    terms = LexicalWeights(np.array([1], np.int32), np.array([1.0], np.float32))
    with pytest.raises(InvalidInput, match="stores no lexical weights"):
        index.search(mode="lexical", limit=1, lexical=terms)
    with pytest.raises(InvalidInput, match="stores no token vectors"):
        index.search(mode="dense", limit=1, vector=vector, refine=1, token_vectors=tokens)
    with pytest.raises(InvalidBatch, match="without a place for them"):
        index.upsert([passage("a")], vector[None], lexical=[terms])
    with pytest.raises(InvalidBatch, match="without a place for them"):
        index.upsert([passage("a")], vector[None], token_vectors=[tokens])
    assert index.count() == 0


def test_a_collection_with_them_wants_them_whole(new_index: NewIndex) -> None:
    index, given = new_index(dimension=DIMENSION, layout=LAYOUT), corpus(3, seed=1)
    good: dict[str, Any] = {"lexical": given.lexical, "token_vectors": given.token_vectors}
    tokens = given.token_vectors
    bad: list[tuple[str, dict[str, Any]]] = [
        ("stores lexical, none were given", {"lexical": None}),
        ("stores token_vectors, none were given", {"token_vectors": None}),
        ("2 lexical were given for 3", {"lexical": given.lexical[:2]}),
        ("passage 2 of 3", {"token_vectors": [*tokens[:2], np.ones((2, 5), np.float32)]}),
        ("passage 0 of 3", {"token_vectors": [tokens[0] * np.nan, *tokens[1:]]}),
        ("passage 1 of 3", {"token_vectors": [tokens[0], tokens[1][:0], tokens[2]]}),
        ("not finite", {"lexical": [*given.lexical[:2], LexicalWeights(
            np.array([1], np.int32), np.array([np.inf], np.float32))]}),
    ]  # fmt: skip
    for problem, changes in bad:
        with pytest.raises(InvalidBatch, match=problem):
            index.upsert(given.passages, given.vectors, **{**good, **changes})
    assert index.count() == 0


@pytest.mark.parametrize("quantization", ["int8", "binary"])
def test_quantised_vectors_are_rescored(
    new_index: NewIndex, passage: Callable[..., Passage], quantization: Quantization
) -> None:
    """Vectors that are well apart come in the same order as in full, with the same scores."""
    dimension, size = 128, 1_500
    rows = np.random.default_rng(4).standard_normal((size, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = new_index(
        dimension=dimension, storage=Storage(quantization=quantization, oversampling=8.0)
    )
    index.upsert([passage(f"d{i}") for i in range(size)], rows)
    index.optimize()
    for number in range(0, size, 300):
        # on an arc from one vector to its opposite: ten neighbours with cosines 0.05 apart
        near = rows[number : number + 1]
        arc = near * np.linspace(0.95, 0.5, 10, dtype=np.float32)[:, None]
        side = rows[number + 1] - (rows[number + 1] @ near[0]) * near[0]
        side /= np.linalg.norm(side)
        arc += side * np.sqrt(1 - np.linspace(0.95, 0.5, 10, dtype=np.float32) ** 2)[:, None]
        index.upsert([passage(f"arc{number}", i) for i in range(10)], arc)
    index.optimize()
    for number in range(0, size, 300):
        found = index.search(mode="dense", limit=11, vector=rows[number])
        assert [(c.passage.document_id, c.passage.position) for c in found] == [
            (f"d{number}", 0), *((f"arc{number}", i) for i in range(10))]  # fmt: skip
        expected = [1.0, *np.linspace(0.95, 0.5, 10).tolist()]
        assert [c.score for c in found] == pytest.approx(expected, abs=2e-6)
