"""The judged sets that both stages are measured on, as collections that a user would make."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _judged import load

from retrieval import Document, TwoStageRetriever, ingest
from retrieval import open as open_collection
from retrieval.evaluation.beir import load_beir
from retrieval.evaluation.judged import JudgedQueries
from retrieval.types import Encoder, Reranker

PYTHON_DOCS = "python-docs"
FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"


@dataclass(frozen=True, slots=True)
class Case:
    """A split of a set.

    Attributes:
        folder, split: where it is.
        half: 0 or 1 takes every second query from the first or the second on: a set without a
            training split is cut in two.
        language: of its texts.
    """

    folder: str
    split: str
    half: int | None = None
    language: str = "en"

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.split}" + ("" if self.half is None else f" half {self.half}")


TRAIN = (
    Case("scifact", "train"),
    Case("pubmedqa", "train"),
    Case("musique-train100", "test"),  # drawn from MuSiQue's training split
    Case("xquad-en", "test", half=0),
    Case(PYTHON_DOCS, "dev"),
)
TEST = (
    Case("scifact", "test"),
    Case("cranfield", "test"),
    Case("cisi", "test"),
    Case("npl", "test"),
    Case("pubmedqa", "test"),
    Case("xquad-en", "test", half=1),
    Case(PYTHON_DOCS, "test"),
)


def queries_of(data: Path, case: Case, most: int | None) -> JudgedQueries:
    """The split with `most` of its queries at equal distances, so that each part of it counts."""
    place = FIXTURES if case.folder == PYTHON_DOCS else data
    beir = load_beir(place / case.folder, case.split)
    names = list(beir.qrels)
    if case.half is not None:
        names = names[case.half :: 2]
    if most is not None and most < len(names):
        names = [names[row * len(names) // most] for row in range(most)]
    return replace(
        beir,
        qrels={name: beir.qrels[name] for name in names},
        queries={name: beir.queries[name] for name in names},
    )


def documents_of(
    data: Path, case: Case, most: int | None, beir: JudgedQueries
) -> Iterator[Document] | str:
    """What is ingested: the set's documents, judged ones first where there are to be `most`."""
    if case.folder == PYTHON_DOCS:
        return PYTHON_DOCS
    judged = {document for grades in beir.qrels.values() for document in grades}
    passages = load(data, case.folder, case.split).passages
    if most is not None:
        passages = sorted(passages, key=lambda one: one.document_id not in judged)[:most]
    return (Document(one.document_id, one.text, title=one.title) for one in passages)


@contextmanager
def collection(
    documents: Iterator[Document] | str, store: str, encoder: Encoder, reranker: Reranker | None
) -> Iterator[TwoStageRetriever]:
    """A collection of these documents, each one passage, as judgements are of documents."""
    whole: dict[str, None] = {} if isinstance(documents, str) else {"max_tokens": None}
    ingest(documents, "set", store=store, encoder=encoder, **whole)
    with open_collection("set", store=store, encoder=encoder, reranker=reranker) as retriever:
        yield retriever


def missing_sets(data: Path, cases: Sequence[Case]) -> list[str]:
    """The folders that `data` lacks."""
    folders = {case.folder for case in cases if case.folder != PYTHON_DOCS}
    return sorted(name for name in folders if not (data / name / "corpus.jsonl").is_file())
