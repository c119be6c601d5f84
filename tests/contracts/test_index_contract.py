"""What every Index must do, whatever its engine."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import InvalidBatch, InvalidFilter, InvalidInput, InvalidQuery
from retrieval.index.collection import CollectionIndex
from retrieval.types import Candidate, Fusion, Index, Manifest, Passage

Make = Callable[..., Passage]
NewIndex = Callable[..., CollectionIndex]
DIMENSION = 8


def unit(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A normalised vector that begins with `values`."""
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def vectors(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def names(candidates: list[Candidate]) -> list[str]:
    return [f"{c.passage.document_id}#{c.passage.position}" for c in candidates]


# --- writing and reading --------------------------------------------------------------------


def test_it_is_an_index(index: CollectionIndex, manifest: Callable[..., Manifest]) -> None:
    typed: Index = index
    assert typed.collection == index.manifest.collection
    assert index.manifest.encoder == manifest("x").encoder
    assert index.manifest.created


def test_an_empty_collection_answers(index: CollectionIndex) -> None:
    assert index.count() == 0
    assert index.document_states() == {}
    assert list(index.passages()) == []
    for mode in ("dense", "sparse", "hybrid"):
        assert index.search(mode=mode, limit=5, vector=unit(1), text="cat") == []
        assert index.search(mode=mode, limit=5000, vector=unit(1), text="cat") == []
    index.optimize()
    index.delete_documents(["nothing"])
    index.upsert([], np.zeros((0, DIMENSION), dtype=np.float32))
    assert index.count() == 0


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.text(max_size=30)


FIELDS = st.fixed_dictionaries(
    {
        "text": TEXTS,
        "title": TEXTS,
        "source": TEXTS,
        "document_id": st.text(min_size=1, max_size=20),
        "headings": st.lists(TEXTS, max_size=3).map(tuple),
        "metadata": st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4),
        "position": st.integers(0, 2**40),
        "start": st.integers(0, 2**40),
        "end": st.integers(0, 2**40),
        "document_hash": TEXTS,
        "document_passages": st.integers(0, 2**40),
    }
)


@given(many=st.lists(FIELDS, min_size=8, max_size=30))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_passages_come_back_as_they_went_in(
    new_index: NewIndex, passage: Make, many: list[dict[str, Any]]
) -> None:
    index = new_index()
    given_passages = [
        dataclasses.replace(passage(f"p{number}"), **fields) for number, fields in enumerate(many)
    ]
    index.upsert(given_passages, vectors(len(many)))
    expected = sorted(given_passages, key=lambda p: p.id)
    found = list(index.passages())
    assert found == expected
    for got, wanted in zip(found, expected, strict=True):
        # 1, 1.0 and True are equal in Python, but not the same metadata
        assert json.dumps(got.metadata, sort_keys=True) == json.dumps(
            wanted.metadata, sort_keys=True
        )


FLOATS = [5.332040515444745e48, 2.2250738585072014e-308, 1.7976931348623157e308, 5e-324, 0.1 + 0.2,
          1 / 3, math.pi * 1e25, 123456789.12345679, -0.0, 1e22, 1e23, 0.1, 1e-7]  # fmt: skip


def test_floats_keep_their_last_bit_and_are_found(index: CollectionIndex, passage: Make) -> None:
    """Qdrant reads some of these one unit in the last place off."""
    rng = np.random.default_rng(0)
    floats = [*FLOATS, *(float(m * 10.0**e) for m, e in zip(
        rng.random(300), rng.integers(-300, 300, 300), strict=True))]  # fmt: skip
    given_passages = [passage(f"d{i}", metadata={"x": x}) for i, x in enumerate(floats)]
    index.upsert(given_passages, vectors(len(floats)))
    found = {p.document_id: p.metadata["x"] for p in index.passages()}
    assert [repr(found[f"d{i}"]) for i in range(len(floats))] == [repr(x) for x in floats]
    for x in set(floats) - {0.0, 5e-324}:  # those two are neighbours
        assert index.count({"x": x}) == 1, x


def test_passages_come_in_id_order(index: CollectionIndex, passage: Make) -> None:
    given_passages = [passage(f"d{i}", text=f"word{i}") for i in range(1_203)]
    index.upsert(given_passages, vectors(len(given_passages)))
    found = list(index.passages())
    assert found == sorted(given_passages, key=lambda p: p.id)
    assert index.count() == len(given_passages)


