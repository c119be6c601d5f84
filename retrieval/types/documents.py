"""What is indexed: documents and the passages they are split into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader yields: one text with an id that is stable from run to run.

    `metadata` holds JSON values only; it can be filtered on with `where=`.
    `source` says where the text came from (a path, a path and line, a Python object's name).
    `pages` are the offsets in characters at which the pages, or slides, begin, rising; the first
    is page 1. A page without text begins where the next one does. Empty where there are none.
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

    `text == document.text[start:end]`, offsets in characters. `id` is the uuid5 of document id
    and position, so indexing twice writes the same points. `document_hash` and
    `document_passages` (how many passages the document has) let an interrupted run be continued.
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
    """A part of the input that could not be used, and why. `line` counts from 1."""

    source: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.reason}"
