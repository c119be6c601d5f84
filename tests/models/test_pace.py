"""The depth of default searches follows what a machine was measured to read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from numpy.typing import NDArray

import retrieval
from retrieval import CrossEncoderReranker, Document
from retrieval.api import models
from retrieval.models.defaults import Choice
from retrieval.models.rerankers import pace
from retrieval.search.rerank import EXCERPT_NOTICE, PACE_NOTICE
from retrieval.types import RerankerInfo, Scores, SearchResult

TOKENS = 90
"""Of every pair."""


class Slow:
    """Scores nothing; a pair takes `seconds` of a clock of its own."""

    def __init__(self, seconds: float, name: str = "slow") -> None:
        self.info = RerankerInfo(name, f"sha256:{name}", "cross-encoder", 512)
        self.seconds = seconds
        self.now = 0.0
        self.calls: list[list[tuple[str, str]]] = []

    def clock(self) -> float:
        return self.now

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.calls.append(list(pairs))
        # As on a real machine: the first call is slow, and one round is disturbed.
        self.now += self.seconds * len(pairs) * (50, 3, 1)[min(len(self.calls), 3) - 1]
        counts = np.full(len(pairs), TOKENS)
        return Scores(np.zeros(len(pairs)), np.zeros(len(pairs), dtype=np.bool_), counts)

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores


def rate(reranker: Slow, folder: Path | None, running: str = "openvino bf16 on cpu") -> float:
    return pace.tokens_per_second(
        reranker, running, threads=None, cache_dir=folder, clock=reranker.clock
    )


def test_the_undisturbed_round_counts_and_no_pair_is_read_twice() -> None:
    slow = Slow(0.05)
    assert rate(slow, None) == pytest.approx(20 * TOKENS)
    texts = [text for call in slow.calls[1:] for _, text in call]
    assert len(set(texts)) == len(texts) == pace.PAIRS * pace.ROUNDS


def test_a_rate_is_measured_once_for_a_model_and_the_way_it_runs(tmp_path: Path) -> None:
    assert rate(Slow(0.05), tmp_path) == pytest.approx(20 * TOKENS)
    again = Slow(0.01)
    assert rate(again, tmp_path) == pytest.approx(20 * TOKENS)
    assert again.calls == []
    assert rate(Slow(0.01), tmp_path, "openvino int8 on cpu") == pytest.approx(100 * TOKENS)
    assert rate(Slow(0.01, "other"), tmp_path) == pytest.approx(100 * TOKENS)


def test_time_that_the_processor_spent_elsewhere_does_not_count() -> None:
    class Waits(Slow):
        def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
            time.sleep(0.25)
            return super().score(pairs)

    def of(alone: bool) -> float:
        return pace.tokens_per_second(Waits(0.0), "on cpu", threads=1, cache_dir=None, alone=alone)

    by_the_clock = pace.PAIRS * TOKENS / 0.25
    assert of(alone=False) <= by_the_clock
    assert of(alone=True) > 4 * by_the_clock


@pytest.mark.parametrize("damaged", ["", "fast", "-1", "inf", "nan"])
def test_a_damaged_rate_is_measured_again(damaged: str, tmp_path: Path) -> None:
    rate(Slow(0.05), tmp_path)
    (entry,) = tmp_path.glob("pace-*")
    kept = entry / "tokens-per-second"
    kept.write_text(damaged.ljust(len(kept.read_text("utf-8"))), "utf-8")
    assert rate(Slow(0.01), tmp_path) == pytest.approx(100 * TOKENS)


# --- searches --------------------------------------------------------------------------------

TEXT = "The weather was fine that day. Nobody knew what to say about it. " * 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    documents = [Document(f"d{number}", f"{TEXT}Gate {number}.") for number in range(60)]
    retrieval.ingest(documents, "c", store=folder, encoder=HashingEncoder(), max_tokens=None)
    return folder


def read_whole(result: SearchResult) -> set[int]:
    """First-stage ranks of the hits of which no excerpt was read."""
    return {hit.stage1_rank for hit in result.hits if hit.best_span == (0, len(hit.passage.text))}


def test_a_slow_cpu_reads_fewer_candidates_and_what_is_given_is_kept(
    store: Path, tiny_bert_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def measured(*given: Any, **options: Any) -> float:
        return rates[-1]

    monkeypatch.setattr("retrieval.models.rerankers.cross_encoder.tokens_per_second", measured)
    options: Any = {"store": store, "encoder": HashingEncoder(), "device": "cpu"}
    name = str(tiny_bert_reranker)

    rates.append(100.0)  # too slow for anything: the least is read all the same
    with retrieval.open("c", reranker=name, **options) as retriever:
        result = retriever.search("gate", top_k=3)
        assert (result.reranked, len(result.candidates)) == (8, 50)
        assert read_whole(retriever.search("gate", top_k=50)) == set()
        assert f"{PACE_NOTICE} The others follow in first-stage order." in result.notices
        assert retriever.search("gate", candidates=30).reranked == 30
        assert retriever.search("gate", read="full").reranked == 50
        assert retriever.search("gate", read="excerpts").reranked == 50
        assert retriever.search("gate", budget_ms=600_000).reranked == 50
        first, second = (retriever.search("gate", top_k=12, offset=offset) for offset in (0, 12))
        assert first.reranked == second.reranked == 12  # at least top_k, on every page
        assert not any("beyond the" in one for one in second.notices)
        strict = retriever.search("gate", min_relevance=1e-9)
        assert len(strict.hits) == 10
        told = f"{PACE_NOTICE} The others have no relevance and are left out."
        assert told in strict.notices

    rates.append(3000.0)
    with retrieval.open("c", reranker=name, **options) as retriever:
        some = retriever.search("gate", top_k=3)
        assert 8 < some.reranked < 50
        # 3000 tokens a second leave 1290, and a passage has 135 of them
        assert read_whole(retriever.search("gate", top_k=50)) == {1, 2, 3, 4, 5}
        assert retriever.search("gate", top_k=3).hits == some.hits
        batch = retriever.search_batch(["gate", "gate 7"], top_k=3)
        assert batch[0].hits == some.hits

    rates.append(1e6)
    with retrieval.open("c", reranker=name, **options) as retriever:
        assert retriever.search("gate").reranked == 50
        assert read_whole(retriever.search("gate", top_k=50)) == {1, 2, 3, 4, 5}
        assert EXCERPT_NOTICE in retriever.search("gate").notices
    rates.append(1000.0)  # of 430 tokens two thirds, 286, are for passages of 135 each
    with retrieval.open("c", reranker=name, **options) as retriever:
        assert read_whole(retriever.search("gate", top_k=50)) == {1, 2}
    rates.append(100.0)
    with retrieval.open("c", reranker=name, candidates=40, **options) as retriever:
        assert retriever.search("gate").reranked == 40


def test_on_a_cpu_a_cross_encoder_reads_excerpts_unless_it_was_told_how(
    tiny_bert_reranker: Path,
) -> None:
    plain = CrossEncoderReranker(tiny_bert_reranker, device="cpu")
    assert plain.info.default_read == "excerpts"
    assert plain.info.default_tokens is None
    rate = plain.settle_pace()
    assert rate is not None
    assert plain.info.default_tokens == int(rate * pace.SECONDS)
    told = CrossEncoderReranker(tiny_bert_reranker, device="cpu", long_passages="windows")
    assert told.info.default_read == "full"
    assert told.settle_pace() is None


def test_a_reranker_too_slow_that_nobody_asked_for_gives_way(
    tiny_bert_reranker: Path,
    tiny_xlmr_reranker: Path,
    starter_encoder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, other = str(tiny_bert_reranker), str(tiny_xlmr_reranker)
    monkeypatch.setattr(
        "retrieval.models.rerankers.cross_encoder.tokens_per_second", lambda *_, **__: 50.0
    )
    monkeypatch.setattr(models, "choose_models", lambda *_, **__: Choice("starter", slow, ()))
    for there in (other, "a/model-that-nobody-has", slow):
        monkeypatch.setattr("retrieval.models.registry.STARTER_RERANKER", there)
        found, notices = models.reranker_of("auto", starter_encoder.info, {"device": "cpu"})
        assert found is not None
        if there == other:
            assert found.info.model != CrossEncoderReranker(slow, device="cpu").info.model
            assert f"{slow} reads about 50 tokens a second on this CPU" in notices[-1]
            continue
        assert found.info.model == CrossEncoderReranker(slow, device="cpu").info.model
        assert notices == ()
    named, notices = models.reranker_of(slow, starter_encoder.info, {"device": "cpu"})
    assert named is not None
    assert notices == ()
