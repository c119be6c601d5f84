"""The one-line ways in: `ingest` a source into a collection, `open` a collection for searching."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from retrieval.corpus.readers import read
from retrieval.corpus.splitting import (
    DEFAULT_MAX_TOKENS,
    DEFAULT_OVERLAP_TOKENS,
    Splitter,
    document_hash,
)
from retrieval.errors import CollectionNotFound, InvalidFilter, InvalidInput
from retrieval.index.embedded import EmbeddedIndex
from retrieval.index.embedded import list_collections as list_embedded_collections
from retrieval.index.embedded import read_manifest as read_embedded_manifest
from retrieval.index.server import ServerIndex
from retrieval.index.server import list_collections as list_server_collections
from retrieval.index.server import read_manifest as read_server_manifest
from retrieval.index.sparse import bm25_info
from retrieval.ingestion import IngestProgressCallback, ingest_documents
from retrieval.models import registry
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.resolve import choose_models
from retrieval.retriever import DEFAULT_CANDIDATES, DEFAULT_MODE, TwoStageRetriever
from retrieval.types import (
    Blend,
    Document,
    Encoder,
    IngestReport,
    Manifest,
    Mode,
    Problem,
    Reranker,
    SplitterInfo,
)

DEFAULT_STORE = ".retrieval"
DEFAULT_COLLECTION = "docs"


def open(
    collection: str = DEFAULT_COLLECTION,
    *,
    store: str | os.PathLike[str] = DEFAULT_STORE,
    encoder: str | Encoder | None = None,
    reranker: str | Reranker | None = "auto",
    mode: Mode = DEFAULT_MODE,
    candidates: int = DEFAULT_CANDIDATES,
    blend: Blend | None = None,
    api_key: str | None = None,
    **model_options: Any,
) -> TwoStageRetriever:
    """Open a collection for searching, with the encoder that it was built with.

    Args:
        collection: its name, as given to `ingest` or `retrieval index`.
        store: folder of the embedded store, or the URL of a Qdrant server.
        encoder: None takes the model named in the collection's manifest; another is refused
            unless it has the same fingerprint.
        reranker: "auto", "none" or None, a model's name or folder, or a reranker.
        mode, candidates, blend: defaults of the searches, see `TwoStageRetriever`.
        api_key: for a Qdrant server.
        model_options: `device`, `engine`, `dtype`, `token_budget` for both models.

    Raises:
        CollectionNotFound: no such collection; the message lists those there are.
        ManifestMismatch: `encoder` is not the one the collection was built with.
        ModelNotFound: the manifest's model is not on this machine and no hub answers.
        StoreLocked: another process has the embedded store open.
    """
    manifest = read_manifest(collection, store=store, api_key=api_key)
    loaded = _encoder_of(manifest, encoder, model_options)
    notices = _language_notices(manifest)
    if isinstance(reranker, str):
        choice = choose_models(
            loaded.info.model, reranker, device=str(model_options.get("device", "auto"))
        )
        notices += choice.notices
        second = load_reranker(choice.reranker or "none", encoder=loaded, **model_options)
    else:
        second = reranker
    index = _open_index(collection, store, api_key)
    try:
        return TwoStageRetriever(
            loaded,
            index,
            second,
            mode=mode,
            candidates=candidates,
            blend=blend,
            notices=notices,
        )
    except BaseException:
        index.close()
        raise


def ingest(
    source: str | os.PathLike[str] | Iterable[Document],
    collection: str = DEFAULT_COLLECTION,
    *,
    store: str | os.PathLike[str] = DEFAULT_STORE,
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
    progress: IngestProgressCallback | None = None,
    on_notice: Callable[[str], None] | None = None,
    api_key: str | None = None,
    **model_options: Any,
) -> IngestReport:
    """Read, split, encode and write a source; what is already there unchanged is skipped.

    Args:
        source: a file or folder (txt, md, html, jsonl, csv, BEIR), "python-docs", or documents.
        collection: made when it does not exist; otherwise its own models and splitter are used.
        store: folder of the embedded store, or the URL of a Qdrant server.
        encoder: a model's name, folder or hub id, "starter", "auto", or an encoder.
        language: of BM25's words: "auto" looks at the first documents; else a name or ISO code.
        max_tokens: longest passage in the encoder's tokens; None makes one passage a document.
        overlap_tokens: how much of a passage is repeated in the next.
        on_error: "skip" reports bad input and goes on, "raise" stops at the first.
        encoding: of text files, where it is not UTF-8.
        pooling, query_instruction, passage_instruction, max_length: replace what the encoder
            declares, or settle what it leaves open; the collection remembers them.
        progress: called with an `IngestProgress` about ten times a second.
        on_notice: called with each notice (which models are in use) before the work begins.
        api_key: for a Qdrant server.
        model_options: `device`, `engine`, `dtype`, `token_budget` of the encoder.

    Raises:
        CorpusError: the source does not exist, or is bad and `on_error` is "raise".
        ManifestMismatch: the collection was built with another encoder or splitter.
        DiskFull: not enough space; what was acknowledged is kept, run again to go on.
    """
    problems: list[Problem] = []
    documents: Iterable[Document]
    if isinstance(source, (str, os.PathLike)):
        documents = read(source, on_error=on_error, on_problem=problems.append, encoding=encoding)
    else:
        documents = source

    try:
        manifest: Manifest | None = read_manifest(collection, store=store, api_key=api_key)
    except CollectionNotFound:
        manifest = None

    settings: dict[str, Any] = {
        "pooling": pooling,
        "query_instruction": query_instruction,
        "passage_instruction": passage_instruction,
        "max_length": max_length,
    }
    notices: tuple[str, ...] = ()
    if manifest is None:
        if isinstance(encoder, str):
            choice = choose_models(encoder, "none", device=str(model_options.get("device", "auto")))
            notices = choice.notices
            if on_notice is not None:
                for notice in notices:
                    on_notice(notice)
            loaded: Encoder = load_encoder(choice.encoder, **settings, **model_options)
        else:
            loaded = encoder
        splitter_info = SplitterInfo(
            max_tokens=_default_max_tokens(loaded) if max_tokens == "default" else max_tokens,
            overlap_tokens=(DEFAULT_OVERLAP_TOKENS if overlap_tokens is None else overlap_tokens)
            if max_tokens is not None
            else 0,
        )
        sample, documents = _peek(documents, 200)
        manifest = Manifest(
            collection=collection,
            encoder=loaded.info,
            splitter=splitter_info,
            bm25=bm25_info(language, [document.text for document in sample]),
        )
    else:
        asked = None if encoder == "auto" else encoder
        loaded = _encoder_of(manifest, asked, model_options, settings)
        built = manifest.splitter
        splitter_info = replace(
            built,
            max_tokens=built.max_tokens if max_tokens == "default" else max_tokens,
            overlap_tokens=built.overlap_tokens if overlap_tokens is None else overlap_tokens,
        )
        if language != "auto":
            manifest = replace(manifest, bm25=bm25_info(language, []))

    for notice in _language_notices(manifest):
        notices += (notice,)
        if on_notice is not None:
            on_notice(notice)
    splitter = Splitter(
        loaded.token_counter,
        max_tokens=splitter_info.max_tokens,
        overlap_tokens=splitter_info.overlap_tokens,
    )
    expected = replace(manifest, encoder=loaded.info, splitter=splitter.info)
    with _open_or_create_index(expected, store, api_key) as index:
        report = ingest_documents(
            documents,
            index=index,
            encoder=loaded,
            splitter=splitter,
            document_hash=document_hash,
            problems=problems,
            on_error=on_error,
            progress=progress,
        )
    return replace(report, notices=notices)


def read_manifest(
    collection: str, *, store: str | os.PathLike[str] = DEFAULT_STORE, api_key: str | None = None
) -> Manifest:
    """What built a collection, read without opening it.

    Raises:
        CollectionNotFound: no such collection; the message lists those there are.
        ManifestCorrupt: the manifest cannot be read.
    """
    if _is_url(store):
        return read_server_manifest(str(store), collection, api_key=api_key)
    return read_embedded_manifest(Path(store), collection)


def collection_names(
    *, store: str | os.PathLike[str] = DEFAULT_STORE, api_key: str | None = None
) -> list[str]:
    """The collections of a store, sorted; a store that does not exist yet has none."""
    if _is_url(store):
        return list_server_collections(str(store), api_key=api_key)
    return list_embedded_collections(Path(store))


def parse_where(text: str) -> dict[str, Any]:
    """A `where` from text: a JSON object, or `key=value` pairs joined by commas.

    In pairs a value is read as JSON where it is JSON (`year=2020`, `draft=false`), else as text.

    Raises:
        InvalidFilter: neither form fits.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidFilter(
                f"the filter {text!r} is not valid JSON ({error})",
                fix='Write it as \'{"year": {"gte": 2020}}\', or as year=2020,lang=en.',
            ) from error
        return dict(parsed)
    where: dict[str, Any] = {}
    rest: str | None = text
    while rest is not None:
        key, equals, value = rest.partition("=")
        if not equals or not key.strip() or "," in key:
            raise InvalidFilter(
                f"the filter part {rest.partition(',')[0]!r} has no key=value form",
                fix='Write year=2020,lang=en, or a JSON object such as \'{"lang": ["en", "de"]}\'.',
            )
        where[key.strip()], rest = _first_value(value.strip())
    return where


