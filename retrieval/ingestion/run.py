"""`ingest_documents`: one indexing run over an open index, and its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace

from retrieval.errors import InvalidInput
from retrieval.index.manifest import check_manifest
from retrieval.ingestion.pipeline import WINDOW_PASSAGES, IngestProgressCallback, Pipeline, is_plain
from retrieval.ingestion.prepare import DocumentSplitter, Preparing, differed
from retrieval.ingestion.prune import Pruned, PruneScope, prune
from retrieval.ingestion.seen_documents import SeenDocuments
from retrieval.ingestion.source_size import SourceSize
from retrieval.types import (
    Document,
    Encoder,
    Index,
    IngestReport,
    Manifest,
    MultiEncoder,
    Problem,
)


def ingest_documents(
    documents: Iterable[Document],
    *,
    index: Index,
    encoder: Encoder,
    splitter: DocumentSplitter,
    problems: list[Problem] | None = None,
    on_error: str = "skip",
    progress: IngestProgressCallback | None = None,
    window: int = WINDOW_PASSAGES,
    tenant: str | None = None,
    prune_scope: PruneScope | None = None,
    size: SourceSize | None = None,
) -> IngestReport:
    """Write documents to an open index; skip those it already holds unchanged.

    Reading, splitting and writing run in separate threads, the encoder and `progress` in the
    caller's. Where the source or a document fails, everything read before it is written first.
    After any other failure, or an interrupt, what was acknowledged is kept, and running again
    goes on from there.

    Duplicates are documents of this run with another id and the same text; both are written.

    Args:
        documents: read lazily, at most `READ_AHEAD_CHARACTERS` ahead.
        problems: the list that the reader appends its problems to; they are part of the report.
        on_error: "skip" reports a document that yields no passage, repeats an id or has metadata
            that cannot be stored; "raise" stops.
        progress: called about ten times a second.
        window: passages in one encoder call and one acknowledged write.
        tenant: the tenant of the documents, where the collection has tenants.
        prune_scope: delete, at the end, documents of this scope that were not read, if any was.
        size: how much of the source has been read, for the time that remains.

    Raises:
        ManifestMismatch: encoder or splitter are not those the collection was built with.
        InvalidInput: a tenant is missing or not expected, or the encoder has no outputs that the
            collection stores.
        CorpusError: a document was bad and `on_error` is "raise".
    """
    manifest = index.manifest
    _check(manifest, encoder, splitter, window)
    problems = [] if problems is None else problems
    with contextlib.closing(SeenDocuments()) as seen:
        preparing = Preparing(
            index=index,
            splitter=splitter,
            seen=seen,
            problems=problems,
            on_error=on_error,
            tenant=tenant,
            note_files=prune_scope is not None,
        )
        run = Pipeline(index, encoder, preparing, window, tenant, progress, size)
        run.over(documents)
        pruned = Pruned()
        if prune_scope is not None and preparing.read:
            pruned = prune(index, prune_scope, seen, tenant=tenant)
        elif prune_scope is not None:
            pruned = Pruned(notices=("Nothing was read, so nothing is pruned.",))
        if run.passages or pruned.documents:
            index.optimize()
        run.tell(force=True)
        notices = (*preparing.field_kinds.notices(), *pruned.notices)
        if preparing.differing:
            notices = (differed(preparing.differing), *notices)
    return IngestReport(
        collection=manifest.collection,
        read=preparing.read,
        new=run.new,
        changed=run.changed,
        unchanged=preparing.unchanged,
        failed=tuple(problems),
        passages=run.passages,
        tokens=run.tokens,
        truncated_passages=run.truncated,
        seconds=run.throughput.seconds,
        notices=notices,
        pruned=pruned.documents,
        duplicates=preparing.duplicates,
        duplicate_examples=tuple(preparing.duplicate_examples),
    )


def _check(manifest: Manifest, encoder: Encoder, splitter: DocumentSplitter, window: int) -> None:
    if window < 1:
        raise InvalidInput(f"window is {window}, expected at least 1", fix="Leave it out.")
    check_manifest(manifest, replace(manifest, encoder=encoder.info, splitter=splitter.info))
    if is_plain(manifest.layout) or isinstance(encoder, MultiEncoder):
        return
    raise InvalidInput(
        f"the collection {manifest.collection!r} stores more than one vector per passage, and the "
        f"encoder {encoder.info.model!r} gives one",
        fix="Give an encoder that has encode_all, such as bge-m3.",
    )
