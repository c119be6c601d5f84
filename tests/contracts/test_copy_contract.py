"""Reading a collection back: vectors, neighbours, states of some documents, whole points."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contracts.messy import DIMENSION, FIELDS, TOKEN_DIMENSION, corpus

from retrieval.errors import InvalidInput
from retrieval.index.collection import CollectionIndex
from retrieval.types import Layout, Passage, Storage

Make = Callable[..., Passage]
NewIndex = Callable[..., CollectionIndex]
FULL = Layout(lexical=True, token_dimension=TOKEN_DIMENSION)


def rows(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_vectors_are_those_that_were_written(index: CollectionIndex, passage: Make) -> None:
    given, vectors = [passage(f"d{i}") for i in range(20)], rows(20)
    index.upsert(given, vectors * 7)  # a cosine knows no length
    found = index.vectors([given[3].id, given[19].id, passage("never").id])
    assert found.keys() == {given[3].id, given[19].id}
    for number in (3, 19):
        vector = found[given[number].id]
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, vectors[number], atol=1e-6)
    assert index.vectors([]) == {}


def test_neighbours_are_the_passages_around(index: CollectionIndex, passage: Make) -> None:
    given = [passage(f"d{d}", p, text=f"{d} {p}") for d in range(4) for p in range(6)]
    index.upsert(given, rows(24))
    index.delete_passages([passage("d1", 2).id])

    def around(document: str, position: int, width: int) -> tuple[list[int], list[int]]:
        one = passage(document, position)
        before, after = index.neighbours([one], width)[one.id]
        assert {p.document_id for p in (*before, *after)} <= {document}
        return [p.position for p in before], [p.position for p in after]

    assert around("d0", 0, 1) == ([], [1])
    assert around("d0", 3, 2) == ([1, 2], [4, 5])
    assert around("d1", 3, 1) == ([], [4])
    assert around("d1", 1, 2) == ([0], [3])
    assert around("d2", 5, 99) == ([0, 1, 2, 3, 4], [])
    many = [passage("d0", 5), passage("d3", 0), passage("d0", 4)]
    found = index.neighbours(many, 1)
    assert {key: tuple(len(side) for side in sides) for key, sides in found.items()} == {
        many[0].id: (1, 0), many[1].id: (0, 1), many[2].id: (1, 1)}  # fmt: skip
    assert found[many[0].id][0] == (given[4],)
    assert index.neighbours(many, 0) == {one.id: ((), ()) for one in many}
    assert index.neighbours([], 3) == {}


def test_neighbours_are_of_the_same_version(index: CollectionIndex, passage: Make) -> None:
    """An update that was cut off: positions 0 to 2 are new, 3 to 5 still old."""
    mixed = [passage("d", p, document_hash="new" if p < 3 else "old") for p in range(6)]
    index.upsert(mixed, rows(6))
    before, after = index.neighbours([mixed[2]], 2)[mixed[2].id]
    assert (before, after) == (tuple(mixed[:2]), ())
    before, after = index.neighbours([mixed[3]], 2)[mixed[3].id]
    assert (before, after) == ((), tuple(mixed[4:]))


def test_states_of_some_documents(index: CollectionIndex, passage: Make) -> None:
    given = [
        passage(f"d{d}", p, document_passages=2, source=f"s{d}")
        for d in range(1_100) for p in range(2 if d % 3 else 1)
    ]  # fmt: skip
    index.upsert(given, rows(len(given)))
    every = index.document_states()
    assert len(every) == 1_100
    wanted = [f"d{d}" for d in range(0, 1_100, 2)] + ["never", "d0", 'odd "name"']
    some = index.document_states(wanted)
    assert some == {name: every[name] for name in wanted if name in every}
    assert some["d0"].content_hash is None
    assert some["d2"].content_hash == "sha256:a"
    assert some["d2"].source == "s2"
    assert index.document_states([]) == {}
    with pytest.raises(InvalidInput, match="list"):
        index.document_states("d0")
    sources = list(index.document_sources())
    assert sorted(sources) == sorted((p.document_id, p.source) for p in given)


@pytest.mark.parametrize("layout", [Layout(), FULL], ids=["plain", "full"])
def test_points_make_an_equal_collection(new_index: NewIndex, layout: Layout) -> None:
    given = corpus(300, seed=8)
    first = new_index(dimension=DIMENSION, layout=layout)
    full: dict[str, Any] = (
        {"lexical": given.lexical, "token_vectors": given.token_vectors} if layout == FULL else {}
    )
    first.upsert(given.passages, given.vectors, **full)
    second = new_index(dimension=DIMENSION, layout=layout, storage=Storage(fields=FIELDS))  # type: ignore[arg-type]
    points = list(first.points())
    assert len(points) == 300
    assert all(point.size > 0 for point in points)
    for start in range(0, 300, 70):
        second.write_points(points[start : start + 70])
    second.write_points([])
    for mine, its in zip(points, second.points(), strict=True):
        plain = ("id", "sparse", "payload", "lexical", "size")
        assert [getattr(mine, name) for name in plain] == [getattr(its, name) for name in plain]
        np.testing.assert_array_equal(mine.dense, its.dense)
        assert (mine.tokens is None) == (its.tokens is None) == (layout != FULL)
        if mine.tokens is not None:
            np.testing.assert_array_equal(mine.tokens, its.tokens)
    assert list(second.passages()) == list(first.passages())
    assert second.document_states() == first.document_states()
    for text in ("cat dog", "naïve 北京", "the"):
        one, other = (index.search(mode="sparse", limit=50, text=text) for index in (first, second))
        assert one == other
    # and writing a point again replaces it
    changed = dataclasses.replace(points[0], payload={**points[0].payload, "text": "zebra"})
    second.write_points([changed])
    assert second.count() == 300


def test_status_says_how_it_is(new_index: NewIndex, passage: Make) -> None:
    fields = {"lang": "keyword", "year": "number", "at": "datetime"}
    index = new_index(storage=Storage(fields=fields))  # type: ignore[arg-type]
    assert index.status().points == 0
    index.upsert([passage(f"d{i}", metadata={"lang": "en"}) for i in range(30)], rows(30))
    index.optimize()
    status = index.status()
    assert (status.points, status.state, status.notes) == (30, "ok", ())
    assert 0 <= status.indexed <= 30
    assert status.segments >= 1


def test_a_field_that_cannot_be_indexed_is_named(new_index: NewIndex) -> None:
    bad: list[tuple[str, str, str]] = [
        ("lang", "text", "'text'"),
        ("a..b", "keyword", "not a path of fields"),
        ("", "number", "not a path of fields"),
    ]
    for name, kind, problem in bad:
        with pytest.raises(InvalidInput, match=problem):
            new_index(storage=Storage(fields={name: kind}))  # type: ignore[dict-item]