def test_an_update_replaces(index: CollectionIndex, passage: Make) -> None:
    index.upsert([passage("a", text="old cat", metadata={"v": 1, "gone": True})], unit(1)[None])
    index.upsert([passage("a", text="new dog", metadata={"v": 2})], unit(0, 1)[None])
    assert index.count() == 1
    (found,) = index.search(mode="dense", limit=1, vector=unit(0, 1))
    assert (found.passage.text, found.passage.metadata) == ("new dog", {"v": 2})
    assert found.score == 1.0
    assert index.search(mode="sparse", limit=5, text="cat") == []
    assert index.count({"gone": True}) == 0


# --- searching ------------------------------------------------------------------------------


def test_dense_scores_are_cosines_best_first(index: CollectionIndex, passage: Make) -> None:
    rows = vectors(50, seed=1) * np.linspace(0.1, 30, 50, dtype=np.float32)[:, None]
    given_passages = [passage(f"d{i}") for i in range(50)]
    index.upsert(given_passages, rows)
    query = vectors(1, seed=2)[0]
    cosines = rows @ query / np.linalg.norm(rows, axis=1)
    expected = np.argsort(-cosines)[:10]
    found = index.search(mode="dense", limit=10, vector=query)
    assert names(found) == [f"d{i}#0" for i in expected]
    assert [c.score for c in found] == pytest.approx(cosines[expected].tolist(), abs=2e-6)
    assert [c.rank for c in found] == list(range(1, 11))


def test_sparse_scores_are_bm25(one_shard: CollectionIndex, passage: Make) -> None:
    index = one_shard
    texts = ["cats sleep", "a cat and another cat met", "dogs bark", "the cat"]
    given_passages = [passage(f"d{i}", text=text) for i, text in enumerate(texts)]
    index.upsert(given_passages, vectors(4))
    found = index.search(mode="sparse", limit=10, text="the Cat")
    # stemmed, lower-cased, stop words gone: lengths 2, 4 (another, met stay), 1
    idf = math.log(1 + (4 - 3 + 0.5) / (3 + 0.5))
    average = index.manifest.bm25.avg_len

    def score(frequency: int, length: int) -> float:
        return idf * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / average))

    assert names(found) == ["d1#0", "d3#0", "d0#0"]
    assert [c.score for c in found] == pytest.approx(
        [score(2, 4), score(1, 1), score(1, 2)], abs=2e-5
    )


def test_words_are_looked_for_in_title_and_headings(index: CollectionIndex, passage: Make) -> None:
    found_in = passage("a", text="text", title="zebra", headings=("giraffe",))
    index.upsert([found_in, passage("b")], vectors(2))
    for word in ("zebra", "giraffe"):
        assert names(index.search(mode="sparse", limit=5, text=word)) == ["a#0"]


def test_a_text_without_terms_has_no_sparse_hits(index: CollectionIndex, passage: Make) -> None:
    index.upsert([passage("a", text="the of and"), passage("b", text="cat")], vectors(2))
    for text in ("the of", "", "  ", "?!", "qwertz"):
        assert index.search(mode="sparse", limit=5, text=text) == []
        assert len(index.search(mode="hybrid", limit=5, text=text, vector=unit(1))) == 2


def test_hybrid_is_the_sum_of_reciprocal_ranks(one_shard: CollectionIndex, passage: Make) -> None:
    index = one_shard
    rows = np.stack([unit(1), unit(1, 0.5), unit(1, 1), unit(0, 1)])
    texts = ["cat", "nothing", "cat cat cat", "cat cat"]
    index.upsert([passage(f"d{i}", text=text) for i, text in enumerate(texts)], rows)
    dense = index.search(mode="dense", limit=9, vector=unit(1))
    sparse = index.search(mode="sparse", limit=9, text="cat")
    assert names(dense) == ["d0#0", "d1#0", "d2#0", "d3#0"]
    assert names(sparse) == ["d2#0", "d3#0", "d0#0"]
    by_ranks = Fusion("rrf", k=20)
    found = index.search(mode="hybrid", limit=9, vector=unit(1), text="cat", fusion=by_ranks)
    expected = {"d0#0": 1 / 20 + 1 / 22, "d1#0": 1 / 21, "d2#0": 1 / 22 + 1 / 20,
                "d3#0": 1 / 23 + 1 / 21}  # fmt: skip
    assert {n: c.score for n, c in zip(names(found), found, strict=True)} == pytest.approx(expected)
    first = sorted([passage("d0").id, passage("d2").id])
    assert [c.passage.id for c in found[:2]] == first
    assert names(found)[2:] == ["d3#0", "d1#0"]


