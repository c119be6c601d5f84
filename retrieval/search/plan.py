"""The plan of a search, made before anything is computed: its options, checked with one another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from retrieval._validate import is_number, one_of, whole_number
from retrieval.errors import InvalidInput
from retrieval.search.cascade import cascade_of
from retrieval.search.excerpts import Excerpts
from retrieval.search.options import (
    DEFAULT_CANDIDATES,
    DEFAULT_MODE,
    SearchOptions,
)
from retrieval.search.relevance import Relevance, relevance_of
from retrieval.types import (
    Blend,
    BlendChoice,
    Calibration,
    Encoder,
    Fusion,
    Layout,
    Manifest,
    Mode,
    MultiEncoder,
    Pipeline,
    RelevanceScale,
    Reranker,
    RerankerInfo,
)

_WEIGHTS: Mapping[str, Mapping[Mode, float]] = MappingProxyType(
    {
        "cross-encoder": {"dense": 0.4, "hybrid": 0.75, "sparse": 8.0, "lexical": 8.0},
        "late-interaction": {"dense": 1.0, "hybrid": 2.0, "sparse": 4.0, "lexical": 4.0},
    }
)


def second_weight(reranker: RerankerInfo, mode: Mode) -> float:
    """What a reranker's scores weigh in the blend "scores", the first stage's weighing 1.

    Chosen on training splits (docs/evaluation.md): a good first stage keeps its say where the
    reranker errs, a cross-encoder on claims and names of functions; BM25 keeps little of it.
    """
    return _WEIGHTS.get(reranker.kind, _WEIGHTS["cross-encoder"])[mode]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """The options of a search and what follows from them.

    Attributes:
        options: as they were given.
        reranker: None for no second stage.
        depth: how many candidates the reranker reads.
        fetch: how deep the first stage goes at first.
        mode, blend, fusion: of the options, or what None means.
        excerpts: choose what is read of each candidate; None reads them whole.
        most_tokens: of a query's pairs, estimated; what is over is not read. None for no limit.
        lexical: whether the query's term weights are encoded.
        pipeline: what makes the scores, as far as their meaning hangs on it.
        relevance: what it means, and the least that a hit must have.
        second_weight: of the reranker's scores in the blend "scores".
        cascade: first-stage scores below which candidates are dropped, and from which they are
            kept, without being read; None reads all.
    """

    options: SearchOptions
    reranker: Reranker | None
    depth: int
    fetch: int
    mode: Mode
    blend: Blend
    fusion: Fusion
    lexical: bool
    pipeline: Pipeline
    relevance: Relevance
    second_weight: float = 0.0
    cascade: tuple[float, float] | None = None
    excerpts: Excerpts | None = None
    most_tokens: int | None = None

    @property
    def dense(self) -> bool:
        """Whether the query's vector is encoded."""
        return self.mode in ("dense", "hybrid")

    @property
    def token_vectors(self) -> bool:
        """Whether the query's token vectors are encoded."""
        return self.options.refine is not None

    @property
    def end(self) -> int:
        """How many hits there must be for the page to be full."""
        return self.options.offset + self.options.top_k

    @property
    def asked(self) -> int:
        """How many first-stage results the options name; a default names none."""
        options = self.options
        candidates = options.candidates or DEFAULT_CANDIDATES
        named = 0 if candidates == DEFAULT_CANDIDATES else candidates
        return max(self.end, named, options.fetch or 0)

    @property
    def cosines(self) -> bool:
        """Whether first-stage scores are cosines, a relevance scale of a kind."""
        return self.mode == "dense" and self.options.refine is None


def plan_search(
    options: SearchOptions,
    reranker: Reranker | None,
    encoder: Encoder,
    manifest: Manifest,
    *,
    calibration: Calibration | None = None,
    by_default: Collection[str] = (),
) -> SearchPlan:
    """Settle what the options leave open.

    Args:
        options: of the search; None takes the library's default.
        reranker: of the retriever; left out where the options say so.
        encoder, manifest: of the collection.
        calibration: of the collection, if it has one.
        by_default: the options that the collection's defaults gave.

    Raises:
        InvalidInput: an option cannot be used with another one, with this encoder, or with this
            collection.
    """
    reranker = None if options.rerank is False else reranker
    mode = options.mode or DEFAULT_MODE
    candidates = options.candidates or DEFAULT_CANDIDATES
    depth = fetch = max(candidates, options.top_k)
    if options.fetch is not None:
        # whoever says how deep the first stage goes says how much is re-ranked, too
        depth, fetch = candidates, max(options.fetch, depth)
    layout = manifest.layout
    blend = "none" if reranker is None else chosen_blend(options.blend, reranker.info)
    fusion = _fusion(options.fusion, mode, layout)
    weight = _weight(options, reranker, blend, mode)
    excerpts = _excerpts(options, reranker, manifest)
    pipeline = Pipeline(
        encoder=encoder.info.fingerprint,
        query_instruction=encoder.info.query_instruction,
        reranker=None if reranker is None else reranker.info.fingerprint,
        reranker_model=None if reranker is None else reranker.info.model,
        mode=mode,
        fusion=fusion if mode == "hybrid" else None,
        refined=options.refine is not None,
        candidates=depth,
        read=None if reranker is None else "full" if excerpts is None else "excerpts",
        blend=blend,
        blend_weight=weight if blend == "scores" else None,
    )
    relevance = relevance_of(
        options.min_relevance,
        pipeline,
        calibration,
        _scale(reranker, pipeline),
        manifest.collection,
        by_default="min_relevance" in by_default,
    )
    plan = SearchPlan(
        options=options,
        reranker=reranker,
        depth=depth,
        fetch=fetch,
        mode=mode,
        blend=blend,
        fusion=fusion,
        lexical=layout.lexical and mode in ("lexical", "hybrid"),
        pipeline=pipeline,
        relevance=relevance,
        second_weight=weight,
        cascade=cascade_of(relevance, manifest.collection) if options.cascade else None,
        excerpts=excerpts,
        most_tokens=_most_tokens(options, reranker),
    )
    _check_collection(plan, manifest)
    _check_encoder(plan, encoder)
    return plan


