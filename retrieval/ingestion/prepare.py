"""Decides about a document: unchanged, bad, or new passages and those that they replace."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from retrieval.errors import CorpusError, InvalidInput
from retrieval.index.payload import passage_to_payload
from retrieval.ingestion.field_kinds import FieldKinds
from retrieval.ingestion.seen_documents import SeenDocuments
from retrieval.splitting.splitter import document_hash
from retrieval.types import Document, DocumentState, Index, Passage, Problem, SplitterInfo

MOST_EXAMPLES = 10

_LINE = re.compile(r":\d+$")


class DocumentSplitter(Protocol):
    """What ingestion needs of a splitter."""

    @property
    def info(self) -> SplitterInfo:
        """What the manifest remembers of it."""
        ...

    def split(self, document: Document) -> list[Passage]:
        """The document's passages, in order; none where it has no text."""
        ...


@dataclass(slots=True)
class Prepared:
    """A document that must be written, or (without passages) one that is dealt with.

    stale: ids of passages to delete once all of `passages` are durable. characters: of the
    document's text, as a measure of work.
    """

    characters: int
    passages: list[Passage] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    is_new: bool = False


@dataclass(slots=True)
class Preparing:
    """Judges documents by what the collection holds and by what this run has seen.

    differing: documents of which not all copies were the same, and which are written again.
    """

    index: Index
    splitter: DocumentSplitter
    seen: SeenDocuments
    problems: list[Problem]
    on_error: str
    tenant: str | None
    note_files: bool
    read: int = 0
    unchanged: int = 0
    differing: int = 0
    duplicates: int = 0
    duplicate_examples: list[tuple[str, str]] = field(default_factory=list)
    last_file: str = ""
    field_kinds: FieldKinds = field(default_factory=FieldKinds)

    def prepare(self, documents: Sequence[Document]) -> Iterator[Prepared]:
        """One result for each document, in order; states are asked for all of them at once."""
        first = [self.seen.add_id(document.id) for document in documents]
        known = [
            document.id
            for document, is_first in zip(documents, first, strict=True)
            if is_first and _is_text(document.id)
        ]
        states = self.index.document_states(known, tenant=self.tenant) if known else {}
        for document, is_first in zip(documents, first, strict=True):
            self.read += 1
            if self.note_files:
                self._note_file(document)
            done = Prepared(len(document.text))
            if not is_first:
                self._bad(
                    document,
                    f"document id {document.id!r} was read before in this run; the first is kept",
                )
                yield done
                continue
            self.field_kinds.add(document)
            try:
                yield self._prepare(document, states.get(document.id)) or done
            except InvalidInput as error:
                self._bad(document, error.problem)
                yield done

    def _prepare(self, document: Document, state: DocumentState | None) -> Prepared | None:
        content_hash = document_hash(document)
        if state is not None and state.content_hash == content_hash:
            self.unchanged += 1
            self._compare(document)
            return None
        if state is not None and _is_another(document, state):
            self._bad(
                document,
                f"document id {document.id!r} is taken by {state.source}, which is still there; "
                "index both from their common folder, or into collections of their own",
            )
            return None
        passages = self.splitter.split(document)
        if not passages:
            self._bad(document, "has no text to index")
            return None
        # Asked of each document alone: in a window one bad document would stop all the others.
        for passage in passages:
            passage_to_payload(passage)
        self._compare(document)
        self.differing += state is not None and not state.agreed
        stale: frozenset[str] = frozenset()
        if state is not None:
            stale = state.passage_ids - {passage.id for passage in passages}
        return Prepared(len(document.text), passages, sorted(stale), is_new=state is None)

    def _compare(self, document: Document) -> None:
        # By text alone: the metadata of a copied file name another path, and its title may, too.
        before = self.seen.add_content(document.text.strip(), document.id)
        if before is not None:
            self.duplicates += 1
            if len(self.duplicate_examples) < MOST_EXAMPLES:
                self.duplicate_examples.append((document.id, before))

    def _note_file(self, document: Document) -> None:
        path = file_of(document.source)
        if path and path != self.last_file:
            self.last_file = path
            self.seen.add_file(path)

    def _bad(self, document: Document, reason: str) -> None:
        problem = Problem(document.source or document.id, reason)
        if self.on_error == "raise":
            raise CorpusError(str(problem), fix="Correct the document, or use on_error='skip'.")
        self.problems.append(problem)


def differed(documents: int) -> str:
    """A notice that documents were written again because their copies were not the same."""
    were = "1 document was" if documents == 1 else f"{documents:,} documents were"
    return f"{were} not the same on all copies and {were.split()[-1]} sent again."


def file_of(source: str) -> str:
    """The absolute path of the file that a document came from; "" without a source."""
    return str(Path(_LINE.sub("", source)).absolute()) if source else ""


def has_line(source: str) -> bool:
    """Whether a source is a line of a file, `faq.csv:17`."""
    return _LINE.search(source) is not None


def _is_another(document: Document, state: DocumentState) -> bool:
    """Whether an id means another file than the one it was indexed from.

    A folder that was moved keeps its ids and loses its old paths; two folders with a README.md
    each have the same id at two paths that both exist.
    """
    old, new = (_LINE.sub("", source) for source in (state.source, document.source))
    if not old or not new or Path(old).absolute() == Path(new).absolute():
        return False
    try:
        return Path(old).is_file() and Path(new).is_file()
    except (OSError, ValueError):
        return False


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