def test_hybrid_is_the_sum_of_scores_on_one_scale(index: CollectionIndex, passage: Make) -> None:
    rows = np.stack([unit(1), unit(1, 0.5), unit(1, 1), unit(0, 1)])
    texts = ["cat", "nothing", "cat cat cat", "cat cat"]
    index.upsert([passage(f"d{i}", text=text) for i, text in enumerate(texts)], rows)
    expected: dict[str, float] = {}
    for leg in (
        index.search(mode="dense", limit=9, vector=unit(1)),
        index.search(mode="sparse", limit=9, text="cat"),
    ):
        scores = np.array([c.score for c in leg])
        low = scores.mean() - 3 * scores.std(ddof=1)
        for name, score in zip(names(leg), scores, strict=True):
            alike = (score - low) / (6 * scores.std(ddof=1))
            expected[name] = expected.get(name, 0.0) + float(alike)
    found = index.search(mode="hybrid", limit=9, vector=unit(1), text="cat")
    got = {n: c.score for n, c in zip(names(found), found, strict=True)}
    assert got == pytest.approx(expected, abs=1e-6)
    assert names(found) == sorted(expected, key=lambda name: -expected[name])


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_ties_go_by_passage_id_also_at_the_cut(
    one_shard: CollectionIndex, passage: Make, mode: Any
) -> None:
    index = one_shard
    same = [passage(f"d{i}", text="cat") for i in range(150)]
    better = passage("best", text="cat cat")
    rows = np.stack([unit(1, 1)] * 150 + [unit(1)])
    index.upsert([*same, better], rows)
    ids = sorted(p.id for p in same)
    for limit in (1, 2, 10, 100):
        found = index.search(mode=mode, limit=limit, vector=unit(1), text="cat")
        assert [c.passage.id for c in found] == [better.id, *ids][:limit]


def test_a_filter_holds_in_every_mode(index: CollectionIndex, passage: Make) -> None:
    given_passages = [
        passage(f"d{i}", text="cat " * (i + 1), metadata={"even": i % 2 == 0}) for i in range(40)
    ]
    index.upsert(given_passages, vectors(40))
    for mode in ("dense", "sparse", "hybrid"):
        found = index.search(
            mode=mode, limit=40, vector=unit(1), text="cat", where={"even": True}
        )  # fmt: skip
        assert {c.passage.document_id for c in found} == {f"d{i}" for i in range(0, 40, 2)}
        everything = index.search(mode=mode, limit=40, vector=unit(1), text="cat", where={})
        assert len(everything) == 40


def test_a_large_limit_gives_all(index: CollectionIndex, passage: Make) -> None:
    index.upsert([passage(f"d{i}", text="cat") for i in range(30)], vectors(30))
    for mode in ("dense", "sparse", "hybrid"):
        for limit in (5_000, 2**70):  # the engines count in 64 bits
            found = index.search(mode=mode, limit=limit, vector=unit(1), text="cat")
            assert len(found) == 30


def test_chinese(new_index: NewIndex, passage: Make) -> None:
    index = new_index(language="zh")
    texts = ["北京是中国的首都", "上海是最大的城市", "机器学习模型"]
    index.upsert([passage(f"d{i}", text=text) for i, text in enumerate(texts)], vectors(3))
    assert names(index.search(mode="sparse", limit=1, text="中国首都是哪里？")) == ["d0#0"]
    assert names(index.search(mode="sparse", limit=1, text="学习")) == ["d2#0"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": 2.5},
        {"limit": True},
        {"mode": "fuzzy"},
        {"vector": None},
        {"vector": np.zeros(DIMENSION, dtype=np.float32)},
        {"vector": np.full(DIMENSION, np.nan, dtype=np.float32)},
        {"vector": np.ones(DIMENSION + 1, dtype=np.float32)},
        {"vector": np.ones((1, DIMENSION), dtype=np.float32)},
        {"vector": np.ones(DIMENSION, dtype=np.int64)},
        {"mode": "sparse", "text": None},
        {"mode": "hybrid", "text": None},
        {"mode": "hybrid", "vector": None},
    ],
)
def test_wrong_arguments_are_named(index: CollectionIndex, arguments: dict[str, Any]) -> None:
    full = {"mode": "dense", "limit": 5, "vector": unit(1), "text": "cat", **arguments}
    with pytest.raises(InvalidInput):
        index.search(**full)


