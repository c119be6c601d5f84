"""TwoStageRetriever: the only place where the two stages meet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar, get_args

import numpy as np

from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.fusion import rrf
from retrieval.index.manifest import check_manifest
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
    SearchResult,
    Timings,
    Where,
)

T = TypeVar("T")

DEFAULT_CANDIDATES = 50
DEFAULT_MODE: Mode = "hybrid"


class TwoStageRetriever:
    """Find candidates in an index, put them in order with a reranker.

    Args:
        encoder: the bi-encoder; must be the one the collection was built with.
        index: an open collection.
        reranker: the second stage, or None for first-stage order.
        mode: first stage where a search names none: dense, sparse (BM25) or hybrid.
        candidates: how many passages the first stage fetches and the second re-orders.
        blend: how the two orders are joined; None takes the reranker's measured default.

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
    ) -> None:
        check_manifest(index.manifest, replace(index.manifest, encoder=encoder.info))
        self.encoder = encoder
        self.index = index
        self.reranker = reranker
        self.mode = _one_of(mode, Mode, "mode")
        self.candidates = _positive(candidates, "candidates")
        self.blend = None if blend is None else _one_of(blend, Blend, "blend")
        self.notices = tuple(notices)

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
        progress: ProgressCallback | None = None,
    ) -> list[SearchResult]:
        """Answer many queries; their pairs share the reranker's batches.

        As `search`, and: `fetch` is the first stage's depth where it should be deeper than the
        `candidates` that are re-ranked; passages between the two follow in first-stage order.
        The times of a batch are shared equally among its queries. `progress` counts re-ranked
        pairs.
        """
        plan = self._plan(top_k, candidates, fetch, mode, rerank, blend, min_relevance)
        if isinstance(queries, str):
            raise InvalidQuery(
                "queries is one text, expected a list of them",
                fix="Use search() for one query, or put it into a list.",
            )
        texts = [_checked_query(query) for query in queries]
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

        hits, cut = self._second_stage(texts, found, plan, progress)
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
                hits=tuple(query_hits[: plan.top_k]),
                candidates=tuple(candidates_),
                mode=plan.mode,
                blend=plan.blend,
                encoder=self.encoder.info.model,
                reranker=plan.reranker.info.model if plan.reranker else None,
                timings=timings,
                notices=(*self.notices, *self._notices(text, plan, cut_pairs)),
            )
            for text, candidates_, query_hits, cut_pairs in zip(
                texts, found, hits, cut, strict=True
            )
        ]

    def count(self) -> int:
        """Passages in the collection."""
        return self.index.count()

    def close(self) -> None:
        """Close the index; the models are left to the garbage collector."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _plan(
        self,
        top_k: int,
        candidates: int | None,
        fetch: int | None,
        mode: Mode | None,
        rerank: bool,
        blend: Blend | None,
        min_relevance: float | None,
    ) -> _Plan:
        top_k = _positive(top_k, "top_k")
        depth = _positive(self.candidates if candidates is None else candidates, "candidates")
        chosen_mode = self.mode if mode is None else _one_of(mode, Mode, "mode")
        reranker = self.reranker if rerank else None
        if blend is not None:
            _one_of(blend, Blend, "blend")
        if reranker is None:
            chosen_blend: Blend = "none"
        else:
            chosen_blend = blend or self.blend or reranker.info.default_blend
        if min_relevance is not None:
            if not isinstance(min_relevance, (int, float)) or not 0.0 <= min_relevance <= 1.0:
                raise InvalidInput(
                    f"min_relevance is {min_relevance!r}, expected a number from 0 to 1",
                    fix="Relevance is the sigmoid of the reranker's score; try 0.3 and look at "
                    "the `relevance` of your own hits.",
                )
            if reranker is None and chosen_mode != "dense":
                raise InvalidInput(
                    f"min_relevance needs a relevance scale, and {chosen_mode} search without "
                    "a reranker has none",
                    fix="Re-rank, or use mode='dense', or leave min_relevance out.",
                )
        if fetch is None:
            # Without a second stage there is no need to fetch more than is asked for, but the
            # candidates are part of the result, and callers compare both orders.
            depth = fetch_depth = max(depth, top_k)
        else:
            fetch_depth = max(_positive(fetch, "fetch"), depth, top_k)
        return _Plan(top_k, depth, fetch_depth, chosen_mode, reranker, chosen_blend, min_relevance)

    def _second_stage(
        self,
        texts: Sequence[str],
        found: Sequence[list[Candidate]],
        plan: _Plan,
        progress: ProgressCallback | None,
    ) -> tuple[list[list[Hit]], list[int]]:
        """Hits of every query in final order, and how many of its pairs were truncated."""
        if plan.reranker is None:
            return [self._first_stage_hits(candidates, plan) for candidates in found], [0] * len(
                texts
            )
        pairs = [
            (text, candidate.passage.content)
            for text, candidates in zip(texts, found, strict=True)
            for candidate in candidates[: plan.depth]
        ]
        scores = plan.reranker.score(pairs, progress=progress)
        relevance = plan.reranker.relevance(scores.values)
        hits: list[list[Hit]] = []
        cut: list[int] = []
        start = 0
        for candidates in found:
            stop = start + min(plan.depth, len(candidates))
            hits.append(
                _reranked(candidates, scores.values[start:stop], relevance[start:stop], plan)
            )
            cut.append(int(scores.truncated[start:stop].sum()))
            start = stop
        return hits, cut

    def _first_stage_hits(self, candidates: Sequence[Candidate], plan: _Plan) -> list[Hit]:
        # A cosine is a relevance scale of a kind; BM25 and RRF scores are not bounded by meaning.
        hits = [
            Hit(
                passage=candidate.passage,
                rank=candidate.rank,
                score=candidate.score,
                relevance=min(max(candidate.score, 0.0), 1.0) if plan.mode == "dense" else None,
                stage1_rank=candidate.rank,
                stage1_score=candidate.score,
            )
            for candidate in candidates
        ]
        return _threshold(hits, plan.min_relevance)

    def _notices(self, query: str, plan: _Plan, cut_pairs: int) -> list[str]:
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
        if cut_pairs and plan.reranker is not None:
            notices.append(
                f"{cut_pairs} of the re-ranked passages were longer than the reranker reads "
                f"({plan.reranker.info.max_length:,} tokens with the query) and were cut."
            )
        return notices


@dataclass(frozen=True, slots=True)
class _Plan:
    """One search's settled settings."""

    top_k: int
    depth: int
    fetch: int
    mode: Mode
    reranker: Reranker | None
    blend: Blend
    min_relevance: float | None


