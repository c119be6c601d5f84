"""A collection's own defaults: who has precedence, what is left out, and that a search says so."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from numpy.typing import NDArray

import retrieval
from retrieval.cli.main import run
from retrieval.errors import InvalidInput
from retrieval.index.store import Store
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Document, Fusion, RerankerInfo, Scores, SearchDefaults


class ReverseReranker:
    """Likes best what the first stage liked least: the order of pairs, turned around."""

    info = RerankerInfo("reverse", "sha256:reverse", "cross-encoder", 512, default_blend="scores")

    def score(self, pairs: Any, *, progress: Any = None) -> Scores:
        return Scores(np.arange(len(pairs), dtype=np.float64), np.zeros(len(pairs), dtype=bool))

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1.0 / (1.0 + np.exp(-scores))


TEXTS = ["red apples", "green apples and pears", "rain on Monday", "apples in the rain"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    documents = [Document(f"d{n}", text) for n, text in enumerate(TEXTS)]
    retrieval.ingest(documents, "docs", store=place, encoder=HashingEncoder())
    return place


def opened(store: Store, **given: Any) -> TwoStageRetriever:
    return TwoStageRetriever(HashingEncoder(), store.open("docs"), ReverseReranker(), **given)


def test_a_search_takes_them_and_names_them(store: Store) -> None:
    store.set_defaults("docs", SearchDefaults(mode="sparse", candidates=2, chosen="today"))
    with opened(store) as retriever:
        result = retriever.search("apples", top_k=1)
    assert result.mode == "sparse"
    assert result.reranked == 2
    assert "By the defaults of 'docs', chosen today: mode=sparse, candidates=2." in result.notices


def test_what_a_search_or_a_retriever_says_has_precedence(store: Store) -> None:
    store.set_defaults("docs", SearchDefaults(mode="sparse", rerank=False))
    with opened(store, mode="dense") as retriever:
        assert retriever.search("apples").mode == "dense"
        assert retriever.search("apples").reranker is None
        assert retriever.search("apples", mode="hybrid", rerank=True).reranker == "reverse"
        assert retriever.search("apples", mode="hybrid").mode == "hybrid"


def test_a_default_is_left_out_where_it_would_be_for_something_else(store: Store) -> None:
    fusion = Fusion("rrf", weights=(2, 1, 1))
    chosen = SearchDefaults(fusion=fusion, blend="scores", blend_weight=3.0, candidates=3)
    store.set_defaults("docs", chosen)
    with opened(store) as retriever:
        plan = retriever.plan()
        assert (plan.fusion, plan.blend, plan.second_weight) == (fusion, "scores", 3.0)
        assert retriever.plan(mode="dense").fusion == Fusion()
        assert retriever.plan(blend="none").blend == "none"
        assert retriever.plan(rerank=False).depth == 50
    store.set_defaults("docs", replace(chosen, reranker="another"))
    with opened(store) as retriever:
        assert retriever.plan().second_weight != 3.0
        notices = retriever.search("apples").notices
    assert any("chosen with the reranker another; this search uses reverse" in n for n in notices)


def test_a_weight_outside_of_its_blend_is_refused(store: Store) -> None:
    with opened(store) as retriever:
        with pytest.raises(InvalidInput, match="blend_weight is 2, and the blend is 'none'"):
            retriever.search("apples", blend="none", blend_weight=2)
        with pytest.raises(InvalidInput, match="there is no reranker"):
            retriever.search("apples", rerank=False, blend_weight=2)
        with pytest.raises(InvalidInput, match="from 0 to 1000"):
            retriever.search("apples", blend_weight=-1)


def test_a_weight_decides_the_order(store: Store) -> None:
    with opened(store) as retriever:
        options: Any = {"mode": "sparse", "blend": "scores"}
        first = retriever.search("apples", rerank=False, mode="sparse")
        little = retriever.search("apples", blend_weight=0, **options)
        much = retriever.search("apples", blend_weight=1000, **options)
    ids = [[hit.passage.id for hit in one.hits] for one in (first, little, much)]
    assert ids[0] == ids[1]
    assert ids[2] == ids[0][::-1]


def test_zero_leaves_nothing_out_whatever_the_default_is(store: Store) -> None:
    store.set_defaults("docs", SearchDefaults(min_relevance=0.9))
    with opened(store) as retriever:
        assert len(retriever.search("apples").hits) < len(TEXTS)
        assert len(retriever.search("apples", min_relevance=0).hits) == len(TEXTS)


def test_a_retriever_that_follows_takes_them_within_a_second(store: Store) -> None:
    now = [0.0]
    following = retrieval.FollowingRetriever(
        "docs", store=store, opener=lambda _: opened(store), clock=lambda: now[0]
    )
    with following:
        assert following.search("apples").mode == "hybrid"
        store.set_defaults("docs", SearchDefaults(mode="dense"))
        now[0] += 1.5
        until = time.monotonic() + 10
        while following.search("apples").mode != "dense":
            assert time.monotonic() < until
            time.sleep(0.01)


def test_the_command_shows_sets_and_clears(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["docs", "--store", store.location]
    assert run(["defaults", *place]) == 0
    assert "docs has no defaults of its own" in capsys.readouterr().out
    assert run(["defaults", *place, "--mode", "dense", "--no-rerank", "--weights", "2,1"]) == 0
    assert "default mode" in capsys.readouterr().out
    assert run(["defaults", *place, "--min-relevance", "recall:0.9", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["defaults"]
    assert (shown["mode"], shown["rerank"], shown["min_relevance"]) == (
        "dense",
        False,
        "recall:0.9",
    )
    assert run(["info", *place]) == 0
    assert "default rerank" in capsys.readouterr().out
    assert run(["defaults", *place, "--min-relevance", "1.5"]) == 2
    assert "from 0 to 1" in capsys.readouterr().err
    assert run(["defaults", *place, "--clear"]) == 0
    assert store.manifest("docs").tuning.defaults == SearchDefaults()


def test_indexing_goes_on_and_a_backup_keeps_them(store: Store, tmp_path: Path) -> None:
    store.set_defaults("docs", SearchDefaults(mode="dense"))
    retrieval.ingest([Document("more", "plums")], "docs", store=store, encoder=HashingEncoder())
    assert store.manifest("docs").tuning.defaults.mode == "dense"
    assert run(["backup", "docs", str(tmp_path / "kept.tar.gz"), "--store", store.location]) == 0
    there = str(tmp_path / "other")
    assert run(["restore", str(tmp_path / "kept.tar.gz"), "--store", there]) == 0
    assert Store(there).manifest("docs").tuning.defaults.mode == "dense"
