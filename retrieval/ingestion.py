"""Indexing: read → split → encode → upsert, overlapped, and safe to kill at any point.

A document is known by its id and judged by its content hash. Passage ids follow from document id
and position, so writing twice writes the same points. Passages of a changed document are written
and durable before what is left of its old version is deleted. A killed run therefore leaves
either old or new passages, never neither, and the next run sees which documents are incomplete
and ends in the same collection as an unkilled one.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from retrieval.errors import CorpusError, InvalidInput
from retrieval.index.manifest import check_manifest
from retrieval.index.payload import passage_to_payload
from retrieval.types import (
    Document,
    DocumentState,
    Encoder,
    Index,
    IngestProgress,
    IngestReport,
    Manifest,
    Passage,
    Problem,
    SplitterInfo,
)

# A window is one call to the encoder and one acknowledged write: long enough that sorting by
# length saves padding, short enough that a killed run loses seconds of work.
WINDOW_PASSAGES = 512
# How far reading may run ahead of encoding, in characters of document text.
READ_AHEAD_CHARACTERS = 32_000_000

IngestProgressCallback = Callable[[IngestProgress], None]


class DocumentSplitter(Protocol):
    """What ingestion needs of a splitter."""

    @property
    def info(self) -> SplitterInfo:
        """What the manifest remembers of it."""
        ...

    def split(self, document: Document) -> list[Passage]:
        """The document's passages, in order; none where it has no text."""
        ...


def ingest_documents(
    documents: Iterable[Document],
    *,
    index: Index,
    encoder: Encoder,
    splitter: DocumentSplitter,
    document_hash: Callable[[Document], str],
    problems: list[Problem] | None = None,
    on_error: str = "skip",
    progress: IngestProgressCallback | None = None,
    window: int = WINDOW_PASSAGES,
) -> IngestReport:
    """Write documents to an open index; skip those it already holds unchanged.

    Args:
        documents: read lazily in a thread of its own, at most `READ_AHEAD_CHARACTERS` ahead.
        problems: the list that the reader appends its problems to; they are part of the report.
        on_error: "skip" reports a document that yields no passage, repeats an id or has metadata
            that cannot be stored; "raise" stops.
        window: passages per encoder call and acknowledged write.

    Raises:
        ManifestMismatch: encoder or splitter are not those the collection was built with.
        CorpusError: a document was bad and `on_error` is "raise".
    """
    manifest = index.manifest
    _check(manifest, encoder, splitter)
    run = _Run(
        index=index,
        encoder=encoder,
        states=index.document_states(),
        progress=progress,
        problems=[] if problems is None else problems,
        on_error=on_error,
        window=window,
    )
    with _ReadAhead(documents, READ_AHEAD_CHARACTERS) as ahead:
        for document in ahead:
            run.total_documents = ahead.total
            run.take(document, splitter, document_hash)
        run.total_documents = ahead.total
        run.finish()
    return run.report(manifest.collection)


def _check(manifest: Manifest, encoder: Encoder, splitter: DocumentSplitter) -> None:
    check_manifest(manifest, replace(manifest, encoder=encoder.info, splitter=splitter.info))


