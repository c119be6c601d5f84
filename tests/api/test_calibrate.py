"""Calibrating a real collection: what is stored, what searches make of it, and when it is void."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import retrieval
from retrieval.api.calibrate import calibrate
from retrieval.cli.main import run
from retrieval.errors import InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.index.store import Store
from retrieval.types import Document

ANIMALS = re.findall(
    r"\w+",
    """
ant bat bee cat cow crab crow deer dog duck eagle eel elk fox frog goat goose hare hawk hen horse
ibis jay koala lark lion llama lynx mole moose moth mouse newt otter owl ox panda pig pony puma
quail rabbit ram rat raven robin rook seal shark sheep skunk slug snail snake spider squid stork
swan tiger toad trout tuna turkey turtle viper wasp whale wolf worm wren yak zebra
""",
)
PLACES = ("desert", "lake", "river", "forest", "island", "mountain", "meadow", "swamp", "cave")


def documents() -> list[Document]:
    return [
        Document(f"{name}.txt", f"The {name} sleeps in the {PLACES[n % 9]} and eats at dusk.")
        for n, name in enumerate(ANIMALS)
    ]


def judged() -> JudgedQueries:
    queries = {name: f"where does the {name} sleep?" for name in ANIMALS}
    return JudgedQueries("animals", "test", queries, {n: {f"{n}.txt": 1} for n in ANIMALS})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    place = Store(tmp_path_factory.mktemp("store"))
    retrieval.ingest(documents(), "zoo", store=place, encoder="all-MiniLM-L6-v2")
    return place


OPTIONS: dict[str, Any] = {"mode": "dense", "candidates": 20}


def opened(store: Store) -> Any:
    return retrieval.open("zoo", store=store, reranker="maxsim", **OPTIONS)


@pytest.fixture(scope="module")
def report(store: Store) -> Any:
    names = {"strict": "precision:0.8"}
    return calibrate(judged(), "zoo", store=store, reranker="maxsim", names=names, **OPTIONS)


def test_relevance_becomes_a_probability(store: Store, report: Any) -> None:
    assert report.stored
    assert report.calibration.brier < (report.calibration.brier_before or 0)
    assert {one.signal for one in report.tried} == {"stage1", "stage2", "score"}
    assert [one.absolute for one in report.tried if one.signal == "score"] == [False, False]
    with opened(store) as retriever:
        result = retriever.search("where does the otter sleep?")
    assert result.relevance_is == "probability"
    assert result.hits[0].passage.document_id == "otter.txt"
    assert result.hits[0].relevance > 0.5 > result.hits[-1].relevance


def test_a_threshold_by_its_promise_may_leave_nothing(store: Store, report: Any) -> None:
    with opened(store) as retriever:
        for asked in ("recall:0.9", "strict", "precision:0.8", 0.5):
            kept = retriever.search("where does the otter sleep?", min_relevance=asked)
            assert [hit.passage.document_id for hit in kept.hits] == ["otter.txt"], asked
            none = retriever.search("how is steel made?", min_relevance=asked)
            assert none.hits == ()
        # every level is there that so many queries can promise
        assert dict(report.calibration.recall).keys() >= {0.5, 0.9, 0.95}
        looser = retriever.search("where does the otter sleep?", min_relevance="recall:0.955")
    assert len(looser.hits) >= 1


def test_the_promise_is_kept_on_the_judged_queries(store: Store, report: Any) -> None:
    with opened(store) as retriever:
        results = retriever.search_batch(
            list(judged().queries.values()), min_relevance="recall:0.9"
        )
    kept = [
        any(hit.passage.document_id == f"{name}.txt" for hit in result.hits)
        for name, result in zip(ANIMALS, results, strict=True)
    ]
    assert sum(kept) / len(kept) >= 0.9


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("recal:0.9", r"expected a number from 0 to 1, recall:LEVEL.*'strict'"),
        ("recall:1.5", "recall:LEVEL"),
        ("loose", "recall:LEVEL"),
        ("recall:0.999", r"give thresholds up to recall:0.98"),
        (" ", "is an empty text"),
        (1.5, "from 0 to 1"),
    ],
)
def test_what_cannot_be_promised(store: Store, report: Any, asked: Any, words: str) -> None:
    with opened(store) as retriever, pytest.raises(InvalidInput, match=words):
        retriever.search("otter", min_relevance=asked)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mode": "hybrid"}, "mode is 'hybrid', it was 'dense'"),
        ({"candidates": 30}, "the number of candidates is 30, it was 20"),
        ({"rerank": False}, "the reranker is none, it was maxsim)"),
        ({"blend": "none"}, "blend is 'none', it was 'scores'"),
        ({"blend_weight": 3}, "the blend's weight is 3.0, it was 1.0"),
    ],
)
def test_it_is_void_for_anything_else(
    store: Store, report: Any, changed: dict[str, Any], words: str
) -> None:
    with opened(store) as retriever:
        result = retriever.search("where does the otter sleep?", **changed)
        told = [notice for notice in result.notices if "does not hold for this search" in notice]
        assert len(told) == 1
        assert words in told[0]
        assert result.relevance_is != "probability"
        with pytest.raises(InvalidInput, match="a calibration that does not hold"):
            retriever.search("otter", min_relevance="recall:0.9", **changed)


def test_a_default_threshold_is_applied_where_it_can_be(store: Store, report: Any) -> None:
    assert run(["defaults", "zoo", "--store", store.location, "--min-relevance", "strict"]) == 0
    try:
        with opened(store) as retriever:
            assert len(retriever.search("where does the otter sleep?").hits) == 1
            result = retriever.search("where does the otter sleep?", mode="hybrid")
        assert len(result.hits) > 1
        assert any("default min_relevance was not applied" in one for one in result.notices)
    finally:
        assert run(["defaults", "zoo", "--store", store.location, "--clear"]) == 0


def test_too_few_queries_are_refused_and_nothing_is_stored(store: Store, report: Any) -> None:
    before = store.manifest("zoo")
    with pytest.raises(InvalidInput, match="of 30 a relevant candidate was found; at least 50"):
        calibrate(judged(), "zoo", store=store, reranker="none", mode="dense", limit=30)
    with pytest.raises(InvalidInput, match="give thresholds"):
        calibrate(
            judged(), "zoo", store=store, reranker="none", mode="dense", names={"x": "recall:0.999"}
        )
    with pytest.raises(InvalidInput, match="these searches have stage1"):
        calibrate(judged(), "zoo", store=store, reranker="none", mode="dense", signal="stage2")
    assert store.manifest("zoo") == before


def test_a_cascade_reads_less_and_keeps_the_answers(store: Store, tmp_path: Path) -> None:
    place = Store(tmp_path / "own")
    retrieval.ingest(documents(), "zoo", store=place, encoder="all-MiniLM-L6-v2")
    options: Any = {"store": place, "reranker": "maxsim", "mode": "dense"}
    made = calibrate(judged(), "zoo", find_cascade=True, **options).calibration
    assert made.cascade is not None
    drop, keep = made.cascade
    with retrieval.open("zoo", **options) as retriever:
        whole = retriever.search("where does the otter sleep?")
        part = retriever.search("where does the otter sleep?", cascade=True)
    assert part.reranked < whole.reranked
    assert part.hits[0].passage.document_id == "otter.txt"
    for hit in part.hits:
        assert hit.stage1_score >= drop
        assert (hit.stage2_score is None) == (hit.stage1_score >= keep)
    assert [hit.rank for hit in part.hits] == list(range(1, len(part.hits) + 1))
    assert any("settled all but" in notice for notice in part.notices)


def test_a_cascade_that_nobody_calibrated(store: Store, report: Any) -> None:
    with opened(store) as retriever:
        with pytest.raises(InvalidInput, match="its calibration has none"):
            retriever.search("otter", cascade=True)
        with pytest.raises(InvalidInput, match="no calibration that holds"):
            retriever.search("otter", cascade=True, mode="hybrid")


def test_first_stages_alone_get_a_scale(store: Store, tmp_path: Path) -> None:
    place = Store(tmp_path / "own")
    retrieval.ingest(documents(), "zoo", store=place, encoder="all-MiniLM-L6-v2")
    calibrate(judged(), "zoo", store=place, reranker="none", mode="sparse")
    with retrieval.open("zoo", store=place, reranker="none", mode="sparse") as retriever:
        result = retriever.search("where does the otter sleep?", min_relevance="recall:0.9")
    assert result.relevance_is == "probability"
    assert [hit.passage.document_id for hit in result.hits] == ["otter.txt"]


def test_the_command(
    store: Store, report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.csv"
    rows = [f"where does the {name} sleep?,{name}.txt" for name in ANIMALS]
    own.write_text("\n".join(["query,relevant", *rows]), encoding="utf-8")
    command = ["calibrate", str(own), "--collection", "zoo", "--store", store.location]
    command += ["--reranker", "maxsim", "--mode", "dense", "--candidates", "20", "--dry-run"]
    written_to = ["--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    assert run([*command, "--name", "safe=recall:0.95", *written_to]) == 0
    shown = capsys.readouterr().out
    assert "keeps 95% of the relevant candidates" in shown
    assert "Not stored." in shown
    written = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert written["calibration"]["names"] == {"safe": "recall:0.95"}
    assert written["before"].keys() == {"brier", "ece"}
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "keeps 95% of the relevant candidates" in page
    assert "http" not in page
    assert sum(written["histogram"]["relevant"]) == written["calibration"]["relevant"]
    assert store.manifest("zoo").tuning.calibration == report.calibration
    assert run([*command, "--name", "safe"]) == 2
    assert "expected NAME=THRESHOLD" in capsys.readouterr().err
