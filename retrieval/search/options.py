"""One search's settings, checked and settled before anything is computed.

A search takes its steps in this order, and each option belongs to one of them:

    first stage    mode, where, tenant, fusion, exact: candidates, best first
    min_score      candidates below it are left out
    refine         MaxSim over stored token vectors puts them in order
    re-rank        the second stage reads the best `candidates` of them (budget_ms: as many as fit)
    blend          the final order, and with it `Hit.score`
    min_relevance  hits below it are left out
    diversity      the order of those that were re-ranked, by maximal marginal relevance
    per_document   further passages of a document are left out
    offset, top_k  one page of what is left; ranks are those of the whole
    neighbours     the passages before and after each hit of the page

All but the last two steps are the same for every page, so pages continue one another exactly.
Where they leave fewer hits than a page needs, the first stage goes deeper, and what it finds
beyond the `candidates` follows in its order (but beside a reranker's min_relevance, where what is
not read has no relevance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.models.rerankers.time_budget import checked_budget
from retrieval.types import Blend, Encoder, Fusion, Layout, Manifest, Mode, MultiEncoder, Reranker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What a search was asked for, see `TwoStageRetriever.search`; None leaves it open."""

    top_k: int
    candidates: int
    mode: Mode
    fetch: int | None = None
    blend: Blend | None = None
    min_relevance: float | None = None
    budget_ms: float | None = None
    offset: int = 0
    per_document: int | None = None
    diversity: float | None = None
    neighbours: int = 0
    min_score: float | None = None
    fusion: Fusion | None = None
    refine: int | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Settled settings.

    reranker: None for no second stage. depth: how many candidates it reads. fetch: how deep the
    first stage goes at first. dense, lexical, token_vectors: what of a query is encoded.
    """

    top_k: int
    offset: int
    depth: int
    fetch: int
    mode: Mode
    dense: bool
    lexical: bool
    token_vectors: bool
    reranker: Reranker | None
    blend: Blend
    min_relevance: float | None
    budget_ms: float | None
    per_document: int | None
    diversity: float | None
    neighbours: int
    min_score: float | None
    fusion: Fusion
    refine: int | None
    exact: bool

    @property
    def end(self) -> int:
        """How many hits there must be for the page to be full."""
        return self.offset + self.top_k

    @property
    def cosines(self) -> bool:
        """Whether first-stage scores are cosines, a relevance scale of a kind."""
        return self.mode == "dense" and self.refine is None


def plan_search(
    options: SearchOptions, reranker: Reranker | None, encoder: Encoder, manifest: Manifest
) -> SearchPlan:
    """Check what a search was given and settle what it left open.

    Raises:
        InvalidInput: an option's value cannot be used, alone, with another one, with this
            encoder, or with this collection.
    """
    top_k = positive(options.top_k, "top_k")
    depth = max(positive(options.candidates, "candidates"), top_k)
    mode = one_of(options.mode, Mode, "mode")
    fetch = depth
    if options.fetch is not None:
        # who says how deep the first stage goes says how much is re-ranked, too
        depth = options.candidates
        fetch = max(positive(options.fetch, "fetch"), depth, top_k)
    if options.blend is not None:
        one_of(options.blend, Blend, "blend")
    if options.min_relevance is not None:
        _check_threshold(options, reranker)
    if options.budget_ms is not None:
        checked_budget(options.budget_ms)
    if options.per_document is not None:
        positive(options.per_document, "per_document")
    _check_numbers(options)
    _check_collection(options, fetch, manifest)
    layout = manifest.layout
    plan = SearchPlan(
        top_k=top_k,
        offset=_not_negative(options.offset, "offset"),
        depth=depth,
        fetch=fetch,
        mode=mode,
        dense=mode in ("dense", "hybrid"),
        lexical=layout.lexical and mode in ("lexical", "hybrid"),
        token_vectors=options.refine is not None,
        reranker=reranker,
        blend="none" if reranker is None else options.blend or reranker.info.default_blend,
        min_relevance=options.min_relevance,
        budget_ms=options.budget_ms,
        per_document=options.per_document,
        diversity=options.diversity or None,
        neighbours=_not_negative(options.neighbours, "neighbours"),
        min_score=options.min_score,
        fusion=_fusion(options, layout),
        refine=options.refine,
        exact=options.exact,
    )
    if (plan.lexical or plan.token_vectors) and not isinstance(encoder, MultiEncoder):
        what = "lexical weights" if plan.lexical else "token vectors"
        raise InvalidInput(
            f"the search needs {what} of the query, and the encoder {encoder.info.model!r} as it "
            "was given has no encode_all() to make them",
            fix="Let retrieval.open() load the encoder, or search with mode='dense' or "
            "mode='sparse' and without refine.",
        )
    return plan


def _fusion(options: SearchOptions, layout: Layout) -> Fusion:
    if options.fusion is None:
        return Fusion()
    fusion = checked_fusion(options.fusion, legs=3 if layout.lexical else 2)
    if options.mode != "hybrid":
        raise InvalidInput(
            f"fusion joins the legs of a hybrid search, and the mode is {options.mode!r}",
            fix="Leave fusion out, or search with mode='hybrid'.",
        )
    return fusion


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
    """A value that is among the choices of a Literal type (or of a tuple), as it is.

    Raises:
        InvalidInput: it is not among them.
    """
    allowed = choices if isinstance(choices, tuple) else get_args(choices)
    if value not in allowed:
        raise InvalidInput(
            f"{name} is {value!r}, expected one of {', '.join(allowed)}",
            fix=f"Choose one of them for {name}.",
        )
    return value


def _not_negative(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(
            f"{name} is {value!r}, expected a whole number of at least 0",
            fix=f"Give {name} as 0, 1, 2 …, or leave it out.",
        )
    return value


def _is_number(value: object) -> bool:
    # compared, not converted: a whole number may be too large for a float
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _check_numbers(options: SearchOptions) -> None:
    diversity = options.diversity
    if diversity is not None and not (_is_number(diversity) and 0.0 <= diversity <= 1.0):
        raise InvalidInput(
            f"diversity is {diversity!r}, expected a number from 0 to 1",
            fix="0 orders by relevance alone, 1 by difference alone; try 0.3.",
        )
    if options.min_score is not None and not _is_number(options.min_score):
        raise InvalidInput(
            f"min_score is {options.min_score!r}, expected a finite number",
            fix="It is on the scale of the hits' `stage1_score`: cosines for mode dense, BM25 for "
            "sparse, sums of the fusion for hybrid.",
        )
    if not isinstance(options.exact, bool):
        raise InvalidInput(
            f"exact is {options.exact!r}, expected True or False",
            fix="True compares the query with every vector; leave it out otherwise.",
        )


def _check_collection(options: SearchOptions, fetch: int, manifest: Manifest) -> None:
    layout, name = manifest.layout, manifest.collection
    if options.mode == "lexical" and not layout.lexical:
        raise InvalidInput(
            f"mode is 'lexical', but the collection {name!r} stores no lexical weights",
            fix="Search with mode='sparse' (BM25), or index with bge-m3 and lexical=True.",
        )
    if options.refine is None:
        return
    if layout.token_dimension is None:
        raise InvalidInput(
            f"refine is {options.refine!r}, but the collection {name!r} stores no token vectors to "
            "refine by",
            fix="Leave refine out, or index with token_vectors=True.",
        )
    if positive(options.refine, "refine") < fetch:
        raise InvalidInput(
            f"refine is {options.refine}, fewer than the {fetch} candidates that come of it",
            fix=f"Give refine as {fetch} or more, or ask for fewer candidates.",
        )


def checked_fusion(fusion: Fusion, *, legs: int) -> Fusion:
    """How a hybrid of so many legs (2, or 3 with lexical weights) is joined; weights as floats.

    Raises:
        InvalidInput: a value cannot be used, or no leg has any weight.
    """
    if not isinstance(fusion, Fusion):
        raise InvalidInput(
            f"fusion is {fusion!r}, expected a Fusion",
            fix="Make one with retrieval.types.Fusion(method='rrf', weights=(2, 1, 1)).",
        )
    one_of(fusion.method, ("rrf", "dbsf"), "the fusion method")
    positive(fusion.k, "the fusion's k")
    weights = fusion.weights
    fine = isinstance(weights, (tuple, list)) and len(weights) == 3
    if not fine or not all(_is_number(weight) and weight >= 0 for weight in weights):
        raise InvalidInput(
            f"the fusion's weights are {weights!r}, expected three numbers of at least 0",
            fix="Give the weights of the dense, the BM25 and the lexical leg, such as (2, 1, 1).",
        )
    if not any(weights[:legs]):
        names = "dense, BM25 and lexical" if legs == 3 else "dense and BM25"
        raise InvalidInput(
            f"the fusion's weights {weights!r} leave nothing of the {legs} legs of this "
            f"collection ({names})",
            fix="Give at least one of them a weight above 0.",
        )
    first, second, third = map(float, weights)
    return replace(fusion, weights=(first, second, third))


def _check_threshold(options: SearchOptions, reranker: Reranker | None) -> None:
    if not _is_number(options.min_relevance) or not 0.0 <= (options.min_relevance or 0.0) <= 1.0:
        raise InvalidInput(
            f"min_relevance is {options.min_relevance!r}, expected a number from 0 to 1",
            fix="Relevance is the sigmoid of the reranker's score; try 0.3 and look at "
            "the `relevance` of your own hits.",
        )
    if reranker is None and options.mode != "dense":
        raise InvalidInput(
            f"min_relevance needs a relevance scale, and {options.mode} search without a reranker "
            "has none",
            fix="Re-rank, or use mode='dense', or leave min_relevance out.",
        )
    if reranker is None and options.refine is not None:
        raise InvalidInput(
            "min_relevance needs a relevance scale, and refine without a reranker has none",
            fix="Re-rank, or leave refine or min_relevance out.",
        )
