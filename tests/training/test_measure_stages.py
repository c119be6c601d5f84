"""Stages measured on judged sets: as an evaluation measures them, and nothing twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.measure_stages import measure_stages
from retrieval.api.remembering import RememberingReranker
from retrieval.errors import CorpusError, InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.types import Document, RerankerInfo, Scores

RUNNING: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
TEXTS = {
    "oak": "The oak is a slow growing tree whose fruit is the acorn.",
    "willow": "Willows grow beside rivers and their bark gave us aspirin.",
    "birch": "Birches are the first trees that grow after a fire.",
    "jay": "The acorn is eaten by jays, which forget where they hid some of them.",
    "bee": "Bees dance to tell the way to flowers, and sleep in the hive.",
    "beijing": "北京是中国的首都，上海是中国最大的城市。",
}
QUERIES = {
    "1": ("fruit of the oak", {"oak": 2, "jay": 1}),
    "2": ("who eats the acorn?", {"jay": 1}),
    "3": ("trees after a fire", {"birch": 1}),
    "4": ("北京", {"beijing": 1}),
}


class FirstLetter:
    """A reranker that likes passages that begin with one letter, and counts what it reads."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self.read: list[tuple[str, str]] = []
        self.info = RerankerInfo(f"likes-{letter}", f"sha256:{letter}", "cross-encoder", 512)

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.read += pairs
        values = [float(text.startswith(self.letter)) for _, text in pairs]
        return Scores(np.array(values), np.zeros(len(pairs), dtype=np.bool_))

    def relevance(self, scores: Any) -> Any:
        return 1 / (1 + np.exp(-scores))


def judged(
    name: str = "trees", queries: dict[str, tuple[str, dict[str, int]]] = QUERIES
) -> JudgedQueries:
    documents = [Document(id_, text, title=id_.title()) for id_, text in TEXTS.items()]
    return JudgedQueries(
        name, "dev", {id_: text for id_, (text, _) in queries.items()},
        {id_: dict(grades) for id_, (_, grades) in queries.items()},
        corpus=lambda: iter(documents),
    )  # fmt: skip


def write_folder(folder: Path, split: str = "dev") -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": id_, "title": id_.title(), "text": text} for id_, text in TEXTS.items()]
    asked = [{"_id": id_, "text": text} for id_, (text, _) in QUERIES.items()]
    for name, rows in (("corpus", corpus), ("queries", asked)):
        lines = "".join(json.dumps(row) + "\r\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    grades = [f"{q}\t{d}\t{g}\n" for q, (_, own) in QUERIES.items() for d, g in own.items()]
    (folder / "qrels" / f"{split}.tsv").write_text("".join(["q\td\tscore\n", *grades]), "utf-8")
    return folder


def test_values_are_those_of_an_evaluation(
    tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    folder = write_folder(tmp_path / "trees")
    found = measure_stages(
        [load_judgements(folder, "dev")], encoder=tiny_bert_encoder, reranker=tiny_bert_reranker,
        candidates=3, options=RUNNING,
    )  # fmt: skip
    report = evaluate_folder(
        folder, split="dev", modes=["dense", "hybrid"], encoder=str(tiny_bert_encoder),
        reranker=str(tiny_bert_reranker), candidates=3, measures=["nDCG@10"], **RUNNING,
    )  # fmt: skip
    rows = {(row.mode, row.reranked): row.per_query["nDCG@10"] for row in report.rows}
    assert [(one.set, one.split, one.system) for one in found] == [
        ("trees", "dev", "dense"), ("trees", "dev", "hybrid"), ("trees", "dev", "two-stage"),
    ]  # fmt: skip
    assert found[0].per_query == rows["dense", False]
    assert found[1].per_query == rows["hybrid", False]
    assert found[2].per_query == rows["hybrid", True]
    assert found[2].value == pytest.approx(np.mean(list(rows["hybrid", True].values())))
    assert found[1].reranker is None
    assert found[2].reranker == str(tiny_bert_reranker)


def test_sets_that_share_a_file_of_documents_are_encoded_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "trees")
    write_folder(folder, "test")
    sets = [load_judgements(folder, "dev"), judged("other"), load_judgements(folder)]
    encoder = HashingEncoder()
    found = measure_stages(sets, encoder=encoder, systems=["dense"])
    assert [(one.set, one.split) for one in found] == [
        ("trees", "dev"), ("other", "dev"), ("trees", "test"),
    ]  # fmt: skip
    assert len(encoder.encoded) == 2 * len(TEXTS)


def test_several_rerankers_read_the_same_candidates() -> None:
    likes_oak, likes_jay = FirstLetter("Oak"), FirstLetter("Jay")
    found = measure_stages(
        [judged()], encoder=HashingEncoder(), reranker=[likes_oak, likes_jay],
        systems=["two-stage"], blend="none",
    )  # fmt: skip
    assert [one.reranker for one in found] == ["likes-Oak", "likes-Jay"]
    assert set(likes_oak.read) == set(likes_jay.read)
    assert found[0].per_query["2"] < found[1].per_query["2"] == 1.0
    assert found[1].per_query["1"] < found[0].per_query["1"]


def test_a_remembering_reranker_scores_no_pair_twice() -> None:
    inner = FirstLetter("Jay")
    reranker = RememberingReranker(inner)
    first = measure_stages([judged()], encoder=HashingEncoder(), reranker=reranker)
    read = len(inner.read)
    again = measure_stages([judged()], encoder=HashingEncoder("b"), reranker=reranker)
    assert len(inner.read) == read == len(QUERIES) * len(TEXTS)
    assert [one.per_query for one in again] == [one.per_query for one in first]


def test_few_candidates_limit_what_is_read() -> None:
    inner = FirstLetter("Jay")
    measure_stages([judged()], encoder=HashingEncoder(), reranker=inner, candidates=2)
    assert len(inner.read) == 2 * len(QUERIES)


def test_documents_that_are_missing_are_told_of() -> None:
    queries = {**QUERIES, "5": ("penguins", {"penguin": 1})}
    [one] = measure_stages([judged(queries=queries)], encoder=HashingEncoder(), systems=["dense"])
    assert one.per_query["5"] == 0
    assert "'penguin'" in one.notices[0]
    with pytest.raises(CorpusError, match="none of the 1 relevant"):
        measure_stages(
            [judged(queries={"5": ("penguins", {"penguin": 1})})],
            encoder=HashingEncoder(), systems=["dense"],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "more", "message"),
    [
        ([], {}, "nothing was given"),
        ([judged()], {}, "no reranker was given"),
        ([judged()], {"systems": ["sparse"]}, "the system is 'sparse'"),
        ([judged()], {"systems": ["dense"], "measure": "accuracy"}, "accuracy"),
        ([judged()], {"reranker": "none"}, "means none"),
        ([JudgedQueries("own", "dev", {"1": "?"}, {"1": {"a": 1}})], {"systems": ["dense"]},
         "without documents"),
        ([judged(queries={})], {"systems": ["dense"]}, "no judged query"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(
    sets: list[JudgedQueries], more: dict[str, Any], message: str
) -> None:
    with pytest.raises((InvalidInput, CorpusError), match=message):
        measure_stages(sets, encoder=HashingEncoder(), **more)
