"""Documents, and the passages they are split into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """One text, as a reader yields it, with an id that is the same from run to run.

    Attributes:
        id: names the document in its collection; a document with the same id replaces it.
        text: all of it.
        title: put before every passage that is encoded.
        metadata: JSON values by name; `where=` filters by them.
        source: where the text came from: a path, a path and line, a Python object's name.
        pages: offsets in characters at which the pages, or slides, begin, rising; the first is
            page 1. A page without text begins where the next one does. Empty without pages.

    Example:
        >>> from retrieval import Document
        >>> document = Document("faq-7", "The gate closes at ten.", metadata={"team": "office"})
        >>> document.metadata["team"]
        'office'
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A slice of a document: the unit that is encoded, stored, found and re-ranked.

    Attributes:
        id: uuid5 of document id and position, so that indexing twice writes the same points.
        document_id: id of its document.
        position: place in its document, from 0.
        text: `document.text[start:end]`.
        start: offset of its first character in the document.
        end: offset after its last character in the document.
        title: title of the document.
        headings: the headings above the passage, outermost first.
        metadata: metadata of the document.
        source: source of the document.
        document_hash: hash of the document's content; it shows whether the document has changed.
        document_passages: how many passages the document has; fewer in an index means that a run
            was interrupted.

    Example:
        >>> from retrieval import Passage
        >>> passage = Passage("p", "rules.md", 0, "Paid in ten days.", 9, 26, headings=("Travel",))
        >>> passage.content
        'Travel Paid in ten days.'
    """

    id: str
    document_id: str
    position: int
    text: str
    start: int
    end: int
    title: str = ""
    headings: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    document_hash: str = ""
    document_passages: int = 1

    @property
    def content(self) -> str:
        """What the models read: title, headings and text, joined by a blank (BEIR's convention)."""
        return " ".join(part for part in (self.title, *self.headings, self.text) if part)


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of the input that could not be used, and why.

    Attributes:
        source: the file, or its row.
        reason: a sentence.
        line: of the file, from 1; None where it is not about one line.
        is_note: nothing failed: it says what was left out, or how a file was read.
    """

    source: str
    reason: str
    line: int | None = None
    is_note: bool = False

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.reason}"
