"""Judged sets as collections of the embedded index, one passage per document, and their runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _report import Row
from _texts import SHARED_DATA

from retrieval.evaluation.beir import load_beir
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.metrics import compare
from retrieval.index.bm25 import bm25_info
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.readers.read import read
from retrieval.splitting.splitter import passage_id
from retrieval.types import EncoderInfo, FloatArray, Manifest, Passage, SplitterInfo

PYTHON_DOCS = "python-docs"
"""The standard library's documentation; its questions lie with the tests."""

_QUESTIONS = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / PYTHON_DOCS

Run = dict[str, dict[str, float]]
"""Query id → document id → score."""

UPSERT = 1_000
"""Passages a call of `upsert`: as many as ingestion writes at once, or more."""

LANGUAGE_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Judged:
    """A split of a set: its queries and judgements, and the set's documents as passages."""

    beir: JudgedQueries
    passages: list[Passage]
    document: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.beir.name}/{self.beir.split}"


def load(
    data: Path,
    folder: str,
    split: str,
    documents: int | None = None,
    queries: int | None = None,
) -> Judged:
    """A split of a set below `data`, or of `PYTHON_DOCS`.

    Args:
        documents: only this many of the set's documents, those that are judged first; for --quick.
        queries: only the first N queries.
    """
    own = folder == PYTHON_DOCS
    beir = load_beir(_QUESTIONS if own else data / folder, split)
    whole = list(read(PYTHON_DOCS) if own else beir.documents() or ())
    if queries is not None:
        first = dict(islice(beir.qrels.items(), queries))
        beir = replace(beir, qrels=first, queries={query: beir.queries[query] for query in first})
    if documents is not None:
        judged = {document for grades in beir.qrels.values() for document in grades}
        whole = sorted(whole, key=lambda document: document.id not in judged)[:documents]
        kept = {document.id for document in whole}
        qrels = {
            query: {document: grade for document, grade in grades.items() if document in kept}
            for query, grades in beir.qrels.items()
        }
        qrels = {query: grades for query, grades in qrels.items() if grades}
        beir = replace(beir, qrels=qrels, queries={query: beir.queries[query] for query in qrels})
    # a document without words is in no answer of anyone
    passages = [
        Passage(
            passage_id(document.id, 0), document.id, 0, document.text, 0, len(document.text),
            title=document.title,
        )
        for document in whole
        if f"{document.title}{document.text}".strip()
    ]  # fmt: skip
    return Judged(beir, passages, {passage.id: passage.document_id for passage in passages})


def manifest(
    name: str, dimension: int, passages: Sequence[Passage], language: str = "auto", **more: Any
) -> Manifest:
    """What `retrieval.ingest` would write for these passages, but for the encoder's name."""
    sample = [passage.text for passage in passages[:LANGUAGE_SAMPLE]]
    encoder = EncoderInfo("benchmark", "sha256:0", dimension, "mean", True, "", "", 256)
    return Manifest(name, encoder, SplitterInfo(None, 0), bm25_info(language, sample), **more)


def fill(index: EmbeddedIndex, passages: Sequence[Passage], vectors: FloatArray | None) -> None:
    """Write all passages; without vectors every passage gets the same one."""
    dimension = index.manifest.encoder.dimension
    for start in range(0, len(passages), UPSERT):
        part = passages[start : start + UPSERT]
        if vectors is None:
            rows = np.ones((len(part), dimension), dtype=np.float32)
        else:
            rows = vectors[start : start + UPSERT]
        index.upsert(part, rows)


def difference_rows(
    case: str,
    ours: str,
    qrels: dict[str, dict[str, int]],
    baseline: Run,
    baseline_name: str,
    run: Run,
    measures: Sequence[str],
) -> list[Row]:
    """How much better `run` is, with the 95% interval of a paired bootstrap over queries."""
    rows = []
    for name, found in compare(qrels, baseline, run, measures).items():
        against = f"{case}: {ours} against"
        for metric, value in (
            (f"{name}, better by", found.difference),
            (f"{name}, 95% from", found.low),
            (f"{name}, 95% to", found.high),
        ):
            rows.append(Row(against, baseline_name, metric, round(value, 4), ""))
    return rows


def add_data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=SHARED_DATA,
        help="folder of the judged sets in BEIR layout (../shared/data beside the checkout)",
    )


def missing(data: Path, folders: Sequence[str]) -> list[str]:
    """The folders that `data` lacks."""
    return sorted({folder for folder in folders if not (data / folder / "corpus.jsonl").is_file()})