def _reranked(
    candidates: Sequence[Candidate],
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    relevance: np.ndarray[tuple[int], np.dtype[np.float64]],
    plan: _Plan,
) -> list[Hit]:
    depth = len(values)
    ids = [candidate.passage.id for candidate in candidates[:depth]]
    by_reranker = sorted(range(depth), key=lambda row: (-values[row], ids[row]))
    stage2_rank = {row: rank for rank, row in enumerate(by_reranker, start=1)}
    if plan.blend == "rrf":
        row_of = {id_: row for row, id_ in enumerate(ids)}
        fused = rrf([ids, [ids[row] for row in by_reranker]])
        order = [(row_of[id_], score) for id_, score in fused]
    else:
        order = [(row, float(values[row])) for row in by_reranker]
    hits = [
        Hit(
            passage=candidates[row].passage,
            rank=rank,
            score=score,
            relevance=float(relevance[row]),
            stage1_rank=candidates[row].rank,
            stage1_score=candidates[row].score,
            stage2_rank=stage2_rank[row],
            stage2_score=float(values[row]),
        )
        for rank, (row, score) in enumerate(order, start=1)
    ]
    hits += [
        Hit(
            passage=candidate.passage,
            rank=candidate.rank,
            score=candidate.score,
            relevance=None,
            stage1_rank=candidate.rank,
            stage1_score=candidate.score,
        )
        for candidate in candidates[depth:]
    ]
    return _threshold(hits, plan.min_relevance)


def _threshold(hits: list[Hit], min_relevance: float | None) -> list[Hit]:
    if min_relevance is None:
        return hits
    kept = [h for h in hits if h.relevance is not None and h.relevance >= min_relevance]
    # A blended order is not the order of relevance, so ranks may have gaps to close.
    return [replace(hit, rank=rank) for rank, hit in enumerate(kept, start=1)]


def _checked_query(query: object) -> str:
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


def _positive(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(
            f"{name} is {value!r}, expected a whole number of at least 1",
            fix=f"Give {name} as 1, 10, 50 …",
        )
    return value


def _one_of(value: T, choices: object, name: str) -> T:
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidInput(
            f"{name} is {value!r}, expected one of {', '.join(allowed)}",
            fix=f"Choose one of them for {name}.",
        )
    return value
