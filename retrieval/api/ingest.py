"""`ingest`: read, split, encode and write a source into a collection."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Unpack

from retrieval.api.models import encoder_of, language_notices
from retrieval.errors import CollectionNotFound
from retrieval.index.manifest import check_manifest
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.ingestion import (
    IngestProgressCallback,
    SourceSize,
    ingest_documents,
    prune_scope,
)
from retrieval.ingestion.collection_settings import (
    SAMPLE_DOCUMENTS,
    CollectionOptions,
    settle,
    size_notices,
)
from retrieval.ingestion.input_checks import (
    AnySource,
    check_reading,
    checked_documents,
    is_path,
    refuse_elsewhere,
)
from retrieval.models.defaults import NONE, choose_models
from retrieval.models.load import load_encoder
from retrieval.models.options import SETTINGS, EncoderOptions, checked, first_device, of_encoder
from retrieval.readers.options import ColumnsLike, ReadOptions
from retrieval.readers.read import read
from retrieval.readers.reading import OnError
from retrieval.search.retriever import TwoStageRetriever, close_models
from retrieval.types import Document, Encoder, Index, IngestReport, Manifest, Problem

MAKING = frozenset(CollectionOptions.__annotations__)
"""The options that say how a collection is made; all others are of its encoder."""


class IngestOptions(CollectionOptions, EncoderOptions, total=False):
    """How a new collection is made, and how its encoder runs.

    An existing collection keeps what it was made with: arguments for it must match.

    Attributes:
        language: language of the BM25 terms: "auto" detects it from the first documents; else a
            name or ISO code.
        fold_accents: whether BM25 finds "café" by "cafe"; None does as readers of the language do.
        max_tokens: longest passage in the encoder's tokens; "default" is 256, or what the encoder
            reads where that is less; None makes each document one passage.
        overlap_tokens: tokens of a passage that the next one repeats; 32 by default.
        storage: how the engine keeps the collection: a `Storage`, or some of its values by name.
        fields: metadata to index for filters, as {"year": "number", "lang": "keyword",
            "day": "datetime"}; "auto" chooses them from the first documents.
        lexical: store the encoder's own term weights, too (bge-m3).
        token_vectors: store a vector for each token, too, for MaxSim (bge-m3).
        pooling, query_instruction, passage_instruction, max_length: replace what the encoder
            declares, or settle what it leaves open; the collection remembers them.
        device, devices, engine, dtype, threads: what the encoder runs on, see `BiEncoder`.
        deterministic, calibration, token_budget, cache_dir: how it runs, see `BiEncoder`.
        truncate_dim, allow_untrained_truncation: cut its vectors, see `BiEncoder`; the collection
            remembers the dimension.
    """


def ingest(
    source: AnySource,
    collection: str | TwoStageRetriever = DEFAULT_COLLECTION,
    *,
    store: StoreLike = DEFAULT_STORE,
    encoder: str | Encoder = "auto",
    tenant: str | None = None,
    version: str | None = None,
    prune: bool = False,
    on_error: OnError = "skip",
    encoding: str | None = None,
    columns: ColumnsLike | None = None,
    all_files: bool = False,
    follow_links: bool = False,
    within: Sequence[str | os.PathLike[str]] | None = None,
    progress: IngestProgressCallback | None = None,
    on_notice: Callable[[str], None] | None = None,
    api_key: str | None = None,
    **options: Unpack[IngestOptions],
) -> IngestReport:
    """Read, split, encode and write a source; documents that are stored unchanged are skipped.

    Args:
        source: a file or folder (texts, web pages, Office, mail, code, tables, BEIR),
            "python-docs", or documents.
        collection: made when it does not exist; otherwise its own models and splitter are used.
            Or an open retriever, whose index and encoder are used and stay open.
        store: folder of the embedded store, URL of a Qdrant server, or a `Store`.
        encoder: a model's name, folder or hub id, "starter", "auto", or an encoder.
        tenant: the tenant of the documents. The first call decides whether a collection keeps
            tenants apart. With an open retriever, None means the retriever's own.
        version: fill this version of the collection, such as "docs@v2", before searches use it.
        prune: delete documents that the source no longer has. Of a file or folder, those that
            came from it; of documents, all others of the collection (of the tenant). What could
            not be read this time is kept; where nothing was read, nothing is deleted.
        on_error: "skip" reports bad input and goes on, "raise" stops at the first.
        encoding, columns, all_files, follow_links: how files are read, see `read_documents`.
        within: folders; files that do not really lie in one of them are not read, whatever links
            lead there, see `read_documents`.
        progress: called with an `IngestProgress` about ten times a second.
        on_notice: called with each notice (which models are in use) before the work begins.
        api_key: for a Qdrant server.
        options: how the collection is made and how its encoder runs, see `IngestOptions`.

    Returns:
        How many documents were read, new, changed, unchanged; what failed; passages and seconds.

    Raises:
        InvalidInput: an argument's value cannot be used, or a document has no text.
        CorpusError: the source does not exist, or is bad and `on_error` is "raise".
        ManifestMismatch: the collection was built with another encoder, splitter or layout.
        DiskFull: not enough space; what was acknowledged is kept, run again to go on.

    Example:
        >>> from retrieval import Document, ingest
        >>> report = ingest([Document("a", "A short text.")], store="demo", encoder="starter")
        >>> report.new, report.passages
        (1, 1)
    """
    problems: list[Problem] = []
    reading = ReadOptions.of(encoding, columns, all_files, follow_links)
    documents = _documents(source, on_error, reading, problems, within)
    target = _Target.of(collection, store, version, api_key)
    if target.retriever is not None:
        refuse_elsewhere(
            **{name: (value, None) for name, value in options.items() if name not in MAKING},
            store=(store, DEFAULT_STORE),
            encoder=(encoder, "auto"),
            version=(version, None),
            api_key=(api_key, None),
        )
        tenant = target.retriever.tenant if tenant is None else tenant
    write = partial(
        ingest_documents,
        problems=problems,
        on_error=on_error,
        progress=progress,
        tenant=tenant,
        prune_scope=prune_scope(source, problems) if prune else None,
        size=SourceSize(source, within, reading)
        if progress is not None and is_path(source)
        else None,
    )
    return _fill(target, documents, encoder, tenant, options, write, on_notice)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to write: the index of an open retriever, or a collection of a store by its name.

    built: the manifest that it was made with; None where it does not exist yet.
    """

    collection: str
    built: Manifest | None
    version: str | None = None
    store: Store | None = None
    retriever: TwoStageRetriever | None = None

    @classmethod
    def of(
        cls,
        collection: str | TwoStageRetriever,
        store: StoreLike,
        version: str | None,
        api_key: str | None,
    ) -> _Target:
        if isinstance(collection, TwoStageRetriever):
            built = collection.index.manifest
            return cls(built.collection, built, retriever=collection)
        place = Store.of(store, api_key)
        found: Manifest | None = None
        with contextlib.suppress(CollectionNotFound):
            found = place.manifest(version or collection)
        return cls(collection, found, version, place)

    def index(self, expected: Manifest) -> contextlib.AbstractContextManager[Index]:
        """The index to write to; that of an open retriever stays open after the block."""
        if self.retriever is not None:
            check_manifest(self.retriever.index.manifest, expected)
            return contextlib.nullcontext(self.retriever.index)
        assert self.store is not None
        return self.store.open_or_create(expected, version=self.version)


