"""Tenants: one never sees, counts, replaces, deletes or neighbours another's passages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contracts.messy import DIMENSION, TOKEN_DIMENSION, Corpus, corpus
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.index.collection import CollectionIndex
from retrieval.types import IndexQuery, Layout, Mode, Passage

NewIndex = Callable[..., CollectionIndex]
TENANTS = Layout(tenants=True)
FULL = Layout(lexical=True, token_dimension=TOKEN_DIMENSION, tenants=True)
MODES: list[Mode] = ["dense", "sparse", "lexical", "hybrid"]
SIZE = 24


def marked(given_passages: list[Passage], owner: str) -> list[Passage]:
    """The same documents and passage ids, with a text that tells whose they are."""
    return [
        dataclasses.replace(p, text=f"{p.text} of {owner}", metadata={**p.metadata, "owner": owner})
        for p in given_passages
    ]


class Shared:
    """Two tenants with the same document and passage ids in one collection."""

    def __init__(self, index: CollectionIndex, given_corpus: Corpus) -> None:
        self.index = index
        self.given = given_corpus
        for owner in ("a", "b"):
            index.upsert(
                marked(given_corpus.passages, owner), given_corpus.vectors,
                lexical=given_corpus.lexical, token_vectors=given_corpus.token_vectors,
                tenant=owner,
            )  # fmt: skip
        self.query = IndexQuery(
            given_corpus.vectors[0], "cat dog of a b", given_corpus.lexical[1],
            given_corpus.token_vectors[0],
        )  # fmt: skip


@pytest.fixture
def shared(new_index: NewIndex) -> Shared:
    return Shared(new_index(dimension=DIMENSION, layout=FULL), corpus(SIZE, seed=4))


def owners(passages: Any) -> set[str]:
    return {passage.metadata["owner"] for passage in passages}


def test_each_sees_its_own_alone(shared: Shared) -> None:
    index, ids = shared.index, {p.id for p in shared.given.passages}
    for owner in ("a", "b"):
        assert index.count(tenant=owner) == SIZE
        assert {p.id for p in index.passages(tenant=owner)} == ids
        assert owners(index.passages(tenant=owner)) == {owner}
        states = index.document_states(tenant=owner)
        assert set().union(*(state.passage_ids for state in states.values())) == ids
        assert index.document_states(["d1"], tenant=owner) == {"d1": states["d1"]}
        documents = index.document_passages(sorted(states), tenant=owner)
        assert {p.id for own in documents.values() for p in own} == ids
        assert owners(p for own in documents.values() for p in own) == {owner}
        assert len(list(index.document_sources(tenant=owner))) == SIZE
        assert index.vectors(sorted(ids), tenant=owner).keys() == ids
        for mode in MODES:
            for options in ({}, {"refine": 2 * SIZE}, {"exact": True}):
                (found,) = index.search_batch(
                    [shared.query], mode=mode, limit=2 * SIZE, tenant=owner, **options  # type: ignore[arg-type]
                )  # fmt: skip
                assert found
                assert owners(c.passage for c in found) == {owner}
        one = shared.given.passages[1]
        before, after = index.neighbours([one], 5, tenant=owner)[one.id]
        assert (len(before), len(after)) == (1, 2)
        assert owners((*before, *after)) == {owner}
    for nobody in ("c", "A", "a "):
        assert index.count(tenant=nobody) == 0
        assert list(index.passages(tenant=nobody)) == []
        assert index.document_passages(["d0", "d1", "d2"], tenant=nobody) == {}
        assert index.vectors(sorted(ids), tenant=nobody) == {}
        for mode in MODES:
            assert index.search_batch(
                [shared.query], mode=mode, limit=5, refine=5, tenant=nobody
            ) == [[]]  # fmt: skip


def hostile() -> list[Any]:
    """Filters that would reach others' passages if they were not kept within one's own."""
    from qdrant_client import models as m

    def on(key: str, value: Any) -> m.FieldCondition:
        return m.FieldCondition(key=key, match=m.MatchValue(value=value))

    theirs, mine = on("tenant", "b"), on("tenant", "a")
    anything = m.FieldCondition(key="position", range=m.Range(gte=0))
    return [
        {"owner": "b"},
        {"tenant": "b"},
        {"not": {"owner": "a"}},
        {"or": [{"owner": "a"}, {"owner": "b"}]},
        {"or": [{"owner": "b"}, {"position": {"gte": 0}}]},
        {"owner": {"exists": True}},
        {"document_id": ["d0", "d1", "d2"]},
        m.Filter(must=[theirs]),
        m.Filter(should=[theirs]),
        m.Filter(should=[mine, theirs]),
        m.Filter(must_not=[mine]),
        m.Filter(should=[m.Filter(must=[theirs]), m.Filter(must_not=[theirs])]),
        m.Filter(min_should=m.MinShould(conditions=[mine, theirs, anything], min_count=1)),
        m.Filter(must=[m.Filter(should=[theirs, anything])]),
        m.Filter(must=[m.FieldCondition(key="tenant", match=m.MatchAny(any=["a", "b"]))]),
        m.Filter(must=[m.FieldCondition(key="tenant", match=m.MatchExcept(**{"except": ["a"]}))]),
        m.Filter(must=[m.HasVectorCondition(has_vector="dense")]),
        m.Filter(must=[m.IsEmptyCondition(is_empty=m.PayloadField(key="nothing"))]),
    ]


def test_no_filter_reaches_another(shared: Shared) -> None:
    index = shared.index
    for where in hostile():
        found = index.search(
            mode="dense", limit=100, vector=shared.query.vector, where=where, tenant="a"
        )
        assert owners(c.passage for c in found) <= {"a"}, where
        assert index.count(where, tenant="a") == len(found), where
        for mode in MODES:
            (found,) = index.search_batch(
                [shared.query], mode=mode, limit=100, refine=100, where=where, tenant="a"
            )
            assert owners(c.passage for c in found) <= {"a"}, where
    for where in hostile():
        index.delete_where(where, tenant="a")
        assert index.count(tenant="b") == SIZE, where
    assert index.count(tenant="a") == 0
    assert owners(index.passages(tenant="b")) == {"b"}
    assert len(list(index.points())) == SIZE


def test_ids_of_another_are_no_ids(shared: Shared) -> None:
    """Neither the ids that both know, nor the ones that the other's points have."""
    index = shared.index
    stored = [point.id for point in index.points() if point.payload["tenant"] == "b"]
    assert len(stored) == SIZE
    assert index.vectors(stored, tenant="a") == {}
    index.delete_passages(stored, tenant="a")
    index.delete_passages([p.id for p in shared.given.passages[:5]], tenant="a")
    index.delete_documents(["d1", "d2"], tenant="a")
    assert index.count(tenant="b") == SIZE
    assert index.count(tenant="a") == SIZE - 5 - 7