def _weight(options: SearchOptions, reranker: Reranker | None, blend: Blend, mode: Mode) -> float:
    """Of the reranker's scores in the blend "scores"."""
    if options.blend_weight is not None and blend != "scores":
        why = "there is no reranker" if reranker is None else f"the blend is {blend!r}"
        raise InvalidInput(
            f"blend_weight is {options.blend_weight:g}, and {why}: it weighs the reranker's scores "
            "in the blend 'scores'",
            fix="Leave blend_weight out, or search with blend='scores' and a reranker.",
        )
    if reranker is None:
        return 0.0
    if options.blend_weight is not None:
        return float(options.blend_weight)
    # `refine` orders by vectors, too
    return second_weight(reranker.info, "dense" if options.refine is not None else mode)


def _scale(reranker: Reranker | None, pipeline: Pipeline) -> RelevanceScale | None:
    """What relevance is without a calibration."""
    if reranker is not None:
        return "cosine" if reranker.info.kind == "late-interaction" else "sigmoid"
    return "cosine" if pipeline.mode == "dense" and not pipeline.refined else None


def chosen_blend(blend: BlendChoice | None, reranker: RerankerInfo) -> Blend:
    """How the two orders are joined: as was asked for, or as is best for the reranker."""
    return reranker.default_blend if blend is None or blend == "auto" else blend


def _most_tokens(options: SearchOptions, reranker: Reranker | None) -> int | None:
    """The limit of a search that says nothing of how much is read; whoever does is obeyed."""
    said = (options.candidates, options.read, options.budget_ms)
    if reranker is None or any(one is not None for one in said):
        return None
    return reranker.info.default_tokens


def _excerpts(
    options: SearchOptions, reranker: Reranker | None, manifest: Manifest
) -> Excerpts | None:
    if reranker is None or (options.read or reranker.info.default_read) == "full":
        return None
    return Excerpts(manifest.bm25)


def _fusion(fusion: Fusion | None, mode: Mode, layout: Layout) -> Fusion:
    if fusion is None:
        return Fusion()
    fusion = checked_fusion(fusion, legs=3 if layout.lexical else 2)
    if mode != "hybrid":
        raise InvalidInput(
            f"fusion joins the legs of a hybrid search, and the mode is {mode!r}",
            fix="Leave fusion out, or search with mode='hybrid'.",
        )
    return fusion


def _check_collection(plan: SearchPlan, manifest: Manifest) -> None:
    layout, name, refine = manifest.layout, manifest.collection, plan.options.refine
    if plan.mode == "lexical" and not layout.lexical:
        raise InvalidInput(
            f"mode is 'lexical', but the collection {name!r} stores no lexical weights",
            fix="Search with mode='sparse' (BM25), or index with bge-m3 and lexical=True.",
        )
    if refine is None:
        return
    if layout.token_dimension is None:
        raise InvalidInput(
            f"refine is {refine}, but the collection {name!r} stores no token vectors to refine by",
            fix="Leave refine out, or index with token_vectors=True.",
        )
    if refine < plan.fetch:
        raise InvalidInput(
            f"refine is {refine}, fewer than the {plan.fetch} candidates that are taken from it",
            fix=f"Give refine as {plan.fetch} or more, or ask for fewer candidates.",
        )


def _check_encoder(plan: SearchPlan, encoder: Encoder) -> None:
    if (plan.lexical or plan.token_vectors) and not isinstance(encoder, MultiEncoder):
        what = "lexical weights" if plan.lexical else "token vectors"
        raise InvalidInput(
            f"the search needs {what} of the query, and the encoder {encoder.info.model!r} as it "
            "was given has no encode_all() to make them",
            fix="Let retrieval.open() load the encoder, or search with mode='dense' or "
            "mode='sparse' and without refine.",
        )


def checked_fusion(fusion: Fusion, *, legs: int) -> Fusion:
    """A fusion that can be used, with its weights as floats.

    Args:
        fusion: how the legs are joined.
        legs: of the hybrid search: 2, or 3 with lexical weights.

    Raises:
        InvalidInput: a value cannot be used, or no leg has any weight.
    """
    if not isinstance(fusion, Fusion):
        raise InvalidInput(
            f"fusion is {fusion!r}, expected a Fusion",
            fix="Make one with retrieval.types.Fusion(method='rrf', weights=(2, 1, 1)).",
        )
    one_of(fusion.method, ("rrf", "dbsf"), "the fusion method")
    whole_number(fusion.k, "the fusion's k")
    weights = fusion.weights
    fine = isinstance(weights, (tuple, list)) and len(weights) == 3
    if not fine or not all(is_number(weight, least=0) for weight in weights):
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
