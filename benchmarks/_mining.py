"""SciFact's training queries as something to mine for, and what is known to answer them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retrieval.evaluation.beir import load_beir, splits
from retrieval.training.examples import TrainingExample
from retrieval.types import Encoder, Encoding, FloatArray

ALIKE = 0.6
"""Share of words in common from which two queries are in nearly the same words."""


class KnownVectors:
    """An encoder that computes each text once, for all systems."""

    def __init__(self, inner: Encoder) -> None:
        self.info = inner.info
        self.token_counter = inner.token_counter
        self._inner = inner
        self._passages: dict[str, FloatArray] = {}
        self._queries: dict[str, FloatArray] = {}

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        missing = [one for one in dict.fromkeys(passages) if one not in self._passages]
        if missing:
            made = self._inner.encode_passages(missing, progress=progress).vectors
            self._passages.update(zip(missing, made, strict=True))
        none = np.zeros(len(passages), dtype=np.int64)
        rows = np.stack([self._passages[one] for one in passages])
        return Encoding(rows, none, none.astype(np.bool_))

    def encode_queries(self, queries: Sequence[str], *, progress: Any = None) -> FloatArray:
        missing = [one for one in dict.fromkeys(queries) if one not in self._queries]
        if missing:
            made = self._inner.encode_queries(missing, progress=progress)
            self._queries.update(zip(missing, made, strict=True))
        return np.stack([self._queries[one] for one in queries])


@dataclass
class Task:
    """Queries with one labelled document each, and the labels that nobody who mines is shown.

    Attributes:
        queries: id → text. documents: likewise.
        positives: query id → the document that is shown.
        answers: query id → all documents that any split labels for it, or for a query in nearly
            the same words.
        encoder: of all systems.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    positives: dict[str, str]
    answers: dict[str, set[str]]
    encoder: KnownVectors
    _ranks: dict[str, dict[str, int]] = field(default_factory=dict)

    def examples(self) -> list[TrainingExample]:
        return [
            TrainingExample(
                self.queries[query], (self.documents[one],), query_id=query, positive_ids=(one,)
            )
            for query, one in self.positives.items()
        ]

    def ranked(self, depth: int) -> dict[str, list[str]]:
        """Of each query, the nearest documents."""
        return {query: list(own)[:depth] for query, own in self.ranks().items()}

    def ranks(self) -> dict[str, dict[str, int]]:
        """Of each query, every document's rank from 1, best first."""
        if not self._ranks:
            ids = list(self.documents)
            passages = self.encoder.encode_passages(list(self.documents.values())).vectors
            queries = self.encoder.encode_queries([self.queries[one] for one in self.positives])
            order = np.argsort(-(queries @ passages.T), axis=1, kind="stable")
            for query, row in zip(self.positives, order, strict=True):
                self._ranks[query] = {ids[at]: rank for rank, at in enumerate(row, start=1)}
        return self._ranks

    def cosine(self, query: str, document: str) -> float:
        one = self.encoder.encode_queries([self.queries[query]])[0]
        other = self.encoder.encode_passages([self.documents[document]]).vectors[0]
        return float(one @ other)

    def as_sentence_transformer(self) -> _AsSentenceTransformer:
        """What mine_hard_negatives asks of a model, with these vectors."""
        return _AsSentenceTransformer(self.encoder)


class _AsSentenceTransformer:
    def __init__(self, encoder: KnownVectors) -> None:
        import torch

        self.device = torch.device("cpu")
        self._encoder = encoder

    def encode_document(self, texts: list[str], **_: Any) -> FloatArray:
        return self._encoder.encode_passages(texts).vectors

    def encode_query(self, texts: list[str], **_: Any) -> FloatArray:
        return self._encoder.encode_queries(texts)

    def similarity(self, one: Any, other: Any) -> Any:
        from sentence_transformers.util import cos_sim

        return cos_sim(one, other)

    def similarity_pairwise(self, one: Any, other: Any) -> Any:
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(one, other)


def task_of(data: Path, encoder: KnownVectors, queries: int | None, documents: int | None) -> Task:
    """The task of a part of SciFact's training split, or of all of it."""
    folder = data / "scifact"
    train = load_beir(folder, "train").first(queries)
    whole = {
        one.id: " ".join(part for part in (one.title, one.text) if part)
        for one in train.documents() or ()
    }
    labelled: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    for split in splits(folder):
        judged = load_beir(folder, split)
        texts |= {f"{split}/{id_}": text for id_, text in judged.queries.items()}
        for id_, grades in judged.qrels.items():
            good = {one for one, grade in grades.items() if grade > 0}
            labelled[f"{split}/{id_}"] = good
    positives = {
        id_: next(one for one, grade in grades.items() if grade > 0)
        for id_, grades in train.qrels.items()
        if any(grade > 0 for grade in grades.values())
    }
    answers = {id_: _answers(train.queries[id_], texts, labelled) for id_ in positives}
    if documents is not None:
        first = {one for own in answers.values() for one in own}
        kept = sorted(whole, key=lambda one: one not in first)[: max(documents, len(first))]
        whole = {id_: whole[id_] for id_ in kept}
    return Task(train.queries, whole, positives, answers, encoder)


def false_by_labels(task: Task, query: str, document: str) -> bool:
    """Whether a label says that a negative answers its query."""
    return document in task.answers[query]


def _answers(query: str, texts: dict[str, str], labelled: dict[str, set[str]]) -> set[str]:
    own = _words(query)
    found: set[str] = set()
    for id_, text in texts.items():
        other = _words(text)
        if len(own & other) >= ALIKE * len(own | other):
            found |= labelled[id_]
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
