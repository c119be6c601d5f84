"""Loads models by name: those a collection was built with, and those a user names.

`retrieval.open` and `retrieval.ingest` load through here. A service that shares models between
collections does, too: it loads each model once, and gives it to `open` and `ingest` as an object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retrieval.errors import ModelNotFound
from retrieval.index.bm25 import VERSION, bm25_info
from retrieval.models import registry
from retrieval.models.defaults import AUTO, NONE, choose_models
from retrieval.models.load import load_encoder, load_reranker
from retrieval.models.options import (
    check_reranker_named,
    checked,
    first_device,
    for_reranker_named,
    of_encoder,
)
from retrieval.models.resolve import resolve
from retrieval.search.retriever import close_models
from retrieval.types import Encoder, EncoderInfo, Manifest, Reranker

LEAST_RATE = 1000.0
"""Tokens a second with which the second stage of a default search is worth its time: a dozen
excerpts."""


def load_encoder_named(
    name: str = "auto", *, outputs_all: bool = False, **options: Any
) -> tuple[Encoder, tuple[str, ...]]:
    """An encoder by name, and what to say of the choice.

    Args:
        name: a model's name, folder or hub id, "starter", or "auto".
        outputs_all: term weights and token vectors, too, where the model has them (bge-m3).
        options: how the model runs, as for `retrieval.ingest`.

    Raises:
        ModelNotFound, ModelSettingUnknown, InvalidInput, ModelFault: see `retrieval.ingest`.
    """
    checked(options, reranker=False)
    choice = choose_models(name, NONE, device=first_device(options))
    outputs: Any = "all" if outputs_all else "dense"
    loaded = load_encoder(choice.encoder, outputs=outputs, **of_encoder(options))
    return loaded, choice.notices


def load_reranker_named(
    name: str, encoder: Encoder, **options: Any
) -> tuple[Reranker | None, tuple[str, ...]]:
    """A second stage for an encoder ("auto": the one that can be had), and what to say of it.

    Args:
        name: a model's name or folder, "starter", "auto" or "none".
        encoder: the first stage's, which `starter` shares; one of this library's own.
        options: how the model runs, as for `retrieval.open`.

    Raises:
        ModelNotFound, ModelSettingUnknown, InvalidInput, ModelFault: see `retrieval.open`.
    """
    if name == NONE:
        return None, ()
    checked(options, encoder=False)
    if name != AUTO:
        check_reranker_named(name, options)
    return reranker_of(name, encoder.info, options, encoder)


def gives_term_weights(encoder: Encoder) -> bool:
    """Whether a loaded encoder gives term weights beside vectors."""
    from retrieval.models.encoders.bge_m3 import BGEM3

    return isinstance(encoder, BGEM3)


def shorter_dimensions(encoder: EncoderInfo) -> tuple[int, ...]:
    """Dimensions, below its own, to which vectors of an encoder may be cut: it was trained so."""
    known = registry.find(encoder.model.partition("@")[0])
    if known is None:
        return ()
    return tuple(one for one in known.matryoshka if one < encoder.dimension)


def loads_alone(name: str) -> bool:
    """Whether a reranker needs nothing of the encoder's, and may be loaded beside it."""
    return name != registry.MAXSIM


def reranker_of(
    name: str,
    first: EncoderInfo,
    options: Mapping[str, Any],
    encoder: Encoder | None = None,
    quiet: Callable[[], object] = lambda: None,
) -> tuple[Reranker | None, tuple[str, ...]]:
    """The reranker of that name ("auto": the one that can be had), and what to say of it.

    Args:
        name: a model's name or folder, "starter" or "auto".
        first: the first stage's encoder.
        options: how the model runs.
        encoder: the encoder itself, whose weights `maxsim` shares.
        quiet: waits until nothing else is being loaded, before its speed is measured.
    """
    choice = choose_models(first.model, name, device=first_device(options))
    if choice.reranker is None:
        return None, choice.notices
    own, idle = for_reranker_named(choice.reranker, options)
    notices = choice.notices
    if idle:
        notices += (
            f"The reranker {choice.reranker}, chosen automatically, is not a cross-encoder: it "
            f"cuts long passages, whatever {' and '.join(idle)} say.",
        )
    loaded = load_reranker(choice.reranker, encoder=encoder, **own)
    quiet()
    rate = _settled(loaded)
    if loaded is None or rate is None:
        return loaded, notices
    smaller = None
    if name == AUTO and rate < LEAST_RATE and _reads_english(first):
        smaller = _smaller(loaded, options)
    if smaller is not None:
        close_models([loaded])
        _settled(smaller)
        return smaller, (
            f"Using {registry.STARTER}'s reranker: {choice.reranker} reads about {rate:.0f} tokens "
            "a second on this CPU, a few candidates. --reranker "
            f"{choice.reranker} takes it all the same.",
        )
    return loaded, notices


