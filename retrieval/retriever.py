"""TwoStageRetriever: the only place where the two stages meet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from retrieval.errors import InvalidQuery
from retrieval.index.manifest import check_manifest
from retrieval.models.budget import score_within
from retrieval.planning import SearchPlan, checked_query, one_of, plan_search, positive
from retrieval.results import first_stage_hits, reranked_hits, threshold
from retrieval.types import (
    Blend,
    Candidate,
    Encoder,
    FloatArray,
    Hit,
    Index,
    Mode,
    ProgressCallback,
    Reranker,
    Scores,
    SearchResult,
    Timings,
    Where,
)

DEFAULT_CANDIDATES = 50
DEFAULT_MODE: Mode = "hybrid"
BUDGET_NOTICE = "The time budget of"
"""How a notice begins that tells how deep a search with a time budget went."""


class TwoStageRetriever:
    """Find candidates in an index, put them in order with a reranker.

    Args:
        encoder: the bi-encoder; must be the one the collection was built with.
        index: an open collection.
        reranker: the second stage, or None for first-stage order.
        mode: first stage where a search names none: dense, sparse (BM25) or hybrid.
        candidates: how many passages the first stage fetches and the second re-orders.
        blend: how the two orders are joined; None takes the reranker's measured default.
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
    ) -> SearchResult:
        """Answer one query; best passage first, ties by passage id.

        Args:
            query: what the user asks, in their words; the instruction is added here.
            top_k: how many hits at most.
            candidates: how many first-stage passages are re-ranked (at least `top_k` are).
            mode: first stage for this search.
            where: filter over passages, see `retrieval.index.filters`.
            rerank: False keeps the first stage's order.
            blend: "none" (reranker's order) or "rrf" (joined with the first stage's).
            min_relevance: hits below this relevance, in [0, 1], are left out at the very end.
            budget_ms: milliseconds that the second stage may take. It reads the best candidates
                first and as many as fit, at least one; the others follow in first-stage order,
                and the result says how many were read (`reranked`). None reads all.

        Raises:
            InvalidQuery: empty or not text.
            InvalidInput: another argument's value cannot be used.
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
        progress: ProgressCallback | None = None,
    ) -> list[SearchResult]:
        """Answer many queries; their pairs share the reranker's batches.

        As `search`, and: `fetch` is the first stage's depth where it should be deeper than the
        `candidates` that are re-ranked; passages between the two follow in first-stage order.
        The times of a batch are shared equally among its queries. `budget_ms` is for the second
        stage of the whole batch: the queries take turns, so all get equally deep. `progress`
        counts re-ranked pairs.
        """
        plan = plan_search(
            self.reranker if rerank else None,
            top_k=top_k,
            candidates=self.candidates if candidates is None else candidates,
            fetch=fetch,
            mode=self.mode if mode is None else mode,
            blend=self.blend if blend is None else blend,
            min_relevance=min_relevance,
            budget_ms=budget_ms,
        )
        if isinstance(queries, str):
            raise InvalidQuery(
                "queries is one text, expected a list of them",
                fix="Use search() for one query, or put it into a list.",
            )
        texts = [checked_query(query) for query in queries]
        if not texts:
            return []

        started = time.perf_counter()
        vectors: FloatArray | None = None
        if plan.mode != "sparse":
            vectors = self.encoder.encode_queries(texts)
        encoded = time.perf_counter()

        found = [
            self.index.search(
                mode=plan.mode,
                limit=plan.fetch,
                vector=None if vectors is None else vectors[row],
                text=None if plan.mode == "dense" else text,
                where=where,
            )
            for row, text in enumerate(texts)
        ]
        retrieved = time.perf_counter()

        read = self._second_stage(texts, found, plan, progress)
        finished = time.perf_counter()

        share = 1000.0 / len(texts)
        timings = Timings(
            encode_ms=(encoded - started) * share,
            retrieve_ms=(retrieved - encoded) * share,
            rerank_ms=(finished - retrieved) * share if plan.reranker else 0.0,
            total_ms=(finished - started) * share,
        )
        return [
            SearchResult(
                query=text,
                hits=tuple(own.hits[: plan.top_k]),
                candidates=tuple(candidates_),
                mode=plan.mode,
                blend=plan.blend,
                encoder=self.encoder.info.model,
                reranker=plan.reranker.info.model if plan.reranker else None,
                timings=timings,
                notices=(*self.notices, *self._notices(text, plan, own, len(texts))),
                reranked=own.reranked,
            )
            for text, candidates_, own in zip(texts, found, read, strict=True)
        ]

    def count(self) -> int:
        """Passages in the collection."""
        return self.index.count()

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

    def _second_stage(
        self,
        texts: Sequence[str],
        found: Sequence[list[Candidate]],
        plan: SearchPlan,
        progress: ProgressCallback | None,
    ) -> list[_Read]:
        """What the second stage made of every query's candidates."""
        if plan.reranker is None:
            return [
                _Read(threshold(first_stage_hits(candidates, plan.mode), plan.min_relevance))
                for candidates in found
            ]
        groups = [
            [(text, candidate.passage.content) for candidate in candidates[: plan.depth]]
            for text, candidates in zip(texts, found, strict=True)
        ]
        if plan.budget_ms is None:
            scores = _score_all(plan.reranker, groups, progress)
        else:
            scores = score_within(plan.reranker, groups, plan.budget_ms, progress=progress)
        return [
            _Read(
                threshold(
                    reranked_hits(candidates, own, plan.reranker.relevance(own.values), plan.blend),
                    plan.min_relevance,
                ),
                reranked=len(own.values),
                of=len(group),
                truncated=int(own.truncated.sum()),
            )
            for candidates, group, own in zip(found, groups, scores, strict=True)
        ]

    def _notices(self, query: str, plan: SearchPlan, read: _Read, queries: int) -> list[str]:
        notices = []
        longest = self.encoder.info.max_length
        # A token has at least one character, so most queries are cleared without tokenising.
        prefix = self.encoder.info.query_instruction
        if plan.mode != "sparse" and len(query) + len(prefix) > longest - 2:
            counter = self.encoder.token_counter
            tokens = len(counter.token_offsets(prefix + query)) + counter.special_tokens
            if tokens > longest:
                notices.append(
                    f"The query has {tokens:,} tokens; the encoder read the first {longest:,}."
                )
        if read.truncated and plan.reranker is not None:
            notices.append(
                f"{read.truncated} of the re-ranked passages were longer than the reranker reads "
                f"({plan.reranker.info.max_length:,} tokens with the query) and were cut."
            )
        if read.reranked < read.of:
            shared = f" for {queries:,} queries" if queries > 1 else ""
            others = (
                "follow in first-stage order"
                if plan.min_relevance is None
                else "have no relevance and are left out"
            )
            notices.append(
                f"{BUDGET_NOTICE} {plan.budget_ms:g} ms{shared} re-ranked {read.reranked} of "
                f"{read.of} candidates; the others {others}."
            )
        return notices


@dataclass(frozen=True, slots=True)
class _Read:
    """One query's hits in final order, and how many pairs were read, of how many, and cut."""

    hits: list[Hit]
    reranked: int = 0
    of: int = 0
    truncated: int = 0


def _score_all(
    reranker: Reranker,
    groups: Sequence[Sequence[tuple[str, str]]],
    progress: ProgressCallback | None,
) -> list[Scores]:
    """The scores of every group, from one call in which all share batches."""
    scores = reranker.score([pair for group in groups for pair in group], progress=progress)
    own: list[Scores] = []
    start = 0
    for group in groups:
        rows = slice(start, start + len(group))
        own.append(
            Scores(
                values=scores.values[rows],
                truncated=scores.truncated[rows],
                tokens=None if scores.tokens is None else scores.tokens[rows],
                spans=None if scores.spans is None else scores.spans[rows],
            )
        )
        start = rows.stop
    return own


def close_models(models: Sequence[object]) -> None:
    """End what models keep running beside memory (workers on other devices)."""
    for model in models:
        close = getattr(model, "close", None)
        if close is not None:
            close()