def test_replacing_replaces_ones_own(shared: Shared) -> None:
    index, given_corpus = shared.index, shared.given
    new = [dataclasses.replace(p, text="zebra of a") for p in given_corpus.passages[:4]]
    index.upsert(
        new, given_corpus.vectors[4:8], lexical=given_corpus.lexical[:4],
        token_vectors=given_corpus.token_vectors[:4], tenant="a",
    )  # fmt: skip
    assert index.count(tenant="a") == index.count(tenant="b") == SIZE
    ids = [p.id for p in new]
    np.testing.assert_allclose(
        [index.vectors(ids, tenant="a")[key] for key in ids], given_corpus.vectors[4:8], atol=1e-6
    )
    np.testing.assert_allclose(
        [index.vectors(ids, tenant="b")[key] for key in ids], given_corpus.vectors[:4], atol=1e-6
    )
    assert all(p.text.endswith("of b") for p in index.passages(tenant="b"))


def test_no_tenant_is_refused_by_every_call(
    new_index: NewIndex, passage: Callable[..., Passage]
) -> None:
    index, one, vector = new_index(layout=TENANTS), passage("d"), np.ones(8, dtype=np.float32)
    calls: list[Callable[[Any], object]] = [
        lambda tenant: index.upsert([one], vector[None], tenant=tenant),
        lambda tenant: index.search(mode="dense", limit=1, vector=vector, tenant=tenant),
        lambda tenant: index.search_batch([], mode="dense", limit=1, tenant=tenant),
        lambda tenant: index.vectors([one.id], tenant=tenant),
        lambda tenant: index.neighbours([one], 1, tenant=tenant),
        lambda tenant: index.delete_passages([one.id], tenant=tenant),
        lambda tenant: index.delete_documents(["d"], tenant=tenant),
        lambda tenant: index.delete_where({"document_id": "d"}, tenant=tenant),
        lambda tenant: index.document_states(tenant=tenant),
        lambda tenant: index.document_states([], tenant=tenant),
        lambda tenant: index.document_passages(["d"], tenant=tenant),
        lambda tenant: index.document_passages([], tenant=tenant),
        lambda tenant: list(index.document_sources(tenant=tenant)),
        lambda tenant: list(index.passages(tenant=tenant)),
        lambda tenant: index.count(tenant=tenant),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="the call names none"):
            call(None)
        for bad in ("", "  ", 7, "x" * 257, "\ud800"):
            with pytest.raises(InvalidInput, match=r"tenant"):
                call(bad)
    assert list(index.points()) == []
    plain = new_index()
    with pytest.raises(InvalidInput, match="made without tenants"):
        plain.count(tenant="a")
    with pytest.raises(InvalidInput, match="made without tenants"):
        plain.upsert([one], vector[None], tenant="a")