def _settled(reranker: Reranker | None) -> float | None:
    """Settle how much default searches read; tokens a second, None where nothing was measured."""
    from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker

    if not isinstance(reranker, CrossEncoderReranker):
        return None
    return reranker.settle_pace()


def _reads_english(encoder: EncoderInfo) -> bool:
    """Whether texts are English, as the starter's reranker reads it."""
    known = registry.find(encoder.model)
    return known is not None and known.languages == ("en",)


def _smaller(reranker: Reranker, options: Mapping[str, Any]) -> Reranker | None:
    """The starter's reranker, where it is another one and can be had."""
    own, _ = for_reranker_named(registry.STARTER, options)
    try:
        smaller = load_reranker(registry.STARTER, **own)
    except ModelNotFound:
        return None
    if smaller is None or smaller.info.fingerprint == reranker.info.fingerprint:
        return None
    return smaller


def load_encoder_of(
    manifest: Manifest, options: Mapping[str, Any], *, outputs_all: bool = False
) -> Encoder:
    """The encoder that a collection was built with, loaded.

    Args:
        manifest: of the collection.
        options: how the model runs, as for `open`.
        outputs_all: term weights and token vectors, too, also where this collection has none;
            vectors that are cut come alone.

    Raises:
        ModelNotFound: it is not on this machine and no hub answers.
    """
    return encoder_of(manifest, None, options, outputs_all=outputs_all)


def encoder_of(
    manifest: Manifest,
    asked: str | Encoder | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    outputs_all: bool = False,
) -> Encoder:
    """The encoder a collection was built with, or the requested one; the manifest decides later.

    `settings` that are given (not None) have precedence over those that the collection remembers.
    """
    if asked is not None and not isinstance(asked, str):
        return asked
    built = manifest.encoder
    wanted = {name: value for name, value in (settings or {}).items() if value is not None}
    if asked is None:
        remembered = {
            "query_instruction": built.query_instruction,
            "passage_instruction": built.passage_instruction,
            "query_suffix": built.query_suffix,
            "query_examples": built.query_examples,
            "pooling": built.pooling,
            "max_length": built.max_length,
        }
        wanted = {**remembered, **wanted}
    name = built.model if asked is None else asked
    own = of_encoder(options)
    layout = manifest.layout
    if "truncate_dim" not in own:
        resolved = resolve(name, "encoder", **wanted)
        whole = resolved.spec.dimension
        if resolved.fingerprint == built.fingerprint and whole and built.dimension < whole:
            # Whoever built the collection has decided that its vectors are cut.
            own |= {"truncate_dim": built.dimension, "allow_untrained_truncation": True}
    whole_output = layout.lexical or layout.token_dimension is not None
    whole_output = whole_output or (outputs_all and "truncate_dim" not in own)
    return load_encoder(name, **wanted, **own, outputs="all" if whole_output else "dense")


def language_notices(manifest: Manifest) -> tuple[str, ...]:
    """A warning where a model of one language was given texts of another, or words are made by
    older rules.

    MiniLM on Chinese paragraphs finds less than BM25 alone, and joining the two loses what BM25
    found (docs/evaluation.md), so silence would be costly.
    """
    return (*_other_language(manifest), *_older_words(manifest))


def _older_words(manifest: Manifest) -> tuple[str, ...]:
    if manifest.bm25.version >= VERSION:
        return ()
    lost = "finds no numbers by words, and " if manifest.bm25.tokenizer == "multilingual" else ""
    return (
        f"{manifest.collection!r} {lost}takes C++, 10.0.0.17 and the like apart, as collections "
        "did before; `retrieval reindex` with its source makes it find them.",
    )


def _other_language(manifest: Manifest) -> tuple[str, ...]:
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
