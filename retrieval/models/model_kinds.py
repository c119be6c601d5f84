"""Encoder or reranker: what is said where a model of one kind is asked to be the other."""

from __future__ import annotations

from retrieval.errors import InvalidInput
from retrieval.types import ModelKind


def wrong_kind(name: str, kind: ModelKind, reason: str) -> InvalidInput:
    """A model that cannot be used as `kind`, with one that can."""
    use = (
        "an encoder such as BAAI/bge-small-en-v1.5 or 'starter'"
        if kind == "encoder"
        else "a reranker such as BAAI/bge-reranker-base or 'starter'"
    )
    return InvalidInput(
        f"the model {name} cannot be used as {article(kind)}: {reason}", fix=f"Give {use}."
    )


def article(kind: ModelKind) -> str:
    """The kind with its article."""
    return "an encoder" if kind == "encoder" else "a reranker"
