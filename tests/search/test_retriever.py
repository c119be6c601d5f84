"""The order of things in TwoStageRetriever, on fakes whose every answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, InvalidQuery, ManifestMismatch
from retrieval.models.rerankers import time_budget as budget
from retrieval.search.hits import best_span
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import (
    Bm25Info,
    Candidate,
    EncoderInfo,
    Encoding,
    IndexQuery,
    Manifest,
    Passage,
    RerankerInfo,
    Scores,
    SplitterInfo,
)

INFO = EncoderInfo("fake", "sha256:1", 2, "cls", True, "find: ", "", 16)
MANIFEST = Manifest("c", INFO, SplitterInfo(64, 8), Bm25Info("english", "word", 100.0))


class Words:
    special_tokens = 2

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        return np.zeros((len(text.split()), 2), dtype=np.int64)


class FakeEncoder:
    info = INFO
    token_counter = Words()

    def __init__(self) -> None:
        self.queries: list[str] = []

    def encode_queries(self, queries: Sequence[str], *, progress: Any = None) -> Any:
        self.queries += queries
        return np.ones((len(queries), 2), dtype=np.float32)

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        raise AssertionError("searching never encodes passages")


class FakeIndex:
    collection = "c"
    manifest = MANIFEST

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        self.calls: list[dict[str, Any]] = []

    def search_batch(self, queries: Sequence[IndexQuery], **call: Any) -> list[list[Candidate]]:
        self.calls.append({"queries": list(queries), **call})
        return [
            [
                Candidate(Passage(i, i, 0, f"text {i}", 0, 6), 1.0 - rank / 100, rank)
                for rank, i in enumerate(self.ids[: call["limit"]], start=1)
            ]
            for _ in queries
        ]


class FakeReranker:
    def __init__(self, score_of: dict[str, float], cut: Sequence[str] = ()) -> None:
        self.score_of = score_of
        self.cut = cut
        self.info = RerankerInfo("fake-reranker", "sha256:2", "cross-encoder", 16)
        self.calls: list[list[tuple[str, str]]] = []

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.calls.append(list(pairs))
        names = [passage.removeprefix("text ") for _, passage in pairs]
        return Scores(
            np.array([self.score_of[n] for n in names], dtype=np.float64),
            np.array([n in self.cut for n in names], dtype=bool),
        )

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-scores))


def retriever(
    ids: str = "abcd", scores: dict[str, float] | None = None, **options: Any
) -> tuple[TwoStageRetriever, FakeEncoder, FakeIndex, FakeReranker]:
    encoder, index = FakeEncoder(), FakeIndex(list(ids))
    reranker = FakeReranker(scores or {"a": -2.0, "b": 3.0, "c": 0.5, "d": 0.5})
    made = TwoStageRetriever(encoder, index, reranker, **options)  # type: ignore[arg-type]
    return made, encoder, index, reranker


def order(result: Any) -> str:
    return "".join(hit.passage.id for hit in result.hits)


def test_the_reranker_decides_and_ties_go_by_passage_id() -> None:
    result = retriever("dcba")[0].search("q")
    assert order(result) == "bcda"
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4]
    first = result.hits[0]
    assert (first.stage1_rank, first.stage1_score) == (3, 0.97)
    assert (first.stage2_rank, first.stage2_score, first.score) == (1, 3.0, 3.0)
    assert first.relevance == pytest.approx(0.9525741268)
    assert "".join(c.passage.id for c in result.candidates) == "dcba"
    assert (result.encoder, result.reranker) == ("fake", "fake-reranker")


def test_without_reranking_the_first_stage_order_stands() -> None:
    made, _, _, reranker = retriever()
    result = made.search("q", rerank=False, mode="hybrid")
    assert order(result) == "abcd"
    assert reranker.calls == []
    assert result.reranker is None
    assert result.timings.rerank_ms == 0.0
    assert all(hit.stage2_score is None and hit.relevance is None for hit in result.hits)


def test_blending_joins_both_orders() -> None:
    # stage 1: a b c d; reranker: b c d a. With 1/(20 + rank from 0) b leads (1/21 + 1/20),
    # then a (1/20 + 1/23), c (1/22 + 1/21), d (1/23 + 1/22).
    result = retriever()[0].search("q", blend="rrf")
    assert order(result) == "bacd"
    assert result.hits[0].score == pytest.approx(1 / 21 + 1 / 20)
    assert result.blend == "rrf"


@pytest.mark.parametrize(
    ("mode", "weight", "expected"),
    [("hybrid", 0.75, "bcad"), ("dense", 0.4, "bacd"), ("sparse", 8.0, "bcda")],
)
def test_blending_by_scores_trusts_vectors_more_than_bm25(
    mode: Any, weight: float, expected: str
) -> None:
    # Standardised, stage 1: a 1.162, b .387, c -.387, d -1.162; the reranker, whose mean is 1.1 and
    # deviation 2.368: a -1.309, b .802, c .760, d -.253. A deviation is a sixth of the scale.
    found = retriever(scores={"a": -2.0, "b": 3.0, "c": 2.9, "d": 0.5})[0]
    result = found.search("q", blend="scores", mode=mode)
    assert order(result) == expected
    assert result.blend == "scores"
    best = 0.5 + 0.3873 / 6 + weight * (0.5 + 0.8024 / 6)
    assert result.hits[0].score == pytest.approx(best, abs=1e-4)
    assert result.hits[0].relevance == pytest.approx(1 / (1 + np.exp(-3.0)))


@pytest.mark.parametrize(("mode", "weight"), [("hybrid", 2.0), ("dense", 1.0), ("sparse", 4.0)])
def test_late_interaction_has_weights_of_its_own(mode: Any, weight: float) -> None:
    made, _, _, reranker = retriever(scores={"a": -2.0, "b": 3.0, "c": 2.9, "d": 0.5})
    reranker.info = replace(reranker.info, kind="late-interaction")
    result = made.search("q", blend="scores", mode=mode)
    best = 0.5 + 0.3873 / 6 + weight * (0.5 + 0.8024 / 6)
    assert result.hits[0].score == pytest.approx(best, abs=1e-4)


def test_a_rerankers_own_blend_is_the_default() -> None:
    made, _, _, reranker = retriever()
    reranker.info = replace(reranker.info, default_blend="rrf")
    assert made.search("q").blend == "rrf"
    assert made.search("q", blend="auto").blend == "rrf"
    assert made.search("q", blend="none").blend == "none"
    made.blend = "none"
    assert made.search("q").blend == "none"
    assert made.search("q", blend="auto").blend == "rrf"


def test_candidates_bound_the_second_stage_and_fetch_deepens_the_first() -> None:
    made, _, index, reranker = retriever(candidates=1)
    made.search("q", top_k=3)
    assert index.calls[0]["limit"] == 3  # at least as many as hits are asked for
    index.calls.clear()
    reranker.calls.clear()
    (result,) = made.search_batch(["q"], top_k=4, candidates=2, fetch=4)
    assert index.calls[0]["limit"] == 4
    assert [p for _, p in reranker.calls[0]] == ["text a", "text b"]
    assert order(result) == "bacd"
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4]
    assert result.hits[2].stage2_score is None


@pytest.mark.parametrize(
    ("mode", "has_vector", "has_text"),
    [("dense", True, False), ("sparse", False, True), ("hybrid", True, True)],
)
def test_each_mode_gets_what_it_needs(mode: Any, has_vector: bool, has_text: bool) -> None:
    made, encoder, index, _ = retriever()
    made.search("q", mode=mode, where={"lang": "en"})
    (call,) = index.calls
    (query,) = call["queries"]
    assert (query.vector is not None, query.text is not None) == (has_vector, has_text)
    assert call["where"] == {"lang": "en"}
    assert bool(encoder.queries) is has_vector


def test_the_threshold_comes_last_and_closes_the_ranks() -> None:
    result = retriever()[0].search("q", blend="rrf", min_relevance=0.5)
    assert order(result) == "bcd"
    assert [hit.rank for hit in result.hits] == [1, 2, 3]


def test_a_batch_shares_one_call_and_keeps_its_queries_apart() -> None:
    made, _, _, reranker = retriever()
    results = made.search_batch(["q1", "q2"], top_k=1)
    assert len(reranker.calls) == 1
    assert {q for q, _ in reranker.calls[0]} == {"q1", "q2"}
    assert [r.query for r in results] == ["q1", "q2"]
    assert [order(r) for r in results] == ["b", "b"]
    assert made.search_batch([]) == []


def test_a_text_is_no_batch_of_letters() -> None:
    with pytest.raises(InvalidQuery, match="expected a list"):
        retriever()[0].search_batch("why")


def test_truncation_is_told() -> None:
    made, _, _, reranker = retriever()
    reranker.cut = ["a", "c"]
    notices = made.search("word " * 40).notices
    assert any("43 tokens" in n and "first 16" in n for n in notices)
    assert any(n.startswith("2 of the re-ranked passages") for n in notices)
    reranker.cut = []
    assert made.search("word").notices == ()


@pytest.mark.parametrize("query", ["", "  \n ", None, b"bytes", 3, "half a pair \ud800"])
def test_bad_queries_are_refused_in_words(query: Any) -> None:
    with pytest.raises(InvalidQuery):
        retriever()[0].search(query)


def test_an_encoder_that_did_not_build_the_collection_is_refused() -> None:
    encoder = FakeEncoder()
    encoder.info = replace(INFO, model="other", fingerprint="sha256:9")  # type: ignore[misc]
    with pytest.raises(ManifestMismatch) as caught:
        TwoStageRetriever(encoder, FakeIndex("a"))  # type: ignore[arg-type]
    assert "other" in str(caught.value)
    assert "fake" in str(caught.value)


# --- a time budget ---------------------------------------------------------------------------


@pytest.fixture
def at_most_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measured time is far over the budget: only the first chunk is read, two pairs."""
    ticks = itertools.count()
    inner = budget.score_within

    def slow(*given: Any, **options: Any) -> Any:
        return inner(*given, **options, clock=lambda: float(next(ticks)))

    monkeypatch.setattr("retrieval.search.rerank.score_within", slow)


