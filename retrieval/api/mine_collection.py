"""Hard negatives' candidates from a collection: its first stages, and its judged documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import cast

from retrieval.errors import InvalidInput
from retrieval.evaluation.judged import JudgedQueries
from retrieval.search.retriever import TwoStageRetriever
from retrieval.training.mining.candidates import (
    Found,
    MiningQuery,
    Text,
    keys_of,
    passage_name,
)
from retrieval.training.mining.exact import VectorFile
from retrieval.training.mining.settings import MiningSettings
from retrieval.types import FloatArray, Mode, Passage, Where

_MOST_PASSAGES = 64
"""Passages of a judged document among which the one that answers is looked for."""


def judged_queries(judged: JudgedQueries, grade: int) -> list[MiningQuery]:
    """Judged queries with a positive; their passages are filled in batch by batch.

    Raises:
        InvalidInput: there is none.
    """
    queries = []
    for id_, text in judged.queries.items():
        grades = judged.qrels[id_]
        if any(value >= grade for value in grades.values()):
            relevant = {_document(judged, id_, key) for key, value in grades.items() if value > 0}
            queries.append(MiningQuery(text, (), frozenset(relevant), id=id_))
    if not queries:
        raise InvalidInput(
            f"none of the {len(judged.queries):,} judged queries has a document of grade {grade} "
            "or more",
            fix="Give a lower grade, or other judgements.",
        )
    return queries


def _document(judged: JudgedQueries, query: str, key: str) -> str:
    """The document that a key of the judgements means, all or a part of it."""
    part = judged.parts.get(query, {}).get(key)
    return key if part is None else part.document_id


class CollectionCandidates:
    """What a collection's first stages find.

    Args:
        retriever: an open collection.
        settings: which first stages, how deep, and from which grade on documents are positives.
        judged: the judgements, where the queries have come with them.
        where: which passages may become negatives.
        tenant: whose.
    """

    def __init__(
        self,
        retriever: TwoStageRetriever,
        settings: MiningSettings,
        judged: JudgedQueries | None,
        *,
        where: Where | None = None,
        tenant: str | None = None,
    ) -> None:
        self._retriever = retriever
        self._settings = settings
        self._judged = judged
        self._where = where
        self._tenant = tenant
        self._met: dict[str, str] = {}  # text → passage id, of the last batch
        for mode in settings.shares():
            retriever.plan(mode=cast(Mode, mode))  # which says what this collection lacks
        index = retriever.index
        count = index.count(tenant=tenant)
        self.fingerprint = f"{index.manifest.id}/{index.physical}/{count}/{where!r}/{tenant!r}"

    def prepare(
        self, queries: VectorFile, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """See `Candidates`: nothing, a collection is searched as it is."""

    def find(
        self, queries: Sequence[MiningQuery], first: int
    ) -> list[tuple[MiningQuery, list[Found]]]:
        """See `Candidates`."""
        found: list[list[Found]] = [[] for _ in queries]
        documents: list[dict[str, str]] = [{} for _ in queries]  # text → document
        self._met = {}
        for mode in self._settings.shares():
            results = self._retriever.search_batch(
                [query.text for query in queries],
                mode=cast(Mode, mode),
                rerank=False,
                top_k=self._settings.rank_to,
                min_relevance=0,
                where=self._where,
                tenant=self._tenant,
            )
            for row, result in enumerate(results):
                for one in result.candidates:
                    text = self._met_text(one.passage)
                    found[row].append(Found(text, mode, one.rank, one.score))
                    documents[row][text.keys[0]] = one.passage.document_id
        if self._judged is not None:
            filled = self._filled(queries, found)
        else:
            filled = [
                _with_documents(query, own) for query, own in zip(queries, documents, strict=True)
            ]
        return list(zip(filled, found, strict=True))

    def vectors(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """See `Candidates`: those that are stored."""
        ids = {self._met[text]: text for text in texts if text in self._met}
        stored = self._retriever.index.vectors(list(ids), tenant=self._tenant)
        return {ids[id_]: vector for id_, vector in stored.items()}

    def _met_text(self, passage: Passage) -> Text:
        text = _text(passage)
        self._met[text.text] = passage.id
        return text

    def sample(self, most: int) -> Iterator[str]:
        """At most so many of the texts: their ids, by which they come, say nothing of them."""
        passages = islice(self._retriever.index.passages(tenant=self._tenant), most)
        return (one.content for one in passages)

    def _filled(
        self, queries: Sequence[MiningQuery], found: Sequence[Sequence[Found]]
    ) -> list[MiningQuery]:
        """The queries with the passages of their judged documents."""
        assert self._judged is not None
        judged = self._judged
        wanted = {
            _document(judged, query.id, key)
            for query in queries
            for key, grade in judged.qrels[query.id].items()
            if grade >= self._settings.grade or grade <= 0
        }
        stored = self._retriever.index.document_passages(sorted(wanted), tenant=self._tenant)
        for passages in stored.values():
            for passage in passages:
                self._met_text(passage)
        filled = []
        for query, own in zip(queries, found, strict=True):
            positives, negatives = [], []
            for key, grade in judged.qrels[query.id].items():
                group = _group(judged, query.id, key, stored, own)
                if group and grade >= self._settings.grade:
                    positives.append(group)
                elif group and grade <= 0:
                    negatives.append(group)
            filled.append(replace(query, positives=tuple(positives), negatives=tuple(negatives)))
        return filled


def _group(
    judged: JudgedQueries,
    query: str,
    key: str,
    stored: dict[str, tuple[Passage, ...]],
    found: Sequence[Found],
) -> tuple[Text, ...]:
    """The passages that a judgement may mean: of many, those that the first stages found first."""
    part = judged.parts.get(query, {}).get(key)
    passages = stored.get(_document(judged, query, key), ())
    own = [_text(one) for one in passages if part is None or part.covers(one)]
    if len(own) > _MOST_PASSAGES:
        ranks = {one.passage.id: one.rank for one in reversed(found)}
        last = len(found) + 1
        own.sort(key=lambda one: ranks.get(one.id, last))
    return tuple(own[:_MOST_PASSAGES])


def _with_documents(query: MiningQuery, documents: dict[str, str]) -> MiningQuery:
    """The query with the documents that its positives are of, as far as its candidates tell."""
    texts = keys_of(one for group in query.positives for one in group)
    known = {document for key, document in documents.items() if key in texts}
    return replace(query, relevant=query.relevant | known)


def _text(passage: Passage) -> Text:
    name = passage_name(passage.document_id, passage.position, passage.document_passages)
    return Text(passage.content, name)