def test_a_query_that_is_no_unicode_is_refused(index: CollectionIndex) -> None:
    with pytest.raises(InvalidQuery, match="surrogate"):
        index.search(mode="sparse", limit=1, text="\ud800")


# --- what must not be written ---------------------------------------------------------------

BAD_PASSAGES: list[tuple[str, dict[str, Any]]] = [
    ("UUID", {"id": "17"}),
    ("UUID", {"id": "D3225403-3C8A-5B4A-80B1-72FB3836B9A1"}),
    ("finite", {"metadata": {"a": {"b": [math.nan]}}}),
    ("finite", {"metadata": {"a": math.inf}}),
    ("64 bits", {"metadata": {"a": 2**63}}),
    ("not a JSON value", {"metadata": {"a": b"bytes"}}),
    ("not a JSON value", {"metadata": {"a": (1, 2)}}),
    ("not a JSON value", {"metadata": {"a": np.int64(3)}}),
    ("the key 1", {"metadata": {1: "a"}}),
    ("surrogate", {"text": "\udcff"}),
    ("surrogate", {"metadata": {"a": "\udcff"}}),
    ("expected text", {"title": None}),
    ("position", {"position": -1}),
    ("a tuple", {"headings": ["a"]}),
    ("mapping", {"metadata": None}),
]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("problem", "changes"), [*BAD_PASSAGES, ("levels deep", {"metadata": nested(70)})]
)
def test_a_bad_passage_is_named_and_nothing_is_written(
    index: CollectionIndex, passage: Make, problem: str, changes: dict[str, Any]
) -> None:
    batch = [passage(f"d{i}") for i in range(5)] + [passage("bad", **changes)]
    with pytest.raises(InvalidBatch, match=problem) as caught:
        index.upsert(batch, vectors(6))
    assert "passage 5 of 6" in str(caught.value)
    assert "'bad'" in str(caught.value)
    assert index.count() == 0


def test_the_deepest_metadata_is_kept(index: CollectionIndex, passage: Make) -> None:
    deep = passage("deep", metadata=nested(60))
    index.upsert([deep], unit(1)[None])
    assert list(index.passages()) == [deep]


def test_a_repeated_id_is_refused(index: CollectionIndex, passage: Make) -> None:
    with pytest.raises(InvalidBatch, match="also that of passage 0"):
        index.upsert([passage("a"), passage("a")], vectors(2))
    assert index.count() == 0


BAD_VECTORS = {
    "NaN": np.array([[1.0] * DIMENSION, [math.nan] * DIMENSION], dtype=np.float32),
    "infinity": np.array([[1.0] * DIMENSION, [math.inf] * DIMENSION], dtype=np.float32),
    "NaN or an infinity": np.full((2, DIMENSION), 1e300),
    "all zeros": np.array([[1.0] * DIMENSION, [0.0] * DIMENSION], dtype=np.float32),
    r"\(2, 9\)": np.ones((2, 9), dtype=np.float32),
    r"\(3, 8\)": np.ones((3, 8), dtype=np.float32),
    r"\(16,\)": np.ones(16, dtype=np.float32),
    "int64": np.ones((2, DIMENSION), dtype=np.int64),
}


@pytest.mark.parametrize("problem", BAD_VECTORS)
def test_bad_vectors_are_refused_and_nothing_is_written(
    index: CollectionIndex, passage: Make, problem: str
) -> None:
    with pytest.raises(InvalidBatch, match=problem):
        index.upsert([passage("a"), passage("b")], BAD_VECTORS[problem])
    assert index.count() == 0


# --- deleting and document states -----------------------------------------------------------


def test_delete_passages_and_documents(index: CollectionIndex, passage: Make) -> None:
    given_passages = [passage(f"d{i}", p) for i in range(4) for p in range(3)]
    index.upsert(given_passages, vectors(12))
    index.delete_passages([passage("d0", 1).id, passage("d0", 2).id, passage("never").id])
    index.delete_documents(["d1", "unknown", "d1"])
    index.delete_documents([])
    index.delete_passages([])
    left = [(p.document_id, p.position) for p in index.passages()]
    expected = [("d0", 0)] + [(d, p) for d in ("d2", "d3") for p in range(3)]
    assert sorted(left) == expected
    assert index.search(mode="dense", limit=50, vector=unit(1), where={"document_id": "d1"}) == []


