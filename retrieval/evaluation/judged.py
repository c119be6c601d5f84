"""Judged queries: what every measurement starts from, whatever file they were read from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from retrieval.splitting.markdown_structure import find_headings
from retrieval.types import Document, Passage


@dataclass(frozen=True, slots=True)
class Part:
    """A page of a document, or what stands under one of its headings: what a judgement may name.

    Attributes:
        document_id: of its document.
        page: from 1; None for a heading.
        heading: as `heading_key` writes it; "" for a page.
    """

    document_id: str
    page: int | None = None
    heading: str = ""

    @property
    def key(self) -> str:
        """What it is called in qrels: `guide.pdf#page=3`, `guide.md#opening-hours`."""
        return f"{self.document_id}#{self.heading if self.page is None else f'page={self.page}'}"

    def covers(self, passage: Passage) -> bool:
        """Whether a passage lies, with its beginning or its end, on the page or in the section."""
        if passage.document_id != self.document_id:
            return False
        if self.page is None:
            return self.heading in headings_of(passage)
        first, last = pages_of(passage)
        return first <= self.page <= last


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries with judgements, and where the documents are.

    Attributes:
        name: of the set.
        split: which of its judgements.
        queries: query id → text, only those with judgements in this split, in the file's order.
        qrels: query id → key → grade, as written (0 and negative grades too), same order. A key
            is a document's id or, where `parts` has it, a part of one.
        corpus: makes an iterator over the documents; None where the set has none.
        parts: query id → key → the page or section that it names, of queries that are judged by
            those.
        typed: of ids as a person typed them, which `resolve` has yet to find in a collection:
            id → where it stands first, as path:line. Empty where the keys are ids.
        files: what the queries and judgements were read from.
        corpus_file: the documents as a file that `ingest` reads, where it does.
    """

    name: str
    split: str
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    corpus: Callable[[], Iterator[Document]] | None = field(default=None, compare=False)
    parts: Mapping[str, Mapping[str, Part]] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = field(default=(), compare=False)
    corpus_file: Path | None = field(default=None, compare=False)

    def first(self, most: int | None) -> JudgedQueries:
        """Only the first so many queries; all for None."""
        if most is None:
            return self
        kept = dict(islice(self.queries.items(), most))
        qrels = {query: self.qrels[query] for query in kept}
        typed = {one: self.typed[one] for own in qrels.values() for one in own if self.typed}
        return replace(self, queries=kept, qrels=qrels, typed=typed)

    def documents(self) -> Iterator[Document] | None:
        """The documents, read as they are iterated; None where the set has none.

        Raises:
            CorpusError: while iterating, where a line is bad; the message names it.
        """
        return None if self.corpus is None else self.corpus()

    def key(self, query_id: str, passage: Passage) -> str:
        """What a hit counts as in `qrels`: its document.

        Where a query is judged by pages or headings, a passage that lies in such a part counts as
        it (in several, as the best of them), and any other passage as itself alone: five passages
        of the right document but of wrong pages fill five ranks.
        """
        parts = self.parts.get(query_id)
        if not parts:
            return passage.document_id
        grades = self.qrels[query_id]
        covering = [key for key, part in parts.items() if part.covers(passage)]
        if covering:
            return max(covering, key=lambda key: grades[key])
        if passage.document_id in grades:
            return passage.document_id
        return f"{passage.document_id}#passage={passage.position}"


def heading_key(heading: str) -> str:
    """A heading as it is compared: words alone, joined by hyphens, letter case set aside.

    So `Opening hours`, `## Opening hours` and a web page's anchor `opening-hours` are one.
    """
    return "-".join(re.findall(r"\w+", heading.casefold())) or heading.strip()


def headings_of(passage: Passage) -> dict[str, str]:
    """The headings that a passage stands under or holds, as written, by their keys."""
    own = [heading.text for heading in find_headings(passage.text)]
    return {heading_key(heading): heading for heading in (*passage.headings, *own)}


def pages_of(passage: Passage) -> tuple[int, int]:
    """The pages on which a passage starts and ends, from 1; (0, 0) where its document has none."""
    first = passage.metadata.get("page")
    if not isinstance(first, int) or isinstance(first, bool):
        return 0, 0
    last = passage.metadata.get("last_page", first)
    return first, last if isinstance(last, int) else first
