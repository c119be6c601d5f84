"""`ingest`: read, split, encode and write a source into a collection."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from retrieval.api.models import encoder_of, language_notices
from retrieval.errors import CollectionNotFound, InvalidInput
from retrieval.index.bm25 import bm25_info
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
    FieldOptions,
    StorageOptions,
    layout_for,
    size_notices,
    storage_for,
)
from retrieval.ingestion.input_checks import checked_documents, refuse_elsewhere
from retrieval.models.defaults import NONE, choose_models
from retrieval.models.load import load_encoder
from retrieval.models.options import checked, first_device, of_encoder
from retrieval.readers.read import read
from retrieval.readers.stdlib_docs import SOURCE_NAME as PYTHON_DOCS
from retrieval.search.retriever import (
    TwoStageRetriever,
    close_models,
)
from retrieval.splitting.splitter import (
    DEFAULT_MAX_TOKENS,
    DEFAULT_OVERLAP_TOKENS,
    Splitter,
    document_hash,
)
from retrieval.types import (
    Document,
    Encoder,
    Index,
    IngestReport,
    Manifest,
    Problem,
    SplitterInfo,
)


def ingest(
    source: str | os.PathLike[str] | Iterable[Document],
    collection: str | TwoStageRetriever = DEFAULT_COLLECTION,
    *,
    store: StoreLike = DEFAULT_STORE,
    encoder: str | Encoder = "auto",
    language: str = "auto",
    max_tokens: int | Literal["default"] | None = "default",
    overlap_tokens: int | None = None,
    on_error: Literal["skip", "raise"] = "skip",
    encoding: str | None = None,
    pooling: str | None = None,
    query_instruction: str | None = None,
    passage_instruction: str | None = None,
    max_length: int | None = None,
    prune: bool = False,
    tenant: str | None = None,
    storage: StorageOptions = None,
    lexical: bool = False,
    token_vectors: bool = False,
    fields: FieldOptions = "auto",
    version: str | None = None,
    progress: IngestProgressCallback | None = None,
    on_notice: Callable[[str], None] | None = None,
    api_key: str | None = None,
    **model_options: Any,
) -> IngestReport:
    """Read, split, encode and write a source; what is already there unchanged is skipped.

    Args:
        source: a file or folder (txt, md, html, pdf, docx, pptx, epub, jsonl, csv, BEIR),
            "python-docs", or documents.
        collection: made when it does not exist; otherwise its own models and splitter are used.
            Or a retriever that is open: its index and its encoder are used and stay open, so
            that a process can write to what it searches (an embedded collection can be opened
            once). Then what would choose another place or model is refused.
        store: folder of the embedded store, URL of a Qdrant server, or a `Store`.
        encoder: a model's name, folder or hub id, "starter", "auto", or an encoder.
        language: of BM25's words: "auto" looks at the first documents; else a name or ISO code.
        max_tokens: longest passage in the encoder's tokens; None makes one passage a document.
        overlap_tokens: how much of a passage is repeated in the next.
        on_error: "skip" reports bad input and goes on, "raise" stops at the first.
        encoding: of text files, where it is not UTF-8.
        pooling, query_instruction, passage_instruction, max_length: replace what the encoder
            declares, or settle what it leaves open; the collection remembers them.
        prune: delete documents that the source no longer has. Of a file or folder, those that
            came from it; of "python-docs", its names; of documents, everything in the collection
            (of the tenant). What could not be read this time is kept, and where nothing at all
            was read, nothing is deleted. A second folder inside of one that is indexed has
            documents of its own.
        tenant: whose documents they are. The first call decides whether a collection keeps
            tenants apart; every later one must name its tenant, or none. Into an open retriever,
            None means the retriever's own.
        storage: how the engine keeps a new collection: a `Storage`, or some of its values by
            name. Of one that exists, given values must be its own.
        lexical, token_vectors: store the encoder's own term weights, or its token vectors for
            MaxSim, too (bge-m3).
        fields: metadata to index for filters, as {"year": "number", "lang": "keyword",
            "day": "datetime"}; "auto" looks at the first documents of a new collection.
        version: fill this version of the collection, such as "docs@v2", which searches do not
            use before it is switched to.
        progress: called with an `IngestProgress` about ten times a second.
        on_notice: called with each notice (which models are in use) before the work begins.
        api_key: for a Qdrant server.
        model_options: `device` or `devices`, `engine`, `dtype`, `threads`, `deterministic`,
            `calibration`, `token_budget`, `cache_dir`, `truncate_dim` and
            `allow_untrained_truncation` of the encoder, see `BiEncoder`. A collection remembers
            the truncated dimension.

    Raises:
        InvalidInput: an argument's value cannot be used, or a document has no text.
        CorpusError: the source does not exist, or is bad and `on_error` is "raise".
        ManifestMismatch: the collection was built with another encoder or splitter, or otherwise
            than `storage`, `fields`, `lexical`, `token_vectors` or `tenant` say.
        DiskFull: not enough space; what was acknowledged is kept, run again to go on.
    """
    opened = collection if isinstance(collection, TwoStageRetriever) else None
    if opened is not None:
        refuse_elsewhere(
            store=(store, DEFAULT_STORE),
            encoder=(encoder, "auto"),
            version=(version, None),
            api_key=(api_key, None),
            pooling=(pooling, None),
            query_instruction=(query_instruction, None),
            passage_instruction=(passage_instruction, None),
            max_length=(max_length, None),
            **{name: (value, None) for name, value in model_options.items()},
        )
        tenant = opened.tenant if tenant is None else tenant
    checked(model_options, encoder=isinstance(encoder, str), reranker=False)
    problems: list[Problem] = []
    documents: Iterable[Document]
    if encoding is not None and (source == PYTHON_DOCS or not _is_path(source)):
        what = "python-docs" if source == PYTHON_DOCS else "documents"
        raise InvalidInput(
            f"encoding={encoding!r} was given for {what}, which are text already",
            fix="Leave the encoding out; it is for files.",
        )
    if isinstance(source, (str, os.PathLike)):
        documents = read(source, on_error=on_error, on_problem=problems.append, encoding=encoding)
    else:
        documents = checked_documents(source)

    place = None
    built: Manifest | None
    if isinstance(collection, TwoStageRetriever):
        built = collection.index.manifest
    else:
        place = Store.of(store, api_key)
        built = _manifest_of(place, version or collection)

    settings: dict[str, Any] = {
        "pooling": pooling,
        "query_instruction": query_instruction,
        "passage_instruction": passage_instruction,
        "max_length": max_length,
    }
    notices: tuple[str, ...] = ()
    sample: Sequence[Document] = []
    if built is None:
        assert isinstance(collection, str)
        if isinstance(encoder, str):
            choice = choose_models(encoder, NONE, device=first_device(model_options))
            notices = choice.notices
            if on_notice is not None:
                for notice in notices:
                    on_notice(notice)
            loaded: Encoder = load_encoder(
                choice.encoder,
                **settings,
                **of_encoder(model_options),
                outputs="all" if lexical or token_vectors else "dense",
            )
        else:
            loaded = encoder
        splitter_info = SplitterInfo(
            max_tokens=_default_max_tokens(loaded) if max_tokens == "default" else max_tokens,
            overlap_tokens=(DEFAULT_OVERLAP_TOKENS if overlap_tokens is None else overlap_tokens)
            if max_tokens is not None
            else 0,
        )
        sample, documents = _peek(documents, SAMPLE_DOCUMENTS)
        manifest = Manifest(
            collection=collection,
            encoder=loaded.info,
            splitter=splitter_info,
            bm25=bm25_info(language, [document.text for document in sample]),
        )
    else:
        manifest = built
        if opened is not None:
            loaded = opened.encoder
        else:
            asked = None if encoder == "auto" else encoder
            loaded = encoder_of(built, asked, model_options, settings)
        division = built.splitter
        splitter_info = replace(
            division,
            max_tokens=division.max_tokens if max_tokens == "default" else max_tokens,
            overlap_tokens=division.overlap_tokens if overlap_tokens is None else overlap_tokens,
        )
        if language != "auto":
            manifest = replace(manifest, bm25=bm25_info(language, []))

    for notice in language_notices(manifest):
        notices += (notice,)
        if on_notice is not None:
            on_notice(notice)
    try:
        splitter = Splitter(
            loaded.token_counter,
            max_tokens=splitter_info.max_tokens,
            overlap_tokens=splitter_info.overlap_tokens,
        )
        expected = replace(
            manifest,
            encoder=loaded.info,
            splitter=splitter.info,
            layout=layout_for(
                built, loaded, lexical=lexical, token_vectors=token_vectors, tenant=tenant
            ),
            storage=storage_for(built, storage, fields, sample),
        )
        with _index_for(opened, place, expected, version) as index:
            report = ingest_documents(
                documents,
                index=index,
                encoder=loaded,
                splitter=splitter,
                document_hash=document_hash,
                problems=problems,
                on_error=on_error,
                progress=progress,
                tenant=tenant,
                prune_scope=prune_scope(source, problems) if prune else None,
                size=_size_of(source) if progress is not None else None,
            )
            if place is not None and not place.is_server:
                notices += size_notices(index, place.location)
    finally:
        if loaded is not encoder and opened is None:
            close_models([loaded])
    return replace(report, notices=notices + report.notices)


def _manifest_of(place: Store, name: str) -> Manifest | None:
    try:
        return place.manifest(name)
    except CollectionNotFound:
        return None


def _index_for(
    opened: TwoStageRetriever | None, place: Store | None, expected: Manifest, version: str | None
) -> contextlib.AbstractContextManager[Index]:
    """The index to write to: one that is open stays open, any other is closed at the end."""
    if opened is not None:
        check_manifest(opened.index.manifest, expected)
        return contextlib.nullcontext(opened.index)
    assert place is not None
    return place.open_or_create(expected, version=version)


def _size_of(source: str | os.PathLike[str] | Iterable[Document]) -> SourceSize | None:
    if source == PYTHON_DOCS or not isinstance(source, (str, os.PathLike)):
        return None
    return SourceSize(source)


def _is_path(source: object) -> bool:
    return isinstance(source, (str, os.PathLike))


def _default_max_tokens(encoder: Encoder) -> int:
    return min(DEFAULT_MAX_TOKENS, encoder.info.max_length)


def _peek(documents: Iterable[Document], n: int) -> tuple[Sequence[Document], Iterable[Document]]:
    iterator = iter(documents)
    sample = list(itertools.islice(iterator, n))
    return sample, itertools.chain(sample, iterator)
