"""The retriever and the ranker of Haystack."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import Any

from retrieval._validate import whole_number
from retrieval.integrations._models import (
    check_fingerprint,
    check_reranking,
    passage_of,
    rerank,
    reranker_from,
)
from retrieval.integrations._search import (
    Searcher,
    beside_the_loop,
    checked_arguments,
    checked_searcher,
    metadata_of,
    missing,
    search,
)
from retrieval.integrations.haystack.embedders import (
    content_of,
    named,
)
from retrieval.integrations.haystack.filters import where_of

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.types import FilterPolicy
    from haystack.utils import Secret
except ImportError as error:
    raise missing("haystack-ai", "haystack", "haystack") from error

import retrieval.api.open
from retrieval.errors import InvalidInput
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE
from retrieval.search.retriever import close_models
from retrieval.types import BlendChoice, ProgressCallback, Reranker, SearchResult, Where


@component
class TwoStageHaystackRetriever:
    """Searches a collection in both stages; `meta` of each document has all scores and ranks.

    Args:
        collection: its name, or an open retriever, which is left open and cannot be saved.
        store: folder of the embedded store, or URL of a Qdrant server.
        api_key: for a Qdrant server.
        top_k: how many documents at most.
        filters: Haystack's filters, or a `where` of this library.
        filter_policy: whether filters given to `run` replace these, or both must hold.
        scale_score: whether `score` is the relevance from 0 to 1. It is None where no stage has
            such a scale, and does not follow the order where both stages' orders are blended.
            Otherwise it is what the order follows. Both are in `meta`.
        search_options: further ones of `TwoStageRetriever.search`.
        open_options: further ones of `retrieval.open` (`reranker`, `device`, `threads` …).
    """

    def __init__(
        self,
        collection: str | Searcher = DEFAULT_COLLECTION,
        store: str = str(DEFAULT_STORE),
        api_key: Secret | None = None,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
        scale_score: bool = False,
        search_options: dict[str, Any] | None = None,
        open_options: dict[str, Any] | None = None,
    ) -> None:
        self.collection = collection if isinstance(collection, str) else None
        self.store = store
        self.api_key = api_key
        self.top_k = whole_number(top_k, "top_k")
        self.filters = filters
        self._where = where_of(filters)
        self.filter_policy = FilterPolicy.from_str(str(filter_policy))
        self.scale_score = scale_score
        self.search_options = dict(search_options or {})
        self.open_options = dict(open_options or {})
        self._lock = threading.Lock()
        self._retriever = None if isinstance(collection, str) else checked_searcher(collection)
        if self._retriever is not None:
            checked_arguments(self._retriever, self._arguments(None, None))

    def warm_up(self) -> None:
        """Open the collection and load its models."""
        self._opened()

    def close(self) -> None:
        """Close the collection, if it was opened here."""
        if self.collection is None:
            return
        with self._lock:
            retriever, self._retriever = self._retriever, None
        if retriever is not None:
            retriever.close()

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """The best passages, best first; `meta` has models, milliseconds and notices."""
        return self._answer(search(self._opened(), query, self._arguments(filters, top_k)))

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """The same as `run`, in a thread."""

        def ask(progress: ProgressCallback) -> SearchResult:
            return search(self._opened(), query, self._arguments(filters, top_k), progress)

        return self._answer(await beside_the_loop(ask))

    def to_dict(self) -> dict[str, Any]:
        """What a saved pipeline has of it; the API key only as the name of its variable."""
        saved: dict[str, Any] = default_to_dict(
            self,
            collection=named("collection", self.collection or self._retriever),
            store=str(self.store),
            api_key=self.api_key,
            top_k=self.top_k,
            filters=self.filters,
            filter_policy=self.filter_policy.value,
            scale_score=self.scale_score,
            search_options=self.search_options or None,
            open_options=self.open_options or None,
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TwoStageHaystackRetriever:
        """The component from its saved form."""
        made: TwoStageHaystackRetriever = default_from_dict(cls, data)
        return made

    def _opened(self) -> Searcher:
        with self._lock:
            if self._retriever is None:
                assert self.collection is not None
                key = None if self.api_key is None else self.api_key.resolve_value()
                opened = retrieval.api.open.open(
                    self.collection, store=self.store, api_key=key, **self.open_options
                )
                try:
                    checked_arguments(opened, self._arguments(None, None))
                except BaseException:
                    opened.close()
                    raise
                self._retriever = opened
            return self._retriever

    def _arguments(self, filters: dict[str, Any] | None, top_k: int | None) -> dict[str, Any]:
        where: Where | None = self._where
        if filters:
            given = where_of(filters)
            merge = self.filter_policy is FilterPolicy.MERGE and where and given
            where = {"and": [where, given]} if merge else given
        arguments = {"top_k": self.top_k if top_k is None else top_k, **self.search_options}
        return arguments if where is None else {**arguments, "where": where}

    def _answer(self, result: SearchResult) -> dict[str, Any]:
        documents = [
            Document(
                id=hit.passage.id,
                content=hit.passage.text,
                meta=metadata_of(hit),
                score=hit.relevance if self.scale_score else hit.score,
            )
            for hit in result.hits
        ]
        timings = result.timings
        meta = {
            "encoder": result.encoder,
            "reranker": result.reranker,
            "mode": result.mode,
            "notices": list(result.notices),
            "timings_ms": {
                "encode": timings.encode_ms,
                "retrieve": timings.retrieve_ms,
                "rerank": timings.rerank_ms,
                "total": timings.total_ms,
            },
        }
        return {"documents": documents, "meta": meta}


@component
class RetrievalRanker:
    """Puts documents that anything found in the order of their relevance to the query.

    Args:
        model: a name, folder or hub id, "starter", "auto", or a reranker.
        top_k: how many documents at most; None for all.
        model_options: how a named model runs (`device`, `threads`, `long_passages` …).
        fingerprint: the weights it must have; saved with the pipeline once they are loaded.
        min_relevance: documents below it, in [0, 1], are left out.
        blend: "none" (the reranker's order), "rrf" (joined with the order the documents came in),
            "scores" (with the scores they came with; "rrf" where one has none), or None or "auto"
            for what the reranker works best with.
        with_title: whether `meta["title"]` and `meta["headings"]` are read before the content.
        scale_score: see `TwoStageHaystackRetriever`.
    """

    def __init__(
        self,
        model: str | Reranker = "auto",
        top_k: int | None = None,
        model_options: dict[str, Any] | None = None,
        fingerprint: str | None = None,
        min_relevance: float | None = None,
        blend: BlendChoice | None = None,
        with_title: bool = True,
        scale_score: bool = False,
    ) -> None:
        check_reranking(top_k, min_relevance, blend, with_title)
        self.model = model
        self.top_k = top_k
        self.model_options = dict(model_options or {})
        self.fingerprint = fingerprint
        self.min_relevance = min_relevance
        self.blend = blend
        self.with_title = with_title
        self.scale_score = scale_score
        self._lock = threading.Lock()
        self._loaded: tuple[Reranker, bool] | None = None

    def warm_up(self) -> None:
        """Load the model."""
        self._reranker()

    def close(self) -> None:
        """Let go of the model, if it was loaded here."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded[1]:
            close_models([loaded[0]])

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Copies of the documents, best first, with `score` and, in `meta`, `relevance`."""
        return self._ranked(query, documents, top_k)

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The same as `run`, in a thread."""
        return await beside_the_loop(partial(self._ranked, query, documents, top_k))

    def to_dict(self) -> dict[str, Any]:
        """What a saved pipeline has of it."""
        saved: dict[str, Any] = default_to_dict(
            self,
            model=named("model", self.model),
            top_k=self.top_k,
            model_options=self.model_options or None,
            fingerprint=self.fingerprint,
            min_relevance=self.min_relevance,
            blend=self.blend,
            with_title=self.with_title,
            scale_score=self.scale_score,
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RetrievalRanker:
        """The component from its saved form."""
        made: RetrievalRanker = default_from_dict(cls, data)
        return made

    def _reranker(self) -> Reranker:
        with self._lock:
            if self._loaded is None:
                reranker, _, owned = reranker_from(self.model, self.model_options)
                info = reranker.info
                try:
                    check_fingerprint("reranker", info.model, info.fingerprint, self.fingerprint)
                except InvalidInput:
                    close_models([reranker] if owned else [])
                    raise
                self.fingerprint = info.fingerprint
                self._loaded = reranker, owned
            return self._loaded[0]

    def _ranked(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None,
        progress: ProgressCallback | None = None,
    ) -> dict[str, list[Document]]:
        passages = [
            passage_of(row, content_of(one), one.meta, with_title=self.with_title)
            for row, one in enumerate(documents)
        ]
        hits = rerank(
            self._reranker(),
            query,
            passages,
            top_n=self.top_k if top_k is None else whole_number(top_k, "top_k"),
            min_relevance=self.min_relevance,
            blend=self.blend,
            first_scores=[one.score for one in documents],
            progress=progress,
        )
        ranked = []
        for hit, truncated in hits:
            document = documents[hit.passage.position]
            meta = {**document.meta, "relevance": hit.relevance, "rank": hit.rank}
            meta |= {"stage2_score": hit.stage2_score, "stage2_rank": hit.stage2_rank}
            if truncated:
                meta["truncated"] = True
            score = hit.relevance if self.scale_score else hit.score
            ranked.append(replace(document, meta=meta, score=score))
        return {"documents": ranked}