@pytest.mark.usefixtures("at_most_two")
def test_a_budget_re_ranks_the_best_candidates_and_the_others_follow() -> None:
    made, _, _, reranker = retriever("abcd", {"a": 0.5, "b": 3.0, "c": 9.0, "d": 9.0})
    result = made.search("q", budget_ms=50)
    assert [p for _, p in reranker.calls[0]] == ["text a", "text b"]
    assert order(result) == "bacd"
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4]
    assert [hit.stage2_rank for hit in result.hits] == [1, 2, None, None]
    assert [hit.stage2_score for hit in result.hits] == [3.0, 0.5, None, None]
    assert result.hits[2].relevance is None
    assert result.hits[2].score == result.hits[2].stage1_score == 0.97
    assert result.reranked == 2
    assert result.notices == (
        "The time budget of 50 ms re-ranked 2 of 4 candidates; the others follow in first-stage "
        "order.",
    )


@pytest.mark.usefixtures("at_most_two")
def test_a_budget_and_a_threshold() -> None:
    result = retriever("abcd")[0].search("q", budget_ms=50, min_relevance=0.5)
    assert order(result) == "b"
    assert "the others have no relevance and are left out" in result.notices[0]


@pytest.mark.usefixtures("at_most_two")
def test_a_batch_shares_its_budget() -> None:
    results = retriever("abcd")[0].search_batch(["q1", "q2", "q3"], budget_ms=0.5, blend="rrf")
    assert [result.reranked for result in results] == [1, 1, 1]
    assert [order(result) for result in results] == ["abcd"] * 3
    assert "The time budget of 0.5 ms for 3 queries re-ranked 1 of 4" in results[0].notices[0]


