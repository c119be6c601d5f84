"""What an evaluation reports of a searcher whose every order is known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import InvalidInput
from retrieval.evaluation.evaluate import (
    EvaluationReport,
    GivenRun,
    evaluate,
    report_as_text,
    write_report,
)
from retrieval.types import Blend, Candidate, Hit, Mode, Passage, SearchResult, Timings

QUERIES = {"q1": "first", "q2": "second", "q3": "not judged"}
QRELS = {"q1": {"A": 1}, "q2": {"B": 2, "C": 1}}

# text → mode → passage ids in first-stage order; the document is the first letter.
ORDERS = {
    "first": {"dense": ["B1", "B2", "A1", "C1"], "sparse": ["A2", "B1"], "hybrid": []},
    "second": {"dense": ["A1", "C1", "C2", "B1"], "sparse": [], "hybrid": ["B1"]},
}


class FakeSearcher:
    """Re-ranks by turning the candidates it may re-rank around."""

    def __init__(self, reranker: str | None = "reverse") -> None:
        self.reranker = reranker
        self.calls: list[dict[str, Any]] = []

    def search_batch(
        self,
        queries: Sequence[str],
        *,
        top_k: int,
        candidates: int | None,
        fetch: int | None,
        mode: Mode | None,
        rerank: bool,
        blend: Blend | None,
        min_relevance: float,
    ) -> list[SearchResult]:
        assert min_relevance == 0  # a collection's default would leave hits out
        assert candidates is not None
        assert mode is not None
        self.calls.append({"queries": list(queries), "top_k": top_k, "fetch": fetch, "mode": mode})
        results = []
        for text in queries:
            found = [
                Candidate(Passage(id_, id_[0], 0, "", 0, 0), 1.0 / rank, rank)
                for rank, id_ in enumerate(ORDERS[text][mode][:fetch], start=1)
            ]
            order = found
            if rerank and self.reranker:
                order = found[:candidates][::-1] + found[candidates:]
            hits = [
                Hit(c.passage, rank, 0.0, None, c.rank, c.score)
                for rank, c in enumerate(order[:top_k], start=1)
            ]
            slow = 100.0 if text == "first" else 300.0
            results.append(
                SearchResult(
                    query=text,
                    hits=tuple(hits),
                    candidates=tuple(found),
                    mode=mode,
                    blend=blend or "none",
                    encoder="fake-encoder",
                    reranker=self.reranker if rerank else None,
                    timings=Timings(1.0, 2.0, slow, 3.0 + slow),
                    notices=(f"{text} was long",),
                )
            )
        return results


def figures(report: EvaluationReport) -> dict[str, dict[str, float]]:
    return {row.name: dict(row.measures) for row in report.rows}


def test_each_mode_has_a_row_for_each_stage() -> None:
    report = evaluate(FakeSearcher(), QUERIES, QRELS, candidates=50)
    assert [row.name for row in report.rows] == [
        "dense", "dense+rerank", "sparse", "sparse+rerank", "hybrid", "hybrid+rerank",
    ]  # fmt: skip
    assert (report.encoder, report.reranker, report.queries) == ("fake-encoder", "reverse", 2)
    assert (report.judgements, report.depth, report.candidates) == (3, 100, 50)


def test_documents_are_ranked_by_their_best_passage() -> None:
    report = evaluate(FakeSearcher(), QUERIES, QRELS, modes=["dense"])
    assert report.runs["dense"] == {
        "q1": {"B": 1.0, "A": 1 / 2, "C": 1 / 3},
        "q2": {"A": 1.0, "C": 1 / 2, "B": 1 / 3},
    }
    # turned around: C1 A1 B2 B1 and B1 C2 C1 A1
    assert report.runs["dense+rerank"] == {
        "q1": {"C": 1.0, "A": 1 / 2, "B": 1 / 3},
        "q2": {"B": 1.0, "C": 1 / 2, "A": 1 / 3},
    }


def test_figures_are_those_worked_out_by_hand() -> None:
    report = evaluate(FakeSearcher(), QUERIES, QRELS, modes=["dense", "hybrid"])
    found = figures(report)
    ideal = 2 + 1 / math.log2(3)
    dense_q2 = (1 / math.log2(3) + 2 / math.log2(4)) / ideal
    assert found["dense"]["nDCG@10"] == pytest.approx((1 / math.log2(3) + dense_q2) / 2)
    assert found["dense"]["MRR@10"] == pytest.approx(0.5)
    assert found["dense"]["recall@100"] == 1.0
    assert found["dense+rerank"]["nDCG@10"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    # hybrid finds nothing for q1 (a zero in the mean) and one of two for q2
    assert found["hybrid"]["nDCG@10"] == pytest.approx((0 + 2 / ideal) / 2)
    assert found["hybrid"]["recall@100"] == 0.25


def test_what_lies_below_the_candidates_follows_so_that_recall_compares() -> None:
    report = evaluate(FakeSearcher(), QUERIES, QRELS, modes=["dense"], candidates=2, depth=4)
    assert list(report.runs["dense+rerank"]["q2"]) == ["C", "A", "B"]
    found = figures(report)
    assert found["dense"]["recall@100"] == found["dense+rerank"]["recall@100"] == 1.0
    deeper = evaluate(FakeSearcher(), QUERIES, QRELS, modes=["dense"], candidates=500)
    assert deeper.depth == 500


def test_only_judged_queries_are_searched_once_a_mode_in_batches_with_progress() -> None:
    searcher, told = FakeSearcher(), []
    evaluate(
        searcher,
        QUERIES,
        QRELS,
        modes=["dense", "dense", "sparse"],
        batch_size=1,
        progress=lambda *event: told.append(event),
    )
    assert [(call["mode"], call["queries"]) for call in searcher.calls] == [
        ("dense", ["first"]), ("dense", ["second"]), ("sparse", ["first"]), ("sparse", ["second"]),
    ]  # fmt: skip
    assert all(call["top_k"] == call["fetch"] == 100 for call in searcher.calls)
    assert told == [
        ("dense", 0, 2), ("dense", 1, 2), ("dense", 2, 2),
        ("sparse", 0, 2), ("sparse", 1, 2), ("sparse", 2, 2),
    ]  # fmt: skip


def test_times_are_medians_of_each_stage() -> None:
    first, second = evaluate(FakeSearcher(), QUERIES, QRELS, modes=["dense"]).rows
    assert (first.ms_per_query, second.ms_per_query) == (3.0, 203.0)


@pytest.mark.parametrize(("rerank", "reranker"), [(False, "reverse"), (True, None)])
def test_without_a_second_stage_there_are_only_first_stage_rows(
    rerank: bool, reranker: str | None
) -> None:
    report = evaluate(FakeSearcher(reranker), QUERIES, QRELS, modes=["dense"], rerank=rerank)
    assert [row.name for row in report.rows] == ["dense"]
    assert report.reranker is None


def test_the_blend_is_passed_on_and_reported() -> None:
    report = evaluate(FakeSearcher(), QUERIES, QRELS, modes=["dense"], blend="rrf")
    assert [row.blend for row in report.rows] == ["none", "rrf"]
    assert "blended (rrf)" in report_as_text(report)


def test_modes_need_a_retriever() -> None:
    with pytest.raises(InvalidInput, match="dense, sparse, hybrid cannot be searched without"):
        evaluate(None, QUERIES, QRELS)


def test_little_that_is_judged_is_told_where_the_set_judges_much() -> None:
    """Five judgements a query allow half of the first ten; a row with a fifth of that is named."""
    qrels = {query: {f"judged-{n}": 1 for n in range(6)} for query in ("q1", "q2")}
    found = {"judged-0": 2.0} | {f"other-{n}": 1.0 - n / 100 for n in range(9)}
    run = GivenRun("new", dict.fromkeys(qrels, found))
    report = evaluate(None, QUERIES, qrels, modes=(), runs=[run])
    (told,) = report.notices
    assert "few are judged (new 10%; the judgements would allow 60%)" in told
    sparse = {query: {"judged-0": 1} for query in qrels}
    assert evaluate(None, QUERIES, sparse, modes=(), runs=[run]).notices == ()


def test_the_json_form_is_stable() -> None:
    report = evaluate(FakeSearcher(), QUERIES, QRELS, modes=["dense"], measures=["rr@10"])
    assert json.loads(json.dumps(report.as_dict())) == {
        "encoder": "fake-encoder",
        "reranker": "reverse",
        "queries": 2,
        "judgements": 3,
        "depth": 100,
        "candidates": 50,
        "batch_size": 16,
        "measures": ["MRR@10"],
        "rows": [
            {
                "name": "dense",
                "mode": "dense",
                "reranked": False,
                "blend": "none",
                "measures": {"MRR@10": 0.5},
                "intervals": {"MRR@10": [0.5, 0.5]},
                "judged_at_10": 0.5,
                "ms_per_query": 3.0,
                "per_query": {"q1": {"MRR@10": 0.5}, "q2": {"MRR@10": 0.5}},
            },
            {
                "name": "dense+rerank",
                "mode": "dense",
                "reranked": True,
                "blend": "none",
                "measures": {"MRR@10": 0.75},
                "intervals": {"MRR@10": [0.5, 1.0]},
                "judged_at_10": 0.5,
                "ms_per_query": 203.0,
                "per_query": {"q1": {"MRR@10": 0.5}, "q2": {"MRR@10": 1.0}},
            },
        ],
        "notices": ["first was long", "second was long"],
    }


def test_the_table_shows_every_row_and_measure() -> None:
    text = report_as_text(evaluate(FakeSearcher(), QUERIES, QRELS))
    assert "2 queries, 3 judgements; encoder fake-encoder, reranker reverse on 50 of 100" in text
    table = [line.split() for line in text.splitlines() if line.startswith(("first", "dense"))]
    assert table[0] == ["first", "stage", "second", "stage", "nDCG@10", "MRR@10", "recall@100",
                        "ms/query"]  # fmt: skip
    assert table[1][:2] == ["dense", "-"]
    assert table[2][:2] == ["dense", "rerank"]
    assert table[1][3:] == ["0.5000", "1.0000", "3.0"]
    assert "note: first was long" in text


def test_files_are_written_and_can_be_measured_again(tmp_path: Path) -> None:
    report = evaluate(FakeSearcher(), QUERIES, QRELS)
    write_report(report, json_file=tmp_path / "out.json", runs_folder=tmp_path / "runs")
    assert json.loads((tmp_path / "out.json").read_text()) == report.as_dict()
    judged = [line.split() for line in (tmp_path / "runs" / "qrels.txt").read_text().splitlines()]
    assert {(q, d): int(grade) for q, _, d, grade in judged} == {
        (q, d): grade for q, grades in QRELS.items() for d, grade in grades.items()
    }
    written = (tmp_path / "runs" / "dense+rerank.run").read_text().splitlines()
    assert "".join(line.split()[2] for line in written) == "CABBCA"
    assert {line.split()[5] for line in written} == {"dense+rerank"}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"modes": []}, "no mode"),
        ({"measures": []}, "no measure"),
        ({"measures": ["nonsense"]}, "no measure 'nonsense'"),
        ({"candidates": 0}, "candidates is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"batch_size": True}, "batch_size is True"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_any_search(
    wrong: dict[str, Any], complaint: str
) -> None:
    searcher = FakeSearcher()
    with pytest.raises(InvalidInput, match=complaint):
        evaluate(searcher, QUERIES, QRELS, **wrong)
    assert searcher.calls == []


def test_judgements_without_texts_and_texts_without_judgements_are_refused() -> None:
    with pytest.raises(InvalidInput, match="1 judged queries have no text, the first is 'q2'"):
        evaluate(FakeSearcher(), {"q1": "first"}, QRELS)
    with pytest.raises(InvalidInput, match="no query is judged"):
        evaluate(FakeSearcher(), QUERIES, {"q1": {}})
