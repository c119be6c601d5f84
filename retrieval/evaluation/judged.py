"""Judged queries: what every measurement starts from, whatever file they were read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from retrieval.types import Document, Passage


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries with judgements, and where the documents are.

    Attributes:
        name: of the set.
        split: which of its judgements.
        queries: query id → text, only those with judgements in this split, in the file's order.
        qrels: query id → key → grade, as written (0 and negative grades too), same order. A key
            is a document's id, unless `key` says otherwise.
        corpus: makes an iterator over the documents; None where the set has none.
    """

    name: str
    split: str
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    corpus: Callable[[], Iterator[Document]] | None = field(default=None, compare=False)

    def documents(self) -> Iterator[Document] | None:
        """The documents, read as they are iterated; None where the set has none.

        Raises:
            CorpusError: while iterating, where a line is bad; the message names it.
        """
        return None if self.corpus is None else self.corpus()

    def key(self, query_id: str, passage: Passage) -> str:
        """What a hit counts as in `qrels`: its document."""
        return passage.document_id
