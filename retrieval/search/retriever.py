"""TwoStageRetriever: the only place where the two stages meet."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from retrieval.errors import InvalidQuery
from retrieval.index.manifest import check_manifest
from retrieval.search.first_stage import FirstStage, encode, query_notices
from retrieval.search.options import (
    SearchOptions,
    checked_query,
    one_of,
    plan_search,
    positive,
)
from retrieval.search.paging import choose_hits
from retrieval.search.rerank import read_candidates, reading_notices
from retrieval.types import (
    Blend,
    Encoder,
    Fusion,
    Index,
    Mode,
    ProgressCallback,
    Reranker,
    SearchResult,
    Timings,
    Where,
)

DEFAULT_CANDIDATES = 50
DEFAULT_MODE: Mode = "hybrid"


class TwoStageRetriever:
    """Find candidates in an index, put them in order with a reranker.

    Args:
        encoder: the bi-encoder; must be the one the collection was built with.
        index: an open collection.
        reranker: the second stage, or None for first-stage order.
        mode: first stage where a search names none: dense, sparse (BM25), lexical (the encoder's
            own term weights, where the collection has them) or hybrid.
        candidates: how many passages the first stage fetches and the second re-orders.
        blend: how the two orders are joined; None takes the reranker's measured default.
        tenant: whose passages are searched where a search names none, see `Index`.
        notices: sentences that every result carries.
        owned: models that nobody else uses: closed with the index, where they can be closed.

    Raises:
        ManifestMismatch: the encoder is not the one that filled the collection.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: Index,
        reranker: Reranker | None = None,
        *,
        mode: Mode = DEFAULT_MODE,
        candidates: int = DEFAULT_CANDIDATES,
        blend: Blend | None = None,
        tenant: str | None = None,
        notices: Sequence[str] = (),
        owned: Sequence[object] = (),
    ) -> None:
        check_manifest(index.manifest, replace(index.manifest, encoder=encoder.info))
        self.encoder = encoder
        self.index = index
        self.reranker = reranker
        self.mode = one_of(mode, Mode, "mode")
        self.candidates = positive(candidates, "candidates")
        self.blend = None if blend is None else one_of(blend, Blend, "blend")
        self.tenant = tenant
        self.notices = tuple(notices)
        self._owned = tuple(owned)

    def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        candidates: int | None = None,
        mode: Mode | None = None,
        where: Where | None = None,
        rerank: bool = True,
        blend: Blend | None = None,
        min_relevance: float | None = None,
        budget_ms: float | None = None,
        offset: int = 0,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
        min_score: float | None = None,
        fusion: Fusion | None = None,
        refine: int | None = None,
        exact: bool = False,
        tenant: str | None = None,
    ) -> SearchResult:
        """Answer one query; best passage first, ties by passage id.

        In which order the options act is told in `retrieval.search.options`.

        Args:
            query: what the user asks, in their words; the instruction is added here.
            top_k: how many hits at most.
            candidates: how many first-stage passages are re-ranked (at least `top_k` are).
            mode: first stage for this search.
            where: filter over passages, see `retrieval.index.filters`.
            rerank: False keeps the first stage's order.
            blend: "none" (reranker's order) or "rrf" (joined with the first stage's).
            min_relevance: hits below this relevance, in [0, 1], are left out.
            budget_ms: milliseconds that the second stage may take. It reads the best candidates
                first and as many as fit, at least one; the others follow in first-stage order,
                and the result says how many were read (`reranked`). None reads all.
            offset: how many hits to skip. Pages of one `top_k` continue one another exactly
                (with a time budget: as far as it goes equally deep); passages beyond the
                `candidates` follow in first-stage order.
            per_document: at most so many hits of one document, its best ones. The first stage
                goes deeper until there are enough hits.
            diversity: from 0 to 1, how much less a hit counts that is like one before it (maximal
                marginal relevance, see `retrieval.search.paging.diverse`); None or 0: not at all.
            neighbours: how many passages before and after each hit, of its document, come along.
            min_score: candidates whose first-stage score is lower are left out before they are
                re-ranked. On the mode's own scale: cosine for dense, BM25 score for sparse,
                product of term weights for lexical, sum of the fusion for hybrid.
            fusion: how the legs of a hybrid search are joined.
            refine: so many first-stage results are put in order by MaxSim over the stored token
                vectors of the collection, before the reranker reads the best of them.
            exact: compare with every vector, instead of the approximate index: slower.
            tenant: whose passages are searched, where the collection keeps tenants apart; None
                for the retriever's own.

        Raises:
            InvalidQuery: empty or not text.
            InvalidInput: another argument's value cannot be used, here or at all.
            InvalidFilter: `where` cannot be understood.
        """
        return self.search_batch(
            [query],
            top_k=top_k,
            candidates=candidates,
            mode=mode,
            where=where,
            rerank=rerank,
            blend=blend,
            min_relevance=min_relevance,
            budget_ms=budget_ms,
            offset=offset,
            per_document=per_document,
            diversity=diversity,
            neighbours=neighbours,
            min_score=min_score,
            fusion=fusion,
            refine=refine,
            exact=exact,
            tenant=tenant,
        )[0]

    def search_batch(
        self,
        queries: Sequence[str],
        *,
        top_k: int = 10,
        candidates: int | None = None,
        fetch: int | None = None,
        mode: Mode | None = None,
        where: Where | None = None,
        rerank: bool = True,
        blend: Blend | None = None,
        min_relevance: float | None = None,
        budget_ms: float | None = None,
        offset: int = 0,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
        min_score: float | None = None,
        fusion: Fusion | None = None,
        refine: int | None = None,
        exact: bool = False,
        tenant: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[SearchResult]:
        """Answer many queries, each as `search` does; they share the calls of both stages.

        `fetch` is the first stage's depth where it should be deeper than the `candidates` that
        are re-ranked; passages between the two follow in first-stage order. The times of a batch
        are shared equally among its queries. `budget_ms` is for the second stage of the whole
        batch: the queries take turns, so all get equally deep. `progress` counts re-ranked pairs.
        """
        plan = plan_search(
            SearchOptions(
                top_k=top_k,
                candidates=self.candidates if candidates is None else candidates,
                mode=self.mode if mode is None else mode,
                fetch=fetch,
                blend=self.blend if blend is None else blend,
                min_relevance=min_relevance,
                budget_ms=budget_ms,
                offset=offset,
                per_document=per_document,
                diversity=diversity,
                neighbours=neighbours,
                min_score=min_score,
                fusion=fusion,
                refine=refine,
                exact=exact,
            ),
            self.reranker if rerank else None,
            self.encoder,
            self.index.manifest,
        )
        if isinstance(queries, str):
            raise InvalidQuery(
                "queries is one text, expected a list of them",
                fix="Use search() for one query, or put it into a list.",
            )
        texts = [checked_query(query) for query in queries]
        if not texts:
            return []
        owner = self.tenant if tenant is None else tenant

        started = time.perf_counter()
        encoded = encode(self.encoder, texts, plan)
        encode_seconds = time.perf_counter() - started
        first = FirstStage(self.index, encoded, plan, where, owner)
        reading = time.perf_counter()
        read = read_candidates(texts, first.found, plan, progress)
        read_seconds = time.perf_counter() - reading
        pages = choose_hits(self.index, first, read, plan, owner)
        total_seconds = time.perf_counter() - started

        share = 1000.0 / len(texts)
        timings = Timings(
            encode_ms=encode_seconds * share,
            retrieve_ms=(total_seconds - encode_seconds - read_seconds) * share,
            rerank_ms=read_seconds * share if plan.reranker else 0.0,
            total_ms=total_seconds * share,
        )
        return [
            SearchResult(
                query=text,
                hits=tuple(hits),
                candidates=tuple(candidates_),
                mode=plan.mode,
                blend=plan.blend,
                encoder=self.encoder.info.model,
                reranker=plan.reranker.info.model if plan.reranker else None,
                timings=timings,
                notices=(
                    *self.notices,
                    *query_notices(self.encoder, text, plan),
                    *reading_notices(own, plan, hits, len(texts)),
                ),
                reranked=own.reranked,
                offset=plan.offset,
            )
            for text, candidates_, own, hits in zip(texts, first.found, read, pages, strict=True)
        ]

    def count(self, *, tenant: str | None = None) -> int:
        """Passages in the collection; with tenants, those of this one or the retriever's own."""
        return self.index.count(tenant=self.tenant if tenant is None else tenant)

    def over(self, index: Index) -> Self:
        """The same models and settings over another index.

        The models that belong to this retriever then belong to the new one: closing this one
        closes its index alone.

        Raises:
            ManifestMismatch: another encoder filled that index; nothing was changed.
        """
        check_manifest(index.manifest, replace(index.manifest, encoder=self.encoder.info))
        other = copy.copy(self)
        other.index = index
        self._owned = ()
        return other

    def close(self) -> None:
        """Close the index, and the models that were loaded for this retriever alone."""
        try:
            self.index.close()
        finally:
            close_models(self._owned)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def close_models(models: Sequence[object]) -> None:
    """End what models keep running beside memory (workers on other devices)."""
    for model in models:
        close = getattr(model, "close", None)
        if close is not None:
            close()