@dataclass(slots=True)
class _Run:
    """The state of one indexing run."""

    index: Index
    encoder: Encoder
    states: Mapping[str, DocumentState]
    progress: IngestProgressCallback | None
    problems: list[Problem]
    on_error: str
    window: int
    seen: set[str] = field(default_factory=set)
    pending: list[Passage] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    total_documents: int | None = None
    documents: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    passages: int = 0
    tokens: int = 0
    truncated: int = 0
    started: float = field(default_factory=time.perf_counter)
    reported: float = 0.0

    def take(
        self,
        document: Document,
        splitter: DocumentSplitter,
        document_hash: Callable[[Document], str],
    ) -> None:
        self.documents += 1
        if document.id in self.seen:
            self._bad(
                document,
                f"document id {document.id!r} was read before in this run; the first is kept",
            )
            return
        self.seen.add(document.id)
        try:
            self._take_new(document, splitter, document_hash)
        except InvalidInput as error:
            self._bad(document, error.problem)

    def _take_new(
        self,
        document: Document,
        splitter: DocumentSplitter,
        document_hash: Callable[[Document], str],
    ) -> None:
        state = self.states.get(document.id)
        if state is not None and state.content_hash == document_hash(document):
            self.unchanged += 1
            self._tell()
            return
        if state is not None and _is_another(document, state):
            self._bad(
                document,
                f"document id {document.id!r} is taken by {state.source}, which is still there; "
                "index both from their common folder, or into collections of their own",
            )
            return
        passages = splitter.split(document)
        if not passages:
            self._bad(document, "has no text to index")
            return
        # Asked of each document alone: in a window one bad document would stop all the others.
        for passage in passages:
            passage_to_payload(passage)
        if state is None:
            self.new += 1
        else:
            self.changed += 1
            self.stale += sorted(state.passage_ids - {passage.id for passage in passages})
        # Whole documents go into a window where they fit, so that stale passages are deleted
        # only after all of their document's new ones are durable.
        for passage in passages:
            self.pending.append(passage)
            if len(self.pending) >= self.window:
                self._write(delete_stale=passage is passages[-1])

    def finish(self) -> None:
        if self.pending or self.stale:
            self._write(delete_stale=True)
        if self.passages:
            self.index.optimize()
        self._tell(force=True)

    def _write(self, *, delete_stale: bool) -> None:
        if self.pending:
            encoding = self.encoder.encode_passages([p.content for p in self.pending])
            self.index.upsert(self.pending, encoding.vectors)
            self.passages += len(self.pending)
            self.tokens += int(encoding.tokens.sum())
            self.truncated += int(encoding.truncated.sum())
            self.pending.clear()
        if delete_stale and self.stale:
            self.index.delete_passages(self.stale)
            self.stale.clear()
        self._tell(force=True)

    def _bad(self, document: Document, reason: str) -> None:
        problem = Problem(document.source or document.id, reason)
        if self.on_error == "raise":
            raise CorpusError(str(problem), fix="Mend the document, or use on_error='skip'.")
        self.problems.append(problem)

    def _tell(self, *, force: bool = False) -> None:
        now = time.perf_counter()
        if self.progress is None or (not force and now - self.reported < 0.1):
            return
        self.reported = now
        self.progress(
            IngestProgress(
                documents=self.documents,
                total_documents=self.total_documents,
                passages=self.passages,
                tokens=self.tokens,
                seconds=now - self.started,
            )
        )

    def report(self, collection: str) -> IngestReport:
        return IngestReport(
            collection=collection,
            read=self.documents,
            new=self.new,
            changed=self.changed,
            unchanged=self.unchanged,
            failed=tuple(self.problems),
            passages=self.passages,
            tokens=self.tokens,
            truncated_passages=self.truncated,
            seconds=time.perf_counter() - self.started,
        )


def _is_another(document: Document, state: DocumentState) -> bool:
    """Whether an id means another file than the one it was indexed from.

    A folder that was moved keeps its ids and loses its old paths; two folders with a README.md
    each have the same id at two paths that both exist.
    """
    old, new = (re.sub(r":\d+$", "", source) for source in (state.source, document.source))
    if not old or not new or Path(old).absolute() == Path(new).absolute():
        return False
    try:
        return Path(old).is_file() and Path(new).is_file()
    except (OSError, ValueError):
        return False


class _ReadAhead:
    """Iterates a source in a thread of its own, bounded by the characters that wait.

    The reader's exception is raised in the caller. Leaving the block stops the thread, also when
    the caller fails or is interrupted: it is asked at every document and is a daemon besides.
    """

    def __init__(self, documents: Iterable[Document], characters: int) -> None:
        self._documents = documents
        self._room = threading.Condition()
        self._free = characters
        self._ready: queue.SimpleQueue[Document | _End] = queue.SimpleQueue()
        self._stopped = False
        self.total: int | None = None
        self._thread = threading.Thread(target=self._read, name="retrieval-reader", daemon=True)

    def __enter__(self) -> _ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._room:
            self._stopped = True
            self._room.notify_all()
        self._thread.join(timeout=5.0)

    def __iter__(self) -> Iterator[Document]:
        while True:
            item = self._ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            with self._room:
                self._free += len(item.text)
                self._room.notify_all()
            yield item

    def _read(self) -> None:
        read = 0
        try:
            for document in self._documents:
                with self._room:
                    # One document is always let through, however long it is.
                    self._room.wait_for(lambda: self._stopped or self._free > 0)
                    if self._stopped:
                        return
                    self._free -= len(document.text)
                read += 1
                self._ready.put(document)
            self.total = read
            self._ready.put(_End(None))
        except BaseException as error:  # noqa: BLE001  (handed to the caller, who raises it)
            self._ready.put(_End(error))


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None
