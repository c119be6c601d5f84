"""Comparisons from judged queries to the sentence, on tiny models and real files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import retrieval
from retrieval.api import compare_job
from retrieval.api.compare import compare_settings
from retrieval.api.compare_collection import apply_choice, base_setting
from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.errors import CorpusError, InvalidInput, ModelNotFound
from retrieval.evaluation.comparison import ComparisonReport, SettingResult
from retrieval.evaluation.grid import product
from retrieval.evaluation.settings import Setting
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.types import SearchDefaults

RUNNING: dict[str, Any] = {"engine": "transformers", "device": "cpu"}
TEXTS = {
    "oak": "The oak is a slow growing tree whose fruit is the acorn.",
    "willow": "Willows grow beside rivers and their bark gave us aspirin.",
    "birch": "Birches are the first trees that grow after a fire. " * 8,
    "jay": "The acorn is eaten by jays, which forget where they hid some of them.",
    "bee": "Bees dance to tell the way to flowers, and sleep in the hive.",
    "fox": "The quick brown fox jumps over the lazy dog.",
    "beijing": "北京是中国的首都，上海是中国最大的城市。",
}
QUERIES = {
    "1": ("fruit of the oak", {"oak": 2, "jay": 1}),
    "2": ("who eats the acorn?", {"jay": 1}),
    "3": ("trees after a fire", {"birch": 1}),
    "4": ("what do bees dance for?", {"bee": 1}),
    "5": ("北京", {"beijing": 1}),
}


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    return write_judged(tmp_path / "trees", QUERIES)


def write_judged(folder: Path, queries: dict[str, tuple[str, dict[str, int]]]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": id_, "title": id_.title(), "text": text} for id_, text in TEXTS.items()]
    asked = [{"_id": id_, "text": text} for id_, (text, _) in queries.items()]
    for name, rows in (("corpus", corpus), ("queries", asked)):
        lines = "".join(json.dumps(row) + "\r\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    grades = [f"{q}\t{d}\t{g}\n" for q, (_, own) in queries.items() for d, g in own.items()]
    (folder / "qrels" / "test.tsv").write_text("".join(["q\td\tscore\n", *grades]), "utf-8")
    return folder


@pytest.fixture
def grid(tiny_bert_encoder: Path, tiny_bert_reranker: Path) -> list[Setting]:
    return product(
        {
            "encoders": [str(tiny_bert_encoder)],
            "dtypes": ["fp32"],
            "modes": ["hybrid", "dense", "sparse"],
            "rerankers": ["none", str(tiny_bert_reranker)],
            "candidates": ["3"],
            "passages": ["whole"],
        }
    )


def run(judged: Path, settings: list[Setting], output: Path, **more: Any) -> ComparisonReport:
    return compare_settings(judged, settings, output=output, **{**RUNNING, **more})


def test_what_is_measured_is_what_an_evaluation_measures(
    judged: Path,
    grid: list[Setting],
    tmp_path: Path,
    tiny_bert_encoder: Path,
    tiny_bert_reranker: Path,
) -> None:
    report = run(judged, grid, tmp_path / "out")
    expected = evaluate_folder(
        judged, modes=("hybrid", "dense", "sparse"), encoder=str(tiny_bert_encoder),
        reranker=str(tiny_bert_reranker), candidates=3, measures=["nDCG@10"], dtype="fp32",
        **RUNNING,
    )  # fmt: skip
    rows = {(row.mode, row.reranked): row for row in expected.rows}
    assert len(report.results) == len(rows) == 6
    for result in report.results:
        row = rows[result.setting.mode, result.setting.reranker is not None]
        assert result.mean == pytest.approx(row.measures["nDCG@10"])
        assert result.run == {query: list(found) for query, found in row.run.items()}
        assert result.ms > 0
        assert len(result.milliseconds) == len(QUERIES)
    assert report.baseline.setting.mode == "hybrid"
    assert report.baseline.setting.reranker is None
    assert len(report.pairs) == 15


def test_texts_are_encoded_once_and_pairs_scored_once(
    judged: Path,
    tiny_bert_encoder: Path,
    tiny_bert_reranker: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[tuple[str, str]] = []
    scored: list[tuple[str, tuple[str, str]]] = []
    encode, score = BiEncoder.encode_passages, CrossEncoderReranker.score

    def encoding(self: BiEncoder, passages: Any, **more: Any) -> Any:
        encoded.extend((self.engine, text) for text in passages)
        return encode(self, passages, **more)

    def scoring(self: CrossEncoderReranker, pairs: Any, **more: Any) -> Any:
        scored.extend((self.engine, pair) for pair in pairs)
        return score(self, pairs, **more)

    monkeypatch.setattr(BiEncoder, "encode_passages", encoding)
    monkeypatch.setattr(CrossEncoderReranker, "score", scoring)
    monkeypatch.setattr("retrieval.api.compare.estimated_seconds", lambda *a, **k: 1.0)
    monkeypatch.setattr(compare_job, "_times", lambda *a: (1.0,))
    settings = product(
        {
            "encoders": [str(tiny_bert_encoder)],
            "instructions": ["none", "Find: "],
            "rerankers": [str(tiny_bert_reranker)],
            "blends": ["none", "rrf", "scores:0.5", "scores:2"],
            "candidates": ["3", "6"],
            "modes": ["dense", "sparse"],
            "passages": ["whole", "40/0"],
            "dtypes": ["fp32", "bf16"],
        }
    )
    report = run(judged, settings, tmp_path / "out")
    assert len(report.results) == 96
    texts = [one for one in encoded if "costs of a journey" not in one[1]]
    assert set(Counter(texts).values()) == {1}  # once in each number format
    assert set(Counter(text for _, text in texts).values()) == {2}
    assert sum(text.startswith("Birch ") for _, text in texts) > 1  # whole, and in parts
    pairs = [one for one in scored if "costs of a journey" not in one[1][0]]
    assert set(Counter(pairs).values()) == {1}  # whose candidates may differ from the other's
    assert len({engine for engine, _ in pairs}) == 2
    assert len(pairs) < 2 * 8 * 3 * len(QUERIES)


def test_what_is_the_same_once_models_are_known_is_joined(
    judged: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path, tmp_path: Path
) -> None:
    settings = product(
        {
            "encoders": [str(tiny_bert_encoder)],
            "instructions": ["model", "none"],  # the model declares none
            "rerankers": [str(tiny_bert_reranker)],
            "blends": ["auto", "scores"],  # which auto is, of a cross-encoder
            "reads": ["auto", "excerpts", "full"],  # on a CPU auto is excerpts
            "passages": ["default", "128/32"],  # the tiny model reads 128 tokens
        }
    )
    report = run(judged, settings, tmp_path / "out")
    assert [one.name for one in report.results] == ["excerpts", "full"]
    assert report.results[0].setting.blend == "scores"


def test_an_interrupted_comparison_goes_on(
    judged: Path, grid: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_job, "_times", lambda *a: (1.0, 2.0))
    whole = run(judged, grid, tmp_path / "whole")
    out = tmp_path / "out"

    def interrupt(done: int, total: int, result: SettingResult) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(judged, grid, out, on_setting=interrupt)
    assert len(list(out.glob("00*.json"))) == 4
    with pytest.raises(InvalidInput, match="limit was null, and is 3"):
        run(judged, grid, out, resume=True, limit=3)
    with pytest.raises(InvalidInput, match=r"the settings are without .*mode=sparse"):
        run(judged, grid[:4], out, resume=True)
    measured: list[int] = []
    report = run(judged, grid, out, resume=True, on_setting=lambda *a: measured.append(a[0]))
    assert measured == [5, 6]
    assert [one.values for one in report.results] == [one.values for one in whole.results]
    assert report.pairs == whole.pairs
    # nothing is left to do, and the result is the same
    again = run(judged, grid, out, resume=True, on_setting=interrupt)
    assert again.pairs == whole.pairs


def test_changed_judgements_are_noticed(judged: Path, grid: list[Setting], tmp_path: Path) -> None:
    run(judged, grid[:2], tmp_path / "out")
    with (judged / "qrels" / "test.tsv").open("a") as file:
        file.write("5\toak\t1\n")
    with pytest.raises(InvalidInput, match="judgements was"):
        run(judged, grid[:2], tmp_path / "out", resume=True)


@pytest.fixture
def built(judged: Path, tiny_bert_encoder: Path, tmp_path: Path) -> Path:
    store = tmp_path / "store"
    retrieval.ingest(
        judged, "trees", store=store, encoder=str(tiny_bert_encoder), max_tokens=64,
        overlap_tokens=8, dtype="fp32", **RUNNING,
    )  # fmt: skip
    return store


def test_a_collection_is_compared_as_it_is_and_takes_the_choice(
    judged: Path, built: Path, tiny_bert_reranker: Path, tmp_path: Path
) -> None:
    base = base_setting("trees", built)
    lists = {"modes": ["dense", "sparse"], "instructions": ["model", "Find: "]}
    settings = product({**lists, "rerankers": ["none", str(tiny_bert_reranker)]}, base)
    report = run(judged, settings, tmp_path / "out", collection="trees", store=built)
    assert len(report.results) == 6
    chosen = report.choice[0].setting
    said = apply_choice(report, "trees", built)
    assert said.startswith("Searches of trees take from now on: ")
    assert f"mode={chosen.mode}" in said
    manifest = retrieval.Store(built).manifest("trees")
    assert manifest.tuning.defaults.mode == chosen.mode
    assert manifest.tuning.defaults.rerank == (chosen.reranker is not None)
    assert "by retrieval compare on trees test" in manifest.tuning.defaults.chosen
    assert manifest.encoder.query_instruction == (
        "Find: " if chosen.instruction == "Find: " else ""
    )
    again = base_setting("trees", built)
    assert (again.mode, again.reranker is None) == (chosen.mode, chosen.reranker is None)
    with retrieval.open("trees", store=built, reranker=None, **RUNNING) as retriever:
        assert retriever.search("oak").mode == chosen.mode


def test_a_collections_own_defaults_are_the_baseline_and_touch_nothing_else(
    judged: Path, built: Path, tiny_bert_reranker: Path, tmp_path: Path
) -> None:
    store = retrieval.Store(built)
    defaults = SearchDefaults(
        mode="dense", candidates=4, blend="none", reranker=str(tiny_bert_reranker),
        min_relevance=0.999999, dtype="fp32",
    )  # fmt: skip
    store.set_defaults("trees", defaults)
    base = base_setting("trees", built)
    settings = product({"blends": ["none", "rrf"], "modes": ["dense", "hybrid"]}, base)
    report = run(judged, settings, tmp_path / "out", collection="trees", store=built)
    first = report.baseline.setting
    assert (first.mode, first.candidates, first.blend) == ("dense", 4, "none")
    # a threshold of the collection must not decide what is measured
    assert all(len(found) == len(TEXTS) for one in report.results for found in one.run.values())
    apply_choice(report, "trees", built)
    assert store.manifest("trees").tuning.defaults.min_relevance == 0.999999


def test_what_a_collection_was_built_with_is_not_varied_on_it(
    judged: Path, built: Path, tmp_path: Path, make_tiny_model: Callable[..., Path]
) -> None:
    other = make_tiny_model("bert", "encoder", seed=1)
    base = base_setting("trees", built)
    for lists, said in (
        ({"passages": ["64/8", "128/32"]}, "--max-tokens 128 --overlap-tokens 32"),
        ({"encoders": [base.encoder, str(other)]}, f"--encoder {other}"),
    ):
        settings = product(lists, base)
        with pytest.raises(InvalidInput) as error:
            run(judged, settings, tmp_path / "out", collection="trees", store=built)
        assert "Leave --collection out" in str(error.value)
        assert f"retrieval reindex SOURCE --collection trees {said}" in str(error.value)
    with pytest.raises(InvalidInput, match="besides the collection"):
        run(judged, [base], tmp_path / "out", collection="trees", store=built, corpus=str(judged))


def test_a_choice_that_needs_another_index_is_not_applied(
    judged: Path, built: Path, grid: list[Setting], tmp_path: Path
) -> None:
    report = run(judged, grid[:2], tmp_path / "out")  # whole documents
    before = retrieval.Store(built).manifest("trees")
    with pytest.raises(InvalidInput, match="cannot be searched with passages of whole"):
        apply_choice(report, "trees", built)
    assert retrieval.Store(built).manifest("trees") == before


def test_mistakes_are_found_before_any_work(
    judged: Path, grid: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ingest(*args: object, **more: object) -> None:
        raise AssertionError("the corpus was indexed")

    monkeypatch.setattr(compare_job, "ingest", ingest)
    out = tmp_path / "out"
    with pytest.raises(InvalidInput, match="one setting only"):
        run(judged, grid[:1], out)
    with pytest.raises(InvalidInput, match="all given have the same effect"):
        run(judged, [grid[0], grid[0]], out)
    with pytest.raises(InvalidInput, match="no measure"):
        run(judged, grid, out, measure="nDGC@10")
    with pytest.raises(InvalidInput, match="most_minutes"):
        run(judged, grid, out, most_minutes=0.0)
    with pytest.raises(InvalidInput, match="no option 'thread'"):
        run(judged, grid, out, thread=2)
    own = {"encoders": [grid[0].encoder], "rerankers": ["none"]}
    for lists in ({"encoders": [grid[0].encoder, "/no-such"]}, {"rerankers": ["none", "/no-such"]}):
        with pytest.raises(ModelNotFound, match="no-such"):
            run(judged, product({**own, **lists}), out)
    with pytest.raises(InvalidInput, match="'lexical' searches by term weights"):
        run(judged, product({**own, "modes": ["dense", "lexical"]}), out)
    assert not list(tmp_path.glob("out/0*"))


def test_a_grid_that_takes_too_long_is_refused_with_what_would_fit(
    judged: Path, grid: list[Setting], tmp_path: Path
) -> None:
    said: list[str] = []
    run(judged, grid[:2], tmp_path / "fits", most_minutes=60, on_notice=said.append)
    assert said[0].startswith("2 settings need about ")
    with pytest.raises(InvalidInput, match=r"6 settings need about .*asked for 0\.0001 min") as no:
        run(judged, grid, tmp_path / "out", most_minutes=0.0001)
    assert "--limit 1" in str(no.value)


def test_judgements_of_other_documents_are_refused_and_some_are_told(
    grid: list[Setting], tmp_path: Path
) -> None:
    unknown = {"1": ("oak", {"d1": 1}), "2": ("fire", {"d2": 1, "birch": 0})}
    folder = write_judged(tmp_path / "other", unknown)
    with pytest.raises(CorpusError, match="none of the 2 documents that are judged relevant is in"):
        run(folder, grid[:2], tmp_path / "out")
    partly = write_judged(tmp_path / "partly", {**unknown, "3": ("fire", {"birch": 1})})
    report = run(partly, grid[:2], tmp_path / "out2")
    assert "2 of 3 documents that are judged relevant are not in the corpus, such as 'd1'" in str(
        report.notices
    )


def test_a_set_without_documents_needs_them(
    judged: Path, grid: list[Setting], tmp_path: Path
) -> None:
    corpus = (judged / "corpus.jsonl").rename(tmp_path / "corpus.jsonl")
    with pytest.raises(InvalidInput, match="no documents of its own"):
        run(judged, grid[:2], tmp_path / "out")
    report = run(judged, grid[:2], tmp_path / "out", corpus=str(corpus))
    assert report.results[0].mean > 0


def test_judgements_in_a_table_of_ones_own(
    judged: Path, built: Path, grid: list[Setting], tmp_path: Path
) -> None:
    own = tmp_path / "own.csv"
    own.write_bytes(
        b"\xef\xbb\xbfquery,relevant\r\nfruit of the oak,oak\r\n\r\ntrees after a fire,birch\r\n"
    )
    settings = product(
        {"modes": ["dense", "sparse"], "rerankers": ["none"]}, base_setting("trees", built)
    )
    on_collection = run(own, settings, tmp_path / "a", collection="trees", store=built)
    on_corpus = run(own, grid[:2], tmp_path / "b", corpus=str(judged))
    for report in (on_collection, on_corpus):
        assert len(report.baseline.values) == 2
        assert report.best.mean > 0
    own.write_text("query,relevant\nfruit of the oak,elm\n")
    with pytest.raises(CorpusError, match=r"own\.csv:2: 'elm'"):
        run(own, settings, tmp_path / "c", collection="trees", store=built)