def test_one_text_is_no_list_of_ids(index: CollectionIndex, passage: Make) -> None:
    index.upsert([passage("d"), passage("doc")], vectors(2))
    with pytest.raises(InvalidInput, match="list"):
        index.delete_documents("doc")
    with pytest.raises(InvalidInput, match="list"):
        index.delete_passages(passage("d").id)
    with pytest.raises(InvalidBatch, match="UUID"):
        index.delete_passages([passage("d").id, "7"])
    assert index.count() == 2


def test_an_empty_delete_filter_is_refused(index: CollectionIndex, passage: Make) -> None:
    from qdrant_client.models import Filter

    index.upsert([passage(f"d{i}", metadata={"n": i}) for i in range(5)], vectors(5))
    nothing: list[Any] = [{}, Filter(), Filter(must=[]), Filter(must=[Filter()], should=[])]
    for where in nothing:
        with pytest.raises(InvalidFilter, match="every passage"):
            index.delete_where(where)
    assert index.count() == 5
    assert index.delete_where({"n": {"gte": 3}}) == 2
    assert index.delete_where({"n": {"gte": 3}}) == 0
    assert sorted(index.document_states()) == ["d0", "d1", "d2"]


def test_document_states_tell_whole_from_broken(index: CollectionIndex, passage: Make) -> None:
    def part(document: str, position: int, content: str, total: int) -> Passage:
        return passage(document, position, document_hash=content, document_passages=total)

    batch = [
        *(part("whole", p, "h1", 3) for p in range(3)),
        *(part("cut", p, "h1", 3) for p in range(2)),
        part("mixed", 0, "h1", 2), part("mixed", 1, "h2", 2),
        part("shrunk", 0, "h2", 1), part("shrunk", 1, "h1", 2),
        part("grew", 0, "h2", 2), part("grew", 1, "h2", 2),
        part("nameless", 0, "", 1),
    ]  # fmt: skip
    index.upsert(batch, vectors(len(batch)))
    states = index.document_states()
    assert {name: state.content_hash for name, state in states.items()} == {
        "whole": "h1", "cut": None, "mixed": None, "shrunk": None, "grew": "h2", "nameless": None,
    }  # fmt: skip
    assert states["cut"].passage_ids == {passage("cut", 0).id, passage("cut", 1).id}
    index.delete_passages([passage("shrunk", 1).id])
    assert index.document_states()["shrunk"].content_hash == "h2"


def test_document_passages_come_whole_and_in_order(index: CollectionIndex, passage: Make) -> None:
    long = [passage("long", p, f"part {p} of it", metadata={"n": p}) for p in range(1_203)]
    batch = [*long[::-1], passage("short"), passage("other, with 'signs' ☃")]
    for start in range(0, len(batch), 500):
        index.upsert(batch[start : start + 500], vectors(len(batch[start : start + 500])))
    found = index.document_passages(["short", "none", "long", "short"])
    assert list(found) == ["short", "long"]
    assert found["long"] == tuple(long)
    assert found["short"] == (passage("short"),)
    assert list(index.document_passages(["other, with 'signs' ☃"])) == ["other, with 'signs' ☃"]
    assert index.document_passages([]) == {}
    changed = passage("short", 1, document_hash="sha256:b")  # an update that was cut off
    index.upsert([changed], vectors(1))
    assert index.document_passages(["short"])["short"] == (passage("short"), changed)
    with pytest.raises(InvalidInput, match="expected a list of texts"):
        index.document_passages("short")


def test_optimize_changes_no_answer(index: CollectionIndex, passage: Make) -> None:
    given_passages = [passage(f"d{i}", text=f"cat word{i % 7}") for i in range(600)]
    index.upsert(given_passages, vectors(600))
    index.delete_documents([f"d{i}" for i in range(0, 600, 5)])

    def answers() -> list[list[tuple[str, float]]]:
        return [
            [(c.passage.id, c.score) for c in index.search(
                mode=mode, limit=20, vector=unit(1, 2, 3), text="cat word3")]
            for mode in ("dense", "sparse", "hybrid")
        ]  # fmt: skip

    before = answers()
    index.optimize()
    after = answers()
    # BM25's document counts may still hold deleted passages before the segments are rewritten
    assert after[0] == before[0]
    assert [key for key, _ in after[1]] == [key for key, _ in before[1]]
    assert index.count() == 480
    assert len(list(index.passages())) == 480