def test_how_deep_it_went_is_always_said_and_an_ample_budget_changes_nothing() -> None:
    made, _, _, _ = retriever("dcba")
    with_budget, without = made.search("q", budget_ms=60_000), made.search("q")
    assert with_budget.hits == without.hits
    assert with_budget.reranked == without.reranked == 4
    assert with_budget.notices == ()
    assert made.search("q", rerank=False, budget_ms=10).reranked == 0
    assert made.search_batch(["q"], top_k=4, candidates=3, fetch=4)[0].reranked == 3
    assert made.search("q", top_k=1).reranked == 4


@pytest.mark.parametrize("value", [0, -5, float("nan"), float("inf"), True, "50"])
@pytest.mark.parametrize("rerank", [True, False])
def test_a_budget_that_is_none(value: Any, rerank: bool) -> None:
    made, encoder, _, _ = retriever()
    with pytest.raises(InvalidInput, match="budget_ms"):
        made.search("q", budget_ms=value, rerank=rerank)
    assert encoder.queries == []


# --- where in a passage the answer is --------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "best"),
    [
        ((0, 5), None),  # the title
        ((0, 14), None),  # title, heading and the blank before the text
        ((0, 15), (0, 1)),
        ((14, 25), (0, 11)),
        ((15, 19), (1, 5)),
        ((17, 99), (3, 11)),
        ((20, 20), None),
    ],
)
def test_spans_become_offsets_in_the_text(span: Any, best: Any) -> None:
    passage = Passage("i", "d", 0, "hello there", 5, 16, "Title", ("Heading",))
    assert passage.content.index("hello") == 14
    assert best_span(passage, np.array([(0, 0), span], dtype=np.int64), 1) == best


def test_spans_of_a_passage_without_text_or_title() -> None:
    spans = np.array([(0, 5)], dtype=np.int64)
    assert best_span(Passage("i", "d", 0, "", 0, 0, "Title"), spans, 0) is None
    assert best_span(Passage("i", "d", 0, "hello there", 0, 11), spans, 0) == (0, 5)
    assert best_span(Passage("i", "d", 0, "hello", 0, 5), None, 0) is None


@pytest.mark.parametrize("budget_ms", [None, 60_000.0])
def test_a_hit_says_which_window_was_best(budget_ms: float | None) -> None:
    made, _, _, reranker = retriever()

    class Windows(FakeReranker):
        def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
            scores = super().score(pairs)
            spans = np.array([(0, 4) if p.endswith("a") else (2, 6) for _, p in pairs])
            return replace(scores, spans=spans)

    made.reranker = Windows(reranker.score_of)
    hits = {h.passage.id: h for h in made.search("q", top_k=4, budget_ms=budget_ms).hits}
    assert {i: h.best_span for i, h in hits.items()} == {
        **dict.fromkeys("bcd", (2, 6)),
        "a": (0, 4),
    }
    assert hits["b"].passage.text[2:6] == "xt b"
    assert all(h.best_span is None for h in made.search("q", rerank=False).hits)


# --- closing ---------------------------------------------------------------------------------


def test_only_models_of_its_own_are_closed() -> None:
    closed: list[str] = []

    class Closable:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    made = retriever(owned=(Closable("encoder"), None, object()))[0]
    made.index.close = lambda: closed.append("index")  # type: ignore[method-assign]
    made.close()
    assert closed == ["index", "encoder"]
