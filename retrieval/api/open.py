"""`open`: a collection, ready to be searched, with the models it was built with."""

from __future__ import annotations

from typing import Any

from retrieval.api.models import encoder_of, language_notices, reranker_of
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.models.defaults import AUTO, NONE
from retrieval.models.options import check_reranker_named, checked
from retrieval.search.options import DEFAULT_CANDIDATES, DEFAULT_MODE
from retrieval.search.retriever import TwoStageRetriever, close_models
from retrieval.types import Blend, Encoder, Index, Mode, Reranker


def open(
    collection: str = DEFAULT_COLLECTION,
    *,
    store: StoreLike = DEFAULT_STORE,
    encoder: str | Encoder | None = None,
    reranker: str | Reranker | None = "auto",
    mode: Mode = DEFAULT_MODE,
    candidates: int = DEFAULT_CANDIDATES,
    blend: Blend | None = None,
    tenant: str | None = None,
    api_key: str | None = None,
    **model_options: Any,
) -> TwoStageRetriever:
    """Open a collection for searching, with the encoder that it was built with.

    Args:
        collection: its name, as given to `ingest` or `retrieval index`.
        store: folder of the embedded store, URL of a Qdrant server, or a `Store`.
        encoder: None takes the model named in the collection's manifest; another is refused
            unless it has the same fingerprint.
        reranker: "auto", "none" or None, a model's name or folder, or a reranker.
        mode, candidates, blend, tenant: defaults of the searches, see `TwoStageRetriever`.
        api_key: for a Qdrant server.
        model_options: how the models that are loaded here run. For both: `device` or `devices`,
            `engine`, `dtype`, `threads`, `deterministic`, `calibration`, `token_budget`,
            `cache_dir`. For the encoder: `truncate_dim` and `allow_untrained_truncation`, which
            a collection remembers by itself. For the reranker: `long_passages`,
            `window_overlap`, `token_cache_bytes`. See `BiEncoder` and `CrossEncoderReranker`.

    Raises:
        InvalidInput: a model option that does not exist, or that is for no model loaded here.
        CollectionNotFound: no such collection; the message lists those there are.
        ManifestMismatch: `encoder` is not the one the collection was built with.
        ModelNotFound: the manifest's model is not on this machine and no hub answers.
        StoreLocked: another process has the embedded store open.
    """
    checked(
        model_options,
        encoder=encoder is None or isinstance(encoder, str),
        reranker=isinstance(reranker, str) and reranker != NONE,
    )
    if isinstance(reranker, str) and reranker not in (AUTO, NONE):
        check_reranker_named(reranker, model_options)
    place = Store.of(store, api_key)
    version = place.current(collection)  # once: it may be switched while the models load
    manifest = place.manifest(version)
    owned: list[object] = []
    index: Index | None = None
    try:
        loaded = encoder_of(manifest, encoder, model_options)
        if loaded is not encoder:
            owned.append(loaded)
        notices = language_notices(manifest)
        if isinstance(reranker, str):
            second, more = reranker_of(reranker, loaded, model_options)
            notices += more
            owned.append(second)
        else:
            second = reranker
        index = place.open(version)
        return TwoStageRetriever(
            loaded,
            index,
            second,
            mode=mode,
            candidates=candidates,
            blend=blend,
            tenant=tenant,
            notices=notices,
            owned=owned,
        )
    except BaseException:
        if index is not None:
            index.close()
        close_models(owned)
        raise
