"""Evaluations of what people have: runs of other systems, their own tables, what does not fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import retrieval
from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.errors import CorpusError, InvalidInput
from retrieval.types import Document

MINI: dict[str, Any] = {"encoder": "all-MiniLM-L6-v2", "reranker": "maxsim"}
TEXTS = {
    "oak": "The fruit of the oak is the acorn.",
    "bee": "Bees dance to tell each other where flowers are.",
    "rain": "Warm air drops its water where it cools.",
    "cat": "Cats sleep for most of the day.",
}
QUERIES = {"q1": "which tree bears acorns", "q2": "how do bees talk", "q3": "why does it rain"}
QRELS = {"q1": {"oak": 2, "cat": 0}, "q2": {"bee": 1}, "q3": {"rain": 1}}
BACKWARDS = ("cat", "rain", "bee", "oak")


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    root = tmp_path / "beir"
    (root / "qrels").mkdir(parents=True)
    corpus = lines(*({"_id": i, "title": "", "text": t} for i, t in TEXTS.items()))
    (root / "corpus.jsonl").write_text(corpus)
    (root / "queries.jsonl").write_text(lines(*({"_id": i, "text": t} for i, t in QUERIES.items())))
    write_qrels(root, QRELS)
    return root


def write_qrels(root: Path, qrels: dict[str, dict[str, int]]) -> None:
    rows = [f"{q}\t{d}\t{grade}" for q, own in qrels.items() for d, grade in own.items()]
    (root / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows))


def write_run(path: Path, queries: Any = QUERIES, order: Any = BACKWARDS) -> Path:
    rows = [
        f"{q} Q0 {d} {rank} {10 - rank} other"
        for q in queries
        for rank, d in enumerate(order, start=1)
    ]
    path.write_text("\n".join(rows))
    return path


def test_a_run_is_re_ranked_and_another_only_measured(beir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "other.run")
    report = evaluate_folder(
        beir, modes=["dense"], runs={"bm": run}, beside={"theirs": run}, blend="none", **MINI
    )
    rows = {row.name: row for row in report.rows}
    assert list(rows) == ["dense", "dense+rerank", "bm", "bm+rerank", "theirs"]
    assert list(rows["bm"].run["q1"]) == list(BACKWARDS)
    assert rows["bm"].run == rows["theirs"].run
    assert (rows["bm"].ms_per_query, rows["bm"].mode) == (None, None)
    # All four are read, so the second stage's order is the same whoever found them.
    assert rows["bm+rerank"].run == rows["dense+rerank"].run
    assert rows["bm+rerank"].measures["MRR@10"] == 1.0
    assert rows["bm"].measures["MRR@10"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)
    assert rows["bm+rerank"].ms_per_query is not None
    assert rows["bm+rerank"].firsts["q1"].text == TEXTS["oak"]


def test_only_the_first_candidates_are_re_ranked_and_the_others_follow(
    beir: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "other.run")
    report = evaluate_folder(
        beir, modes=(), runs={"bm": run}, candidates=3, blend="none", **MINI
    )  # fmt: skip
    assert [row.name for row in report.rows] == ["bm", "bm+rerank"]
    order = list(report.rows[1].run["q2"])
    assert order[0] == "bee"
    assert set(order[:3]) == set(BACKWARDS[:3])
    assert order[3] == "oak"


def test_the_blend_weighs_the_runs_own_scores(beir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "other.run")
    options: dict[str, Any] = {"modes": (), "runs": {"bm": run}, "blend": "scores", **MINI}
    heavy = evaluate_folder(beir, blend_weight=100.0, **options).rows[1]
    none = evaluate_folder(beir, blend_weight=0.0, **options).rows[1]
    assert heavy.measures["MRR@10"] == 1.0
    assert list(none.run["q1"]) == list(BACKWARDS)
    assert heavy.blend == none.blend == "scores"


def test_a_run_is_measured_without_documents_or_models(beir: Path, tmp_path: Path) -> None:
    (beir / "corpus.jsonl").unlink()
    run = write_run(tmp_path / "other.run")
    report = evaluate_folder(beir, modes=(), beside={"other": run}, measures=["MRR@10"])
    assert [row.name for row in report.rows] == ["other"]
    assert report.rows[0].measures["MRR@10"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)
    assert (report.encoder, report.reranker) == (None, None)
    assert str(run) in report.origin["set"]["files"]


def test_what_a_run_lacks_is_told(beir: Path, tmp_path: Path) -> None:
    part = write_run(tmp_path / "part.run", ["q1", "q9"], ["oak", "gone"])
    report = evaluate_folder(beir, modes=(), runs={"part": part}, **MINI)
    assert any(
        "'part' has no results for 2 of 3 judged queries (such as 'q2')" in notice
        for notice in report.notices
    )
    assert any("not in the collection were not read" in notice for notice in report.notices)
    first, again = report.rows
    assert first.per_query["MRR@10"] == again.per_query["MRR@10"] == {"q1": 1.0, "q2": 0, "q3": 0}
    assert list(again.run["q1"]) == ["oak", "gone"]
    none = write_run(tmp_path / "none.run", ["x1"])
    with pytest.raises(CorpusError, match=r"'none' has results for none of the 3 judged .*'x1'"):
        evaluate_folder(beir, modes=(), beside={"none": none}, **MINI)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"runs": {"dense": "x"}}, "a run cannot be called 'dense': another row is"),
        ({"runs": {"a/b": "x"}}, "a run cannot be called 'a/b'"),
        ({"runs": {"a": "x"}, "beside": {"a": "x"}}, "a run cannot be called 'a'"),
        ({"runs": {"a": "x"}, "rerank": False}, "no second stage is wanted"),
        ({"runs": {"a": "x"}, "reranker": "none"}, "no second stage is wanted"),
        ({"modes": ()}, "no mode was named"),
    ],
)
def test_runs_that_cannot_be_measured_are_refused_at_once(
    beir: Path, options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "retrieval.api.evaluate_folder.ingest", lambda *_, **__: pytest.fail("indexed")
    )
    with pytest.raises(InvalidInput, match=told):
        evaluate_folder(beir, **{**MINI, **options})


def test_relevant_documents_that_are_missing_are_counted(beir: Path) -> None:
    write_qrels(beir, {**QRELS, "q3": {"rain": 1, "fog": 1, "irrelevant": 0}})
    report = evaluate_folder(beir, modes=["sparse"], rerank=False, **MINI)
    assert any(
        notice.startswith("1 of 4 relevant documents are not in the collection 'eval' ('fog')")
        for notice in report.notices
    )


def test_judgements_of_other_documents_are_an_error(beir: Path) -> None:
    write_qrels(beir, {"q1": {"x1": 1}, "q2": {"x2": 1}})
    with pytest.raises(CorpusError, match=r"none of the 2 relevant documents .*name 'x1', 'x2'"):
        evaluate_folder(beir, modes=["sparse"], rerank=False, **MINI)


def test_queries_without_a_relevant_document_are_told(beir: Path) -> None:
    write_qrels(beir, {"q1": {"oak": 1}, "q2": {"bee": 0}})
    report = evaluate_folder(beir, modes=["sparse"], rerank=False, **MINI)
    assert any(
        "1 query has no document that is judged relevant (of 2)" in n for n in report.notices
    )


def test_figures_of_pages_and_sections_are_those_of_their_passages(tmp_path: Path) -> None:
    pages = ["Apples and pears grow on trees. ", "Rain comes from clouds. ", "Snow is cold."]
    offsets = (0, len(pages[0]), len(pages[0]) + len(pages[1]))
    book = Document("book.pdf", "".join(pages), pages=offsets)
    other = Document("other.txt", "Clouds and snow and pears are words of this text.")
    store = tmp_path / "store"
    retrieval.ingest(
        [book, other], "own", store=store, encoder="all-MiniLM-L6-v2", max_tokens=12,
        overlap_tokens=0,
    )  # fmt: skip
    table = tmp_path / "own.csv"
    table.write_text("query,relevant\nwhere does rain come from,book.pdf#page=2\n")
    report = evaluate_folder(
        table, collection="own", store=store, modes=["dense"], rerank=False,
        measures=["MRR@10", "recall@100"],
    )  # fmt: skip
    (row,) = report.rows
    assert next(iter(row.run["2"])) == "book.pdf#page=2"
    assert len(row.run["2"]) == retrieval.Store(store).open("own").count()
    assert row.measures == {"MRR@10": 1.0, "recall@100": 1.0}
    table.write_text("query,relevant\nwhere does rain come from,book.pdf#page=9\n")
    with pytest.raises(CorpusError, match=r"own\.csv:2: 'book\.pdf#page=9'"):
        evaluate_folder(table, collection="own", store=store, modes=["dense"], rerank=False)


def test_a_table_of_ones_own_needs_documents(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text("query,relevant\nx,a\n")
    with pytest.raises(CorpusError, match="come without documents") as caught:
        evaluate_folder(table, **MINI)
    assert "--collection" in str(caught.value)


def test_the_report_says_how_to_make_it_again(beir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "other.run")
    report = evaluate_folder(
        beir, modes=["hybrid"], beside={"theirs": run}, limit=2, api_key=None, **MINI
    )
    told = json.loads(json.dumps(report.as_dict()))
    digest = hashlib.sha256((beir / "qrels" / "test.tsv").read_bytes()).hexdigest()
    assert told["set"]["files"][str(beir / "qrels" / "test.tsv")] == digest
    assert str(run) in told["set"]["files"]
    assert (told["set"]["name"], told["set"]["split"], told["queries"]) == ("beir", "test", 2)
    parameters = told["parameters"]
    assert (parameters["limit"], parameters["candidates"], parameters["depth"]) == (2, 50, 100)
    assert parameters["pipelines"]["hybrid"]["fusion"]["method"] == "dbsf"
    assert parameters["pipelines"]["hybrid"]["blend_weight"] > 0
    assert parameters["manifest"]["encoder"]["dimension"] == 384
    assert "api_key" not in parameters
    assert {"two-stage-retrieval", "python", "torch", "ir-measures", "processor"} <= {
        *told["versions"]
    }
    assert told["seeds"] == {"bootstrap": 0}
    assert told["created"].endswith("+00:00")
    assert set(told["rows"][0]["per_query"]) == {"q1", "q2"}


def test_a_compressed_corpus_and_documents_of_a_title_alone(beir: Path) -> None:
    import gzip

    corpus = lines({"_id": "oak", "title": TEXTS["oak"], "text": ""}, {"_id": "b", "text": "Bees."})
    plain = beir / "corpus.jsonl"
    plain.write_text(corpus)
    before = evaluate_folder(beir, modes=["dense"], rerank=False, **MINI).rows[0].run
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    after = evaluate_folder(beir, modes=["dense"], rerank=False, **MINI).rows[0].run
    assert before == after
    assert set(after["q1"]) == {"oak", "b"}
