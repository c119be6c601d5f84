"""One search under its deadline: what the retriever does, and what happens if time runs out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.backend.loaded_models import LoadedModels
from app.batching.admission import Work
from app.batching.batcher import Batcher
from app.batching.deadline import Control, controlled, current
from app.batching.encoder import BatchedEncoder
from app.batching.reranker import BatchedReranker
from app.errors import DeadlinePassed
from app.observability.search_log import SearchLog
from app.types import Observer, OnTimeout
from retrieval import SearchResult, TwoStageRetriever
from retrieval.errors import ModelFault
from retrieval.search.options import DEFAULT_CANDIDATES, SearchOptions

# A search whose time ran out answers from its first stage within this many seconds.
GRACE_SECONDS = 2.0
# Re-ranking gets this share of the time that is left: an estimate is not always kept.
_RERANK_SHARE = 0.9
_LEAST_BUDGET_MS = 1.0
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class SearchCall:
    """One search of a caller. deadline: `time.monotonic()` seconds, None for none."""

    queries: Sequence[str]
    options: SearchOptions
    deadline: float | None = None
    on_timeout: OnTimeout = "error"

    @property
    def gives_up(self) -> float | None:
        """When nobody waits for the answer any longer."""
        if self.deadline is None or self.on_timeout == "error":
            return self.deadline
        return self.deadline + GRACE_SECONDS


class Searching:
    """Searches, what they cost, and what they fall back to.

    Args:
        observer: gets how long the stages took, and what was found.
        log: gets what was found.
    """

    def __init__(self, observer: Observer, log: SearchLog) -> None:
        self._observer = observer
        self._log = log
        self._first_stage_s = 0.0
        self._read: dict[str, float] = {}  # collection → pairs that a query's reranking reads

    def costs(self, retriever: TwoStageRetriever | None, call: SearchCall) -> Work:
        """Tokens that a search will need of each model, estimated; none of a closed collection."""
        if retriever is None:
            return {}
        costs: dict[Batcher[Any, Any], int] = {}
        options = call.options
        texts = [text for text in call.queries if isinstance(text, str)]
        encoder, reranker = retriever.encoder, retriever.reranker
        mode = options.mode or retriever.mode
        if isinstance(encoder, BatchedEncoder) and mode != "sparse":
            costs[encoder.batcher] = encoder.tokens(texts)
        if isinstance(reranker, BatchedReranker) and _reranks(retriever, options):
            candidates = options.candidates or retriever.candidates or DEFAULT_CANDIDATES
            most = max(candidates, options.top_k)
            # A small collection, or a narrow filter, gives fewer candidates than requested.
            # Before the first answer nothing is known, and no request is refused for a guess.
            read = min(most, self._read.get(retriever.index.collection, 1))
            pairs = math.ceil(len(texts) * read)
            costs[reranker.batcher] = reranker.likely_tokens(pairs)
        return costs

    def run(
        self, retriever: TwoStageRetriever, call: SearchCall, notice: str = ""
    ) -> list[SearchResult]:
        """Answer; blocks. Runs under the request's control.

        Raises:
            DeadlinePassed: time ran out, and there was not even a first stage to answer with.
        """
        rerank = retriever.reranker is not None and _reranks(retriever, call.options)
        if call.deadline is None or call.on_timeout == "error" or not rerank:
            results = retriever.search_batch(call.queries, **call.options.arguments())
        else:
            results = self._within(retriever, call)
        self._learn(results, retriever.index.collection)
        self._tell(results, retriever, call.options)
        if notice:
            results = [replace(one, notices=(*one.notices, notice)) for one in results]
        return results

    def _within(self, retriever: TwoStageRetriever, call: SearchCall) -> list[SearchResult]:
        """Re-rank as far as time allows; else the first stage's order, and say so."""
        assert call.deadline is not None
        left_ms = (call.deadline - time.monotonic() - self._first_stage_s) * 1000 * _RERANK_SHARE
        why = "its time had passed before re-ranking"
        if left_ms >= _LEAST_BUDGET_MS:
            budget_ms = min(call.options.budget_ms or left_ms, left_ms)
            options = replace(call.options, budget_ms=budget_ms)
            try:
                return retriever.search_batch(call.queries, **options.arguments())
            except DeadlinePassed:
                why = "its time passed while it waited for the reranker"
            except ModelFault as error:
                why = f"re-ranking failed ({error.problem})"
        return self._first_stage(retriever, call, why)

    def _first_stage(
        self, retriever: TwoStageRetriever, call: SearchCall, why: str
    ) -> list[SearchResult]:
        options = replace(
            call.options,
            rerank=False,
            min_relevance=None,
            blend=None,
            blend_weight=None,
            cascade=False,
        )
        before = current()
        control = Control(
            client=before.client,
            deadline=call.gives_up,
            background=before.background,
            cancelled=before.cancelled,
        )
        with controlled(control):
            results = retriever.search_batch(call.queries, **options.arguments())
        notice = f"The order is the first stage's: {why}."
        if call.options.min_relevance is not None:
            notice += " Without relevance, min_relevance was not applied."
        return [replace(one, notices=(*one.notices, notice)) for one in results]

    def _tell(
        self, results: Sequence[SearchResult], retriever: TwoStageRetriever, options: SearchOptions
    ) -> None:
        """What was found, for metrics and the log of searches."""
        calibration, collection = retriever.tuning.calibration, retriever.index.collection
        reference = None if calibration is None else calibration.reference
        self._observer.searched(collection, reference, results)
        self._log.write(collection, options, results)

    def _learn(self, results: Sequence[SearchResult], collection: str) -> None:
        """What stages took: for the observer, and for the next estimates."""
        if not results:
            return
        timings = [one.timings for one in results]
        encode = sum(one.encode_ms for one in timings) / 1000
        retrieve = sum(one.retrieve_ms for one in timings) / 1000
        rerank = sum(one.rerank_ms for one in timings) / 1000
        self._observer.stage("encode", encode)
        self._observer.stage("retrieve", retrieve)
        if results[0].reranker is not None:
            self._observer.stage("rerank", rerank)
            read = sum(one.reranked for one in results) / len(results)
            before = self._read.setdefault(collection, read)
            self._read[collection] = before + _SMOOTHING * (read - before)
        self._observer.stage("search", sum(one.total_ms for one in timings) / 1000)
        self._first_stage_s += _SMOOTHING * (encode + retrieve - self._first_stage_s)


def warm_up(models: LoadedModels) -> None:
    """Let the default models run once: the first call of one may compile it.

    Past their batchers, which would take that for the models' rate and refuse what comes next.
    """
    encoder = models.default_encoder()
    encoder.inner.encode_queries(["warm up"])
    second = models.second_stage_for(encoder).reranker
    if second is not None:
        second.inner.score([("warm up", "a passage to warm up with")])


def _reranks(retriever: TwoStageRetriever, options: SearchOptions) -> bool:
    rerank = options.rerank
    return (retriever.tuning.defaults.rerank is not False) if rerank is None else rerank