def _first_value(text: str) -> tuple[Any, str | None]:
    """The value before the first comma that is not part of it, and what follows that comma."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        pass
    else:
        after = text[end:].lstrip()
        if not after or after.startswith(","):
            return value, after[1:] if after else None
    plain, comma, rest = text.partition(",")
    return plain.strip(), rest if comma else None


def _encoder_of(
    manifest: Manifest,
    asked: str | Encoder | None,
    options: dict[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> Encoder:
    """The encoder a collection was built with, or the one asked for; the manifest decides later.

    `settings` that are given (not None) stand before those the collection remembers.
    """
    if asked is not None and not isinstance(asked, str):
        return asked
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    if asked is not None:
        return load_encoder(asked, **given, **options)
    built = manifest.encoder
    remembered = {
        "query_instruction": built.query_instruction,
        "passage_instruction": built.passage_instruction,
        "pooling": built.pooling,
        "max_length": built.max_length,
    }
    return load_encoder(built.model, **{**remembered, **given}, **options)


def _language_notices(manifest: Manifest) -> tuple[str, ...]:
    """A warning where a model of one language was given texts of another.

    MiniLM on Chinese paragraphs finds less than BM25 alone, and joining the two loses what BM25
    found (docs/evaluation.md), so silence would be costly.
    """
    known = registry.find(manifest.encoder.model)
    language = manifest.bm25.language
    if known is None or not known.languages or "multilingual" in (*known.languages, language):
        return ()
    if language in {bm25_info(code).language for code in known.languages}:
        return ()
    return (
        f"The encoder {known.name} was trained on {', '.join(known.languages)}, and the texts of "
        f"{manifest.collection!r} look {language}. Index with a model for that language "
        "(`retrieval models`), or search with mode sparse and no reranker.",
    )


def _default_max_tokens(encoder: Encoder) -> int:
    return min(DEFAULT_MAX_TOKENS, encoder.info.max_length)


def _peek(documents: Iterable[Document], n: int) -> tuple[Sequence[Document], Iterable[Document]]:
    iterator = iter(documents)
    sample = list(itertools.islice(iterator, n))
    return sample, itertools.chain(sample, iterator)


def _is_url(store: str | os.PathLike[str]) -> bool:
    """Whether a store is a server; what can be neither that nor a folder is refused."""
    if not isinstance(store, str):
        return False
    if store.startswith(("http://", "https://")):
        return True
    # Taken for a folder, a mistyped address would give a store in a folder named `ftp:`.
    if not store.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", store):
        raise InvalidInput(
            f"the store is {store!r}, expected a folder or the http:// or https:// URL of a "
            "Qdrant server",
            fix="Give a folder such as .retrieval, or a URL such as http://localhost:6333.",
        )
    return False


def _open_index(
    collection: str, store: str | os.PathLike[str], api_key: str | None
) -> EmbeddedIndex | ServerIndex:
    if _is_url(store):
        return ServerIndex.open(str(store), collection, api_key=api_key)
    return EmbeddedIndex.open(Path(store), collection)


def _open_or_create_index(
    manifest: Manifest, store: str | os.PathLike[str], api_key: str | None
) -> EmbeddedIndex | ServerIndex:
    if _is_url(store):
        return ServerIndex.open_or_create(
            str(store), manifest.collection, manifest, api_key=api_key
        )
    return EmbeddedIndex.open_or_create(Path(store), manifest.collection, manifest)