# --- two tenants are two collections --------------------------------------------------------

OWNER = st.sampled_from(["a", "b"])
SOME = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=SIZE, unique=True)
OPERATION = (
    st.tuples(st.just("upsert"), OWNER, SOME)
    | st.tuples(st.just("delete_passages"), OWNER, SOME)
    | st.tuples(st.just("delete_documents"), OWNER, st.lists(st.integers(0, 6), max_size=3))
    | st.tuples(st.just("delete_where"), OWNER, st.integers(0, 3))
)


@given(operations=st.lists(OPERATION, min_size=3, max_size=9))
@settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # an example makes three collections: shrinking would take minutes
)  # fmt: skip
def test_two_tenants_are_as_two_collections(new_index: NewIndex, operations: list[Any]) -> None:
    given_corpus = corpus(SIZE, seed=4)
    both = new_index(dimension=DIMENSION, layout=TENANTS)
    alone = {owner: new_index(dimension=DIMENSION) for owner in ("a", "b")}
    for step, (name, owner, chosen) in enumerate(operations):
        for index, options in ((both, {"tenant": owner}), (alone[owner], {})):
            if name == "upsert":
                passages = marked([given_corpus.passages[i] for i in chosen], owner)
                passages = [dataclasses.replace(p, document_hash=str(step)) for p in passages]
                index.upsert(passages, given_corpus.vectors[chosen], **options)  # type: ignore[arg-type]
            elif name == "delete_passages":
                ids = [given_corpus.passages[i].id for i in chosen]
                index.delete_passages(ids, **options)  # type: ignore[arg-type]
            elif name == "delete_documents":
                index.delete_documents([f"d{i}" for i in chosen], **options)  # type: ignore[arg-type]
            else:
                index.delete_where({"position": chosen}, **options)  # type: ignore[arg-type]
        for tenant, plain in alone.items():
            agree(both, tenant, plain, given_corpus)


def agree(both: CollectionIndex, tenant: str, plain: CollectionIndex, given_corpus: Corpus) -> None:
    """Whether a tenant's part of a collection is as a collection of its own."""
    assert both.count(tenant=tenant) == plain.count()
    mine = sorted(both.passages(tenant=tenant), key=lambda passage: passage.id)
    assert mine == list(plain.passages())
    assert both.document_states(tenant=tenant) == plain.document_states()
    assert sorted(both.document_sources(tenant=tenant)) == sorted(plain.document_sources())
    ids = [passage.id for passage in given_corpus.passages]
    one, other = both.vectors(ids, tenant=tenant), plain.vectors(ids)
    assert one.keys() == other.keys()
    around = given_corpus.passages[::5]
    assert both.neighbours(around, 2, tenant=tenant) == plain.neighbours(around, 2)
    for where in (None, {"position": [0, 2]}, {"not": {"source": "s1"}}):
        assert both.count(where, tenant=tenant) == plain.count(where)
        found, expected = (
            index.search(mode="dense", limit=9, vector=given_corpus.vectors[3], where=where, **more)  # type: ignore[arg-type]
            for index, more in ((both, {"tenant": tenant}), (plain, {}))
        )
        # ties go by the id that a point is stored under
        assert [c.score for c in found] == [c.score for c in expected]
        least = expected[-1].score if expected else 0.0
        above = [{c.passage.id for c in some if c.score > least} for some in (found, expected)]
        assert above[0] == above[1]
        found, expected = (
            index.search(mode="sparse", limit=50, text="cat dog", where=where, **more)  # type: ignore[arg-type]
            for index, more in ((both, {"tenant": tenant}), (plain, {}))
        )
        assert {c.passage.id for c in found} == {c.passage.id for c in expected}
