"""TwoStageRetriever: the only place where the two stages meet."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self, Unpack

from retrieval._validate import one_of, query_text, whole_number
from retrieval.errors import InvalidFilter, InvalidQuery
from retrieval.index.manifest import check_manifest
from retrieval.search.defaults import defaults_notice, with_defaults
from retrieval.search.filter_facts import explain
from retrieval.search.first_stage import FirstStage, encode, query_notices
from retrieval.search.options import (
    DEFAULT_MODE,
    SearchArguments,
    SearchOptions,
)
from retrieval.search.paging import choose_hits
from retrieval.search.plan import SearchPlan, plan_search
from retrieval.search.rerank import Read, read_candidates, reading_notices
from retrieval.types import (
    BlendChoice,
    Encoder,
    Hit,
    Index,
    IndexQuery,
    Mode,
    ProgressCallback,
    Reranker,
    SearchResult,
    Timings,
)
from retrieval.types.closing import Closing


class TwoStageRetriever(Closing):
    """Find candidates in an index, put them in order with a reranker.

    Args:
        encoder: the bi-encoder; must be the one the collection was built with.
        index: an open collection.
        reranker: the second stage, or None for first-stage order.
        mode: first stage where a search names none: dense, sparse (BM25), lexical (the encoder's
            own term weights, where the collection has them) or hybrid. None takes the
            collection's default, else hybrid.
        candidates: how many passages the second stage re-orders where a search does not say; None
            takes the collection's default, else 50, of which a cross-encoder on a CPU reads what
            takes about half a second.
        blend: how the two orders are joined; None takes the collection's default, else the
            reranker's measured one.
        tenant: tenant that is searched if a search names none, see `Index`.
        notices: sentences that every result carries.
        owned: models that nobody else uses: closed with the index, where they can be closed.

    Raises:
        ManifestMismatch: the encoder is not the one that filled the collection.

    Example:
        `retrieval.open` makes one; here from its parts, with models that the caller chooses:

        >>> import retrieval
        >>> encoder = retrieval.BiEncoder("starter")
        >>> documents = [retrieval.Document("a", "The gate closes at ten."),
        ...              retrieval.Document("b", "Soup is served at noon.")]
        >>> _ = retrieval.ingest(documents, "times", encoder=encoder)
        >>> index = retrieval.Store().open("times")
        >>> reranker = retrieval.LateInteractionReranker(encoder)
        >>> with retrieval.TwoStageRetriever(encoder, index, reranker) as retriever:
        ...     hit = retriever.search("when can I eat?", top_k=1).hits[0]
        >>> hit.passage.document_id, hit.stage2_rank
        ('b', 1)
    """

    def __init__(
        self,
        encoder: Encoder,
        index: Index,
        reranker: Reranker | None = None,
        *,
        mode: Mode | None = None,
        candidates: int | None = None,
        blend: BlendChoice | None = None,
        tenant: str | None = None,
        notices: Sequence[str] = (),
        owned: Sequence[object] = (),
    ) -> None:
        check_manifest(index.manifest, replace(index.manifest, encoder=encoder.info))
        self.encoder = encoder
        self.index = index
        self.reranker = reranker
        self.tuning = index.manifest.tuning
        self._mode = None if mode is None else one_of(mode, Mode, "mode")
        self._candidates = None if candidates is None else whole_number(candidates, "candidates")
        self.blend = None if blend is None else one_of(blend, BlendChoice, "blend")
        self.tenant = tenant
        self.notices = tuple(notices)
        self._owned = tuple(owned)

    @property
    def mode(self) -> Mode:
        """First stage where a search names none."""
        return self._mode or self.tuning.defaults.mode or DEFAULT_MODE

    @property
    def candidates(self) -> int | None:
        """How many candidates are re-ranked where a search does not say; None for 50."""
        return self._candidates or self.tuning.defaults.candidates

    def search(self, query: str, **options: Unpack[SearchArguments]) -> SearchResult:
        """Answer one query; best passage first, ties by passage id.

        Args:
            query: what the user asks, in their words; the instruction is added here.
            options: the fields of `SearchOptions`. Where mode, candidates, blend or tenant is
                left out, the retriever's own applies.

        Returns:
            The hits of one page, and how they were found.

        Raises:
            InvalidQuery: the query is empty or not text.
            InvalidInput: an option's value cannot be used, for this collection or at all.
            InvalidFilter: `where` cannot be understood.
        """
        return self.search_batch([query], **options)[0]

    def search_batch(
        self,
        queries: Sequence[str],
        *,
        progress: ProgressCallback | None = None,
        **options: Unpack[SearchArguments],
    ) -> list[SearchResult]:
        """Answer many queries, each as `search` does; they share the calls of both stages.

        Args:
            queries: any number of them.
            progress: called with the pairs that are re-ranked so far, and all of them.
            options: of every query, as for `search`. `budget_ms` is for the second stage of the
                whole batch: the queries take turns, so all get equally deep.

        Returns:
            One result per query, in their order. The times of the batch are shared equally.

        Raises:
            As `search`.
        """
        plan, taken = self._planned(options)
        if isinstance(queries, str):
            raise InvalidQuery(
                "queries is one text, expected a list of them",
                fix="Use search() for one query, or put it into a list.",
            )
        texts = [query_text(query) for query in queries]
        if not texts:
            return []
        started = time.perf_counter()
        encoded = encode(self.encoder, texts, plan)
        encode_seconds = time.perf_counter() - started
        first, filtered = self._filtered(encoded, plan)
        reading = time.perf_counter()
        read = read_candidates(texts, first.found, plan, progress)
        read_seconds = time.perf_counter() - reading
        pages = choose_hits(self.index, first, read, plan)
        total_seconds = time.perf_counter() - started
        share = 1000.0 / len(texts)
        timings = Timings(
            encode_ms=encode_seconds * share,
            retrieve_ms=(total_seconds - encode_seconds - read_seconds) * share,
            rerank_ms=read_seconds * share if plan.reranker else 0.0,
            total_ms=total_seconds * share,
        )
        return [
            self._result(
                text, row, first, pages[row], read[row], plan, timings, len(texts), taken, filtered
            )
            for row, text in enumerate(texts)
        ]

    def _filtered(
        self, queries: Sequence[IndexQuery], plan: SearchPlan
    ) -> tuple[FirstStage, tuple[str, ...]]:
        """What the first stage finds; where the filter lets nothing through, why, and what it
        finds with values of the kind that the fields have."""
        where, tenant = plan.options.where, plan.options.tenant
        try:
            first = FirstStage(self.index, queries, plan)
        except InvalidFilter:  # such as numbers where an index is one of dates
            explained = None if where is None else explain(self.index, where, tenant)
            if explained is None or explained.where is None:
                raise
        else:
            if where is None or any(first.found):
                return first, ()
            explained = explain(self.index, where, tenant)
            if explained is None or explained.where is None:
                return first, () if explained is None else explained.notices
        options = replace(plan.options, where=explained.where)
        again = FirstStage(self.index, queries, replace(plan, options=options))
        return again, explained.notices

    def plan(self, **options: Unpack[SearchArguments]) -> SearchPlan:
        """What a search with these options would do; nothing is computed.

        Raises:
            InvalidInput: an option's value cannot be used, for this collection or at all.
        """
        return self._planned(options)[0]

    def _planned(self, given: SearchArguments) -> tuple[SearchPlan, tuple[str, ...]]:
        """The plan, and which of its options are the collection's defaults."""
        values: dict[str, Any] = dict(given)
        own = {"mode": self._mode, "candidates": self._candidates, "blend": self.blend}
        for name, value in {**own, "tenant": self.tenant}.items():
            if values.get(name) is None:
                values[name] = value
        values, taken = with_defaults(values, self.tuning.defaults, self.reranker)
        plan = plan_search(
            SearchOptions(**values),
            self.reranker,
            self.encoder,
            self.index.manifest,
            calibration=self.tuning.calibration,
            by_default=taken,
        )
        return plan, taken

    def _result(
        self,
        query: str,
        row: int,
        first: FirstStage,
        hits: Sequence[Hit],
        read: Read,
        plan: SearchPlan,
        timings: Timings,
        queries: int,
        by_default: tuple[str, ...],
        filtered: tuple[str, ...],
    ) -> SearchResult:
        name = self.index.manifest.collection
        return SearchResult(
            query=query,
            hits=tuple(hits),
            candidates=tuple(first.found[row]),
            mode=plan.mode,
            blend=plan.blend,
            encoder=self.encoder.info.model,
            reranker=plan.reranker.info.model if plan.reranker else None,
            timings=timings,
            notices=(
                *self.notices,
                *defaults_notice(name, self.tuning.defaults, by_default, plan.reranker),
                *query_notices(self.encoder, query, plan),
                *reading_notices(read, plan, hits, queries),
                *plan.relevance.notices,
                *first.notices(row, len(hits)),
                *filtered,
            ),
            reranked=read.reranked,
            offset=plan.options.offset,
            relevance_is=plan.relevance.scale,
            best_relevance=read.best,
        )

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
        other.tuning = index.manifest.tuning
        self._owned = ()
        return other

    def close(self) -> None:
        """Close the index, and the models that were loaded for this retriever alone."""
        try:
            self.index.close()
        finally:
            close_models(self._owned)


def close_models(models: Sequence[object]) -> None:
    """End what models keep running beside memory (workers on other devices)."""
    for model in models:
        close = getattr(model, "close", None)
        if close is not None:
            close()
