"""One search's settings, checked and settled before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, get_args

from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.models.budget import checked_budget
from retrieval.types import Blend, Mode, Reranker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Settled settings; `reranker` None: no second stage. `fetch` is the first stage's depth."""

    top_k: int
    depth: int
    fetch: int
    mode: Mode
    reranker: Reranker | None
    blend: Blend
    min_relevance: float | None
    budget_ms: float | None


def plan_search(
    reranker: Reranker | None,
    *,
    top_k: int,
    candidates: int,
    fetch: int | None,
    mode: Mode,
    blend: Blend | None,
    min_relevance: float | None,
    budget_ms: float | None,
) -> SearchPlan:
    """Check what a search was given, see `TwoStageRetriever.search`, and settle what it left open.

    Raises:
        InvalidInput: an argument's value cannot be used.
    """
    top_k = positive(top_k, "top_k")
    depth = positive(candidates, "candidates")
    mode = one_of(mode, Mode, "mode")
    if blend is not None:
        one_of(blend, Blend, "blend")
    if min_relevance is not None:
        _check_threshold(min_relevance, mode, reranker)
    if budget_ms is not None:
        checked_budget(budget_ms)
    if fetch is None:
        # Without a second stage there is no need to fetch more than is asked for, but the
        # candidates are part of the result, and callers compare both orders.
        depth = fetch_depth = max(depth, top_k)
    else:
        fetch_depth = max(positive(fetch, "fetch"), depth, top_k)
    return SearchPlan(
        top_k=top_k,
        depth=depth,
        fetch=fetch_depth,
        mode=mode,
        reranker=reranker,
        blend="none" if reranker is None else blend or reranker.info.default_blend,
        min_relevance=min_relevance,
        budget_ms=budget_ms,
    )


def checked_query(query: object) -> str:
    """The query as it is, if it is one.

    Raises:
        InvalidQuery: it is empty or no text.
    """
    if not isinstance(query, str):
        raise InvalidQuery(
            f"the query is a {type(query).__name__}, expected text (str)",
            fix="Pass the question as a string.",
        )
    if not query.strip():
        raise InvalidQuery("the query is empty", fix="Write what you are looking for.")
    try:
        query.encode("utf-8")
    except UnicodeEncodeError as error:
        # BM25 refuses it, and a vector search would read something else: the same in every mode.
        raise InvalidQuery(
            f"the query has a lone surrogate at character {error.start}, which is no Unicode text",
            fix="Write the query in UTF-8.",
        ) from None
    return query


def positive(value: int, name: str) -> int:
    """A whole number of at least 1, as it is.

    Raises:
        InvalidInput: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(
            f"{name} is {value!r}, expected a whole number of at least 1",
            fix=f"Give {name} as 1, 10, 50 …",
        )
    return value


def one_of(value: T, choices: object, name: str) -> T:
    """A value that is among the choices of a Literal type, as it is.

    Raises:
        InvalidInput: it is not among them.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidInput(
            f"{name} is {value!r}, expected one of {', '.join(allowed)}",
            fix=f"Choose one of them for {name}.",
        )
    return value


def _check_threshold(min_relevance: float, mode: Mode, reranker: Reranker | None) -> None:
    if not isinstance(min_relevance, (int, float)) or not 0.0 <= min_relevance <= 1.0:
        raise InvalidInput(
            f"min_relevance is {min_relevance!r}, expected a number from 0 to 1",
            fix="Relevance is the sigmoid of the reranker's score; try 0.3 and look at "
            "the `relevance` of your own hits.",
        )
    if reranker is None and mode != "dense":
        raise InvalidInput(
            f"min_relevance needs a relevance scale, and {mode} search without a reranker has none",
            fix="Re-rank, or use mode='dense', or leave min_relevance out.",
        )
