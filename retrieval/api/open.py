"""`open`: a collection, ready to be searched, with the models it was built with."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from retrieval.api.models import encoder_of, language_notices, loads_alone, reranker_of
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.models.defaults import AUTO, NONE
from retrieval.models.options import check_reranker_named, checked
from retrieval.search.retriever import TwoStageRetriever, close_models
from retrieval.types import BlendChoice, Encoder, Mode, Reranker


def open(
    collection: str = DEFAULT_COLLECTION,
    *,
    store: StoreLike = DEFAULT_STORE,
    encoder: str | Encoder | None = None,
    reranker: str | Reranker | None = "auto",
    mode: Mode | None = None,
    candidates: int | None = None,
    blend: BlendChoice | None = None,
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
        reranker: "auto" (the collection's default, else the one that can be had), "none" or None,
            a model's name or folder, or a reranker.
        mode, candidates, blend, tenant: defaults of the searches, see `TwoStageRetriever`.
        api_key: for a Qdrant server.
        model_options: how both models run: `device` or `devices`, `engine`, `dtype`, `threads`,
            `deterministic`, `calibration`, `token_budget`, `cache_dir`; `truncate_dim` and
            `allow_untrained_truncation` of the encoder; `long_passages`, `window_overlap` and
            `token_cache_bytes` of the reranker. See `BiEncoder` and `CrossEncoderReranker`.

    Returns:
        A retriever, which closes the index and the models loaded here when it is closed.

    Raises:
        InvalidInput: a model option that does not exist, or that is for no model loaded here.
        CollectionNotFound: no such collection; the message lists those there are.
        ManifestMismatch: `encoder` is not the one the collection was built with.
        ModelNotFound: the manifest's model is not on this machine and no hub answers.
        StoreLocked: another process has the embedded store open.

    Example:
        >>> import retrieval
        >>> document = retrieval.Document("rules.md", "Travel costs are paid back in ten days.")
        >>> _ = retrieval.ingest([document], "rules", encoder="starter")
        >>> with retrieval.open("rules") as retriever:
        ...     hits = retriever.search("when are expenses paid?", top_k=1).hits
        >>> hits[0].passage.text
        'Travel costs are paid back in ten days.'
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
    defaults = manifest.tuning.defaults
    if defaults.dtype is not None:
        model_options.setdefault("dtype", defaults.dtype)
    if reranker == AUTO and defaults.reranker is not None:
        reranker = defaults.reranker
    notices = language_notices(manifest)
    with contextlib.ExitStack() as on_failure:
        # Both models and the index open beside each other: most of it is reading and compiling.
        pool = on_failure.enter_context(ThreadPoolExecutor(2, thread_name_prefix="retrieval-load"))
        first = pool.submit(encoder_of, manifest, encoder, model_options)
        on_failure.callback(_close, first, encoder)
        beside = None
        if isinstance(reranker, str) and loads_alone(reranker):
            beside = pool.submit(
                reranker_of, reranker, manifest.encoder, model_options, quiet=first.exception
            )
            on_failure.callback(_close, beside)
        index = on_failure.enter_context(place.open(version))
        loaded = first.result()
        second = None if isinstance(reranker, str) else reranker
        owned: list[object] = [] if loaded is encoder else [loaded]
        if isinstance(reranker, str):
            second, more = (
                reranker_of(reranker, loaded.info, model_options, loaded)
                if beside is None
                else beside.result()
            )
            notices += more
            owned.append(second)
        retriever = TwoStageRetriever(
            loaded, index, second, mode=mode, candidates=candidates, blend=blend, tenant=tenant,
            notices=notices, owned=owned,
        )  # fmt: skip
        on_failure.pop_all()
        pool.shutdown()
    return retriever


def _close(loading: Future[Any], given: object = None) -> None:
    """Close what a thread has loaded, unless it was given."""
    with contextlib.suppress(Exception):
        found = loading.result()
        model = found[0] if isinstance(found, tuple) else found
        if model is not given:
            close_models([model])
