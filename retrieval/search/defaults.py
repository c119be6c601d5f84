"""A collection's own defaults (`SearchDefaults`), where a search does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrieval.search.options import DEFAULT_MODE
from retrieval.search.plan import chosen_blend
from retrieval.types import Fusion, Reranker, SearchDefaults


def with_defaults(
    given: Mapping[str, Any], defaults: SearchDefaults, reranker: Reranker | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options of a search, completed; and the names of those that the defaults gave.

    A default is left out where it would be for something else than this search does: a fusion
    where nothing is joined, what concerns the second stage where there is none, and a blend that
    was chosen for another reranker.

    Args:
        given: the options; None, or left out, says nothing.
        defaults: of the collection.
        reranker: that there is.
    """
    options = dict(given)
    taken: list[str] = []

    def take(*names: str) -> None:
        for name in names:
            value = getattr(defaults, name)
            if options.get(name) is None and value is not None:
                options[name] = value
                taken.append(name)

    take("mode", "rerank", "min_relevance")
    if (options.get("mode") or DEFAULT_MODE) == "hybrid":
        take("fusion")
    if reranker is None or options.get("rerank") is False:
        return options, tuple(taken)
    take("candidates", "read")
    if defaults.reranker in (None, reranker.info.model):
        take("blend")
        if chosen_blend(options.get("blend"), reranker.info) == "scores":
            take("blend_weight")
    return options, tuple(taken)


def defaults_notice(
    collection: str, defaults: SearchDefaults, taken: tuple[str, ...], reranker: Reranker | None
) -> tuple[str, ...]:
    """What of a search was decided by the collection's defaults, in a sentence."""
    notices = []
    if taken:
        said = ", ".join(f"{name}={_said(getattr(defaults, name))}" for name in taken)
        chosen = f", chosen {defaults.chosen}" if defaults.chosen else ""
        notices.append(f"By the defaults of {collection!r}{chosen}: {said}.")
    if defaults.reranker and reranker is not None and defaults.reranker != reranker.info.model:
        notices.append(
            f"The defaults of {collection!r} were chosen with the reranker {defaults.reranker}; "
            f"this search uses {reranker.info.model}."
        )
    return tuple(notices)


def _said(value: object) -> str:
    if isinstance(value, Fusion):
        weights = ", ".join(f"{one:g}" for one in value.weights)
        return f"{value.method} ({weights})"
    return str(value)