def _fill(
    target: _Target,
    documents: Iterable[Document],
    encoder: str | Encoder,
    tenant: str | None,
    options: IngestOptions,
    write: Callable[..., IngestReport],
    on_notice: Callable[[str], None] | None,
) -> IngestReport:
    """Load the encoder, settle what the collection is, open it, and `write` the documents."""
    notices: list[str] = []

    def notify(found: Iterable[str]) -> None:
        for notice in found:
            notices.append(notice)
            if on_notice is not None:
                on_notice(notice)

    making: Any = {name: value for name, value in options.items() if name in MAKING}
    loading = {name: value for name, value in options.items() if name not in MAKING}
    sample: Sequence[Document] = []
    loaded = _encoder(target, encoder, making, loading, notify)
    try:
        if target.built is None:
            iterator = iter(documents)
            sample = list(itertools.islice(iterator, SAMPLE_DOCUMENTS))
            documents = itertools.chain(sample, iterator)
        manifest, splitter = settle(
            target.built, target.collection, loaded, sample, tenant, **making
        )
        notify(language_notices(manifest))
        with target.index(manifest) as index:
            report = write(documents, index=index, encoder=loaded, splitter=splitter)
            if target.store is not None and not target.store.is_server:
                notices += size_notices(index, target.store.location)
    finally:
        if loaded is not encoder and target.retriever is None:
            close_models([loaded])
    return replace(report, notices=(*notices, *report.notices))


def _encoder(
    target: _Target,
    encoder: str | Encoder,
    making: CollectionOptions,
    options: Mapping[str, Any],
    notify: Callable[[Iterable[str]], None],
) -> Encoder:
    """The encoder of the open retriever, of the existing collection, or the requested one."""
    settings = {name: options.get(name) for name in SETTINGS}
    running = {name: value for name, value in options.items() if name not in SETTINGS}
    checked(running, encoder=isinstance(encoder, str), reranker=False)
    if target.retriever is not None:
        return target.retriever.encoder
    if target.built is not None:
        asked = None if encoder == "auto" else encoder
        return encoder_of(target.built, asked, running, settings)
    if not isinstance(encoder, str):
        return encoder
    choice = choose_models(encoder, NONE, device=first_device(running))
    notify(choice.notices)
    every_output = making.get("lexical") or making.get("token_vectors")
    return load_encoder(
        choice.encoder,
        **settings,
        **of_encoder(running),
        outputs="all" if every_output else "dense",
    )


def _documents(
    source: AnySource,
    on_error: OnError,
    reading: ReadOptions,
    problems: list[Problem],
    within: Sequence[str | os.PathLike[str]] | None,
) -> Iterable[Document]:
    check_reading(source, reading)
    if isinstance(source, (str, os.PathLike)):
        return read(
            source, on_error=on_error, on_problem=problems.append, within=within,
            **reading.as_arguments(),
        )  # fmt: skip
    return checked_documents(source)
