"""Models that are given by name, or given: loaded for a block, or lent to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from retrieval.api.models import load_encoder_named, load_reranker_named
from retrieval.api.remembering import RememberingReranker
from retrieval.errors import InvalidInput
from retrieval.models.options import of_encoder, of_reranker
from retrieval.search.retriever import close_models
from retrieval.types import Encoder, Reranker

EncoderLike: TypeAlias = "str | os.PathLike[str] | Encoder"
RerankerLike: TypeAlias = "str | os.PathLike[str] | Reranker"


@contextlib.contextmanager
def loaded_encoder(encoder: EncoderLike, options: Mapping[str, Any]) -> Iterator[Encoder]:
    """An encoder until the block ends; one that was given stays open."""
    if not isinstance(encoder, str | os.PathLike):
        yield encoder
        return
    loaded, _ = load_encoder_named(os.fspath(encoder), **of_encoder(options))
    try:
        yield loaded
    finally:
        close_models([loaded])


@contextlib.contextmanager
def loaded_reranker(
    reranker: RerankerLike, encoder: Encoder, options: Mapping[str, Any]
) -> Iterator[RememberingReranker]:
    """A reranker that scores each pair once, until the block ends; one that was given stays open.

    Raises:
        InvalidInput: the name means no reranker, such as "none".
    """
    if isinstance(reranker, RememberingReranker):
        yield reranker
        return
    if not isinstance(reranker, str | os.PathLike):
        yield RememberingReranker(reranker)
        return
    name = os.fspath(reranker)
    loaded, notices = load_reranker_named(name, encoder, **of_reranker(options))
    if loaded is None:
        raise InvalidInput(
            f"the reranker {name!r} means none here" + "".join(f" ({one})" for one in notices),
            fix="Name one, such as starter, or give its folder.",
        )
    try:
        yield RememberingReranker(loaded)
    finally:
        close_models([loaded])
