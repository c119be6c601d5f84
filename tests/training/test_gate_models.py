"""The gate on models: all combinations measured, each once, and the command's exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.gate import gate
from retrieval.cli.main import run
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.gate import GateReport, GateRule
from retrieval.evaluation.judged import JudgedQueries
from retrieval.training.examples import TrainingExample
from retrieval.types import Document, FloatArray, RerankerInfo, Scores

WORDS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("ana", "olo", "ixi")]


class BlindEncoder(HashingEncoder):
    """Finds nothing: every text has the same vector."""

    def __init__(self) -> None:
        super().__init__("blind")

    def _vectors(self, texts: Sequence[str]) -> FloatArray:
        vectors = np.zeros((len(texts), self.info.dimension), dtype=np.float32)
        vectors[:, 0] = 1.0
        return vectors


class WordReranker:
    """Scores a passage by whether it has the query's word, or hates it."""

    def __init__(self, sign: float) -> None:
        self.sign = sign
        self.read = 0
        self.info = RerankerInfo(f"words{sign:+g}", f"sha256:{sign}", "cross-encoder", 512)

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.read += len(pairs)
        found = [self.sign * (query.split()[-1] in text) for query, text in pairs]
        return Scores(np.array(found, dtype=np.float64), np.zeros(len(pairs), dtype=np.bool_))

    def relevance(self, scores: Any) -> Any:
        return 1 / (1 + np.exp(-scores))


def judged(name: str, split: str = "dev", start: int = 0) -> JudgedQueries:
    """Each query asks for a word that one document has."""
    words = WORDS[start : start + 20]
    documents = [Document(word, f"here {word} sleeps") for word in words]
    return JudgedQueries(
        name, split, {word: f"where is {word}" for word in words},
        {word: {word: 1} for word in words}, corpus=lambda: iter(documents),
    )  # fmt: skip


def outcomes(report: GateReport) -> dict[tuple[str, str, str], str]:
    return {(row.set, row.system, row.new): row.outcome for row in report.rows}


def test_a_better_encoder_passes_with_every_stage_in_the_table() -> None:
    old, new = BlindEncoder(), HashingEncoder()
    report = gate(
        (old, None), (new, None), task=judged("own"), general=[judged("law", "test", 20)],
        rule=GateRule("not-worse"),
    )  # fmt: skip
    assert report.changed == "encoder"
    assert report.system == "hybrid"
    assert report.before == ("blind", None)
    assert {(row.set, row.system) for row in report.rows} == {
        ("own", "dense"), ("own", "hybrid"), ("law", "dense"), ("law", "hybrid"),
    }  # fmt: skip
    assert outcomes(report)["own", "dense", "encoder"] == "won"
    assert report.passed


def test_a_worse_reranker_is_refused_and_the_encoder_alone_recommended() -> None:
    good, bad = WordReranker(+1), WordReranker(-1)
    old, new = BlindEncoder(), HashingEncoder()
    report = gate(
        (old, good), (new, bad), task=judged("own"), general=[judged("law", "test", 20)],
        rule=GateRule("not-worse"), blend="none", candidates=20,
    )  # fmt: skip
    found = outcomes(report)
    assert found["own", "two-stage", "reranker"] == "lost"
    assert found["law", "two-stage", "both"] == "lost"
    assert found["own", "two-stage", "encoder"] == "equal"
    assert {new for _, system, new in found if system != "two-stage"} == {"encoder"}
    assert not report.passed
    assert report.recommended == "encoder"
    # every passage once an encoder; every pair once a reranker, which both see all of
    assert len(old.encoded) == len(new.encoded) == 40
    assert good.read == bad.read == 2 * 20 * 20


def test_where_the_reranker_alone_is_new_nothing_else_is_in_the_table() -> None:
    report = gate(
        (BlindEncoder(), WordReranker(-1)), (BlindEncoder(), WordReranker(+1)),
        task=judged("own"), blend="none", candidates=20,
    )  # fmt: skip
    assert outcomes(report) == {("own", "two-stage", "reranker"): "won"}
    assert report.passed
    assert "No general set was given" in report.notices[0]


