"""Finds a known model by its full or short name; the facts are in known_models.py."""

from __future__ import annotations

import difflib
from types import MappingProxyType

from retrieval.models.known_models import (
    MAXSIM,
    MAXSIM_ENCODER,
    MODELS,
    STARTER,
    STARTER_ENCODER,
    STARTER_RERANKER,
    UNSUPPORTED,
)
from retrieval.types import ModelKind, ModelSpec

__all__ = [
    "MAXSIM",
    "MAXSIM_ENCODER",
    "MODELS",
    "STARTER",
    "STARTER_ENCODER",
    "STARTER_RERANKER",
    "UNSUPPORTED",
    "find",
    "list_models",
    "near_names",
    "spelled_out",
]


def _alias_table() -> dict[str, str]:
    table = {name.casefold(): name for name in MODELS}
    table |= {name.rpartition("/")[2].casefold(): name for name in MODELS}
    for layers in (6, 12):  # the hub renamed these two and keeps forwarding the old names
        name = f"cross-encoder/ms-marco-MiniLM-L{layers}-v2"
        table[f"cross-encoder/ms-marco-minilm-l-{layers}-v2"] = name
        table[f"ms-marco-minilm-l-{layers}-v2"] = name
    return table


_ALIASES = MappingProxyType(_alias_table())


def list_models() -> list[ModelSpec]:
    """Every known model, encoders first: the rows of `retrieval models`."""
    return sorted(MODELS.values(), key=lambda spec: spec.kind)


def find(name: str, kind: ModelKind | None = None) -> ModelSpec | None:
    """The model of that full name or short name, in any case; None when it is not known here.

    `starter` names a pair: with `kind="reranker"` its second stage, else its encoder. A model of
    another kind than asked for is returned all the same, so that the caller can say what it is.
    A revision behind the name, as in `name@int8-origin`, is passed over.
    """
    wanted = spelled_out(name, kind).partition("@")[0].strip().casefold()
    canonical = _ALIASES.get(wanted)
    return None if canonical is None else MODELS[canonical]


def spelled_out(name: str, kind: ModelKind | None = None) -> str:
    """The name that `starter` stands for; every other name as it is."""
    if name.strip().casefold() != STARTER:
        return name
    return STARTER_RERANKER if kind == "reranker" else STARTER_ENCODER


def near_names(name: str, kind: ModelKind, *, limit: int = 3) -> list[str]:
    """Known models of that kind whose full or short name looks like `name`, best first."""
    wanted = name.strip().casefold().removeprefix("./")
    tail = wanted.rpartition("/")[2]
    keys = [alias for alias, full in _ALIASES.items() if MODELS[full].kind == kind]
    keys.append(STARTER)
    found: dict[str, None] = {}
    matches = difflib.get_close_matches(wanted, keys, n=2 * limit, cutoff=0.6)
    matches += difflib.get_close_matches(tail, keys, n=2 * limit, cutoff=0.6)
    for key in matches:
        found.setdefault(STARTER if key == STARTER else _ALIASES[key])
    return list(found)[:limit]