def test_values_are_those_of_an_evaluation(
    tmp_path: Path, tiny_bert_encoder: Path, make_tiny_model: Callable[..., Path]
) -> None:
    own = write_judged(tmp_path / "own", judged("own"))
    law = write_judged(tmp_path / "law", judged("law", "test", 20))
    running: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
    new = make_tiny_model("bert", "encoder", seed=5)
    old_reranker, new_reranker = (make_tiny_model("bert", "reranker", seed=s) for s in (1, 2))
    report = gate(
        (tiny_bert_encoder, old_reranker), (new, new_reranker), task=own, general=[law],
        candidates=4, options=running,
    )  # fmt: skip
    for encoder, reranker, kind in (
        (new, old_reranker, "encoder"),
        (tiny_bert_encoder, new_reranker, "reranker"),
        (new, new_reranker, "both"),
    ):
        alone = evaluate_folder(
            own, split="dev", modes=["hybrid"], encoder=str(encoder), reranker=str(reranker),
            candidates=4, measures=["nDCG@10"], **running,
        )  # fmt: skip
        [row] = [
            row for row in report.deciding(kind)  # type: ignore[arg-type]
            if row.task
        ]  # fmt: skip
        assert row.after == pytest.approx(alone.rows[-1].measures["nDCG@10"])


def write_judged(folder: Path, made: JudgedQueries) -> Path:
    (folder / "qrels").mkdir(parents=True)
    documents = made.documents()
    assert documents is not None
    corpus = [{"_id": one.id, "title": "", "text": one.text} for one in documents]
    queries = [{"_id": id_, "text": text} for id_, text in made.queries.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    grades = [f"{q}\t{d}\t{g}\n" for q, own in made.qrels.items() for d, g in own.items()]
    lines = "".join(["query-id\tcorpus-id\tscore\n", *grades])
    (folder / "qrels" / f"{made.split}.tsv").write_text(lines, "utf-8")
    return folder


def test_the_command_exits_with_3_where_it_does_not_pass(
    tmp_path: Path, make_tiny_model: Callable[..., Path], tiny_bert_encoder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = write_judged(tmp_path / "own", judged("own"))
    law = write_judged(tmp_path / "law", judged("law", "test", 20))
    new = make_tiny_model("bert", "encoder", seed=5)
    command = [
        "train", "gate", "--task", str(own), "--general", str(law), "--encoder", str(new),
        "--encoder-before", str(tiny_bert_encoder), "--reranker-before", "none",
        "--engine", "transformers", "--json", str(tmp_path / "gate.json"),
    ]  # fmt: skip
    assert run([*command]) == 3
    shown = capsys.readouterr()
    assert "The new encoder: does not pass" in shown.out
    assert shown.out.rstrip().endswith("Keep the models before: nothing that is new passes.")
    report = json.loads((tmp_path / "gate.json").read_text("utf-8"))
    assert (report["passed"], report["system"]) == (False, "hybrid")
    assert run([*command, "--need", "not-worse", "--most-loss", "1"]) == 0
    assert "Take the new encoder." in capsys.readouterr().out
    lines = json.dumps({"query": "where is bolo", "pos": ["here bolo sleeps"], "neg": []})
    (tmp_path / "train.jsonl").write_text(f"{lines}\n", "utf-8")
    assert run([*command, "--train", str(tmp_path / "train.jsonl")]) == 2
    assert "of 1 training queries are queries of the" in capsys.readouterr().err
    assert run([*command[:-4], "--limit", "3", "--measure", "accuracy"]) == 2


def test_sets_that_were_trained_on_are_refused() -> None:
    example = TrainingExample("Where is BANA?", ("here bana sleeps",), where="own.jsonl:3")
    pair: dict[str, Any] = {"before": (BlindEncoder(), None), "after": (HashingEncoder(), None)}
    with pytest.raises(InvalidInput, match=r"own\.jsonl:3: 'Where is BANA"):
        gate(**pair, task=judged("own"), trained_on=[example])
    report = gate(**pair, task=judged("own"), trained_on=[example], allow_leaks=True)
    assert "1 training queries are queries of these sets" in report.notices[0]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ((HashingEncoder(), None), (HashingEncoder(), None), r"are both hashing\. "),
        ((HashingEncoder(), WordReranker(1)), (HashingEncoder(), None), "on one side only"),
        ((HashingEncoder(), WordReranker(1)), (HashingEncoder(), WordReranker(1)),
         r"are both hashing and words\+1\. "),
    ],
)  # fmt: skip
def test_what_is_no_change_is_refused(before: Any, after: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        gate(before, after, task=judged("own"))


def test_sets_are_given_once_and_must_be_there(tmp_path: Path) -> None:
    pair = (HashingEncoder(), None)
    with pytest.raises(InvalidInput, match="'own', split 'dev', was given twice"):
        gate(pair, (BlindEncoder(), None), task=judged("own"), general=[judged("own")])
    with pytest.raises(CorpusError, match="is not there"):
        gate(pair, (BlindEncoder(), None), task=tmp_path / "none")
