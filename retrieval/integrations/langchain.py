"""LangChain: embeddings, a retriever and a reranker (extra `langchain`).

    from retrieval.integrations.langchain import TwoStageLangChainRetriever

    with TwoStageLangChainRetriever.from_collection("docs", top_k=4) as retriever:
        for document in retriever.invoke("how are invoices approved?"):
            print(document.metadata["relevance"], document.page_content)

Errors of the library pass through unchanged. The asynchronous methods work in a thread; where
their task is cancelled, it goes on at once and the search ends at the next batch of its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from retrieval.integrations._models import (
    check_reranking,
    encoder_from,
    passage_of,
    passage_vectors,
    query_vector,
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

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from pydantic import Field, PrivateAttr, create_model
except ImportError as error:
    raise missing("langchain-core", "langchain", "langchain") from error

from retrieval.api.live import FollowingRetriever
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, StoreLike
from retrieval.search.options import SearchArguments, search_options
from retrieval.search.retriever import close_models
from retrieval.types import BlendChoice, Encoder, ProgressCallback, Reranker, SearchResult

__all__ = ["RetrievalEmbeddings", "RetrievalReranker", "TwoStageLangChainRetriever"]


class RetrievalEmbeddings(Embeddings):
    """A bi-encoder as LangChain `Embeddings`: queries get the model's instruction, documents none.

    Vectors are lists of `encoder.info.dimension` floats, L2-normalised. What is longer than the
    model reads is cut, and a warning logged.

    Args:
        model: a name, folder or hub id, "starter", "auto", or an encoder such as
            `retriever.encoder`.
        options: how a named model runs (`device`, `engine`, `dtype`, `threads`, `truncate_dim` …)
            and `pooling`, `query_instruction`, `passage_instruction`, `max_length` where they
            should replace what it declares, see `retrieval.ingest`.

    Raises:
        InvalidInput: a model or an option that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    def __init__(self, model: str | Encoder = "auto", **options: Any) -> None:
        self.encoder, self.notices, self._owned = encoder_from(model, options)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return query_vector(self.encoder, text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of passages, in their order."""
        return passage_vectors(self.encoder, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """The same as `embed_query`, in a thread."""
        return await beside_the_loop(lambda progress: query_vector(self.encoder, text, progress))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same as `embed_documents`, in a thread."""
        return await beside_the_loop(
            lambda progress: passage_vectors(self.encoder, texts, progress)
        )

    def close(self) -> None:
        """End what a model that was loaded here keeps running; one that was given stays open."""
        if self._owned:
            close_models([self.encoder])

    def __repr__(self) -> str:
        return f"RetrievalEmbeddings({self.encoder.info.model!r})"


if TYPE_CHECKING:
    _RetrieverFields = BaseRetriever
else:  # each option of a search is a field
    _RetrieverFields = create_model(
        "_RetrieverFields",
        __base__=BaseRetriever,
        **{option.name: (Any, option.default) for option in search_options()},
    )


class TwoStageLangChainRetriever(_RetrieverFields):
    """Both stages as a LangChain retriever: `Document`s in final order, with their scores.

    Each document's `id` is the passage's; `metadata` has `document_id`, `passage_id`, `position`,
    `start` and `end` (characters in the document), `source`, `title`, `headings`, `rank`, `score`
    (what the order follows), `relevance` (from 0 to 1, or None), `stage1_rank`, `stage1_score`,
    `stage2_rank`, `stage2_score`, and the document's own metadata beside them; what of it has one
    of these names is in `metadata["metadata"]`.

    Args:
        retriever: an open `TwoStageRetriever` or `FollowingRetriever`; stays the caller's to close.
        tags, metadata, name: LangChain's own, for callbacks and traces.
        options: defaults of the searches, as for `TwoStageRetriever.search`; each is a field, and
            `invoke(query, top_k=3)` replaces it for one call.

    Raises:
        InvalidInput: an option that does not exist, or that this retriever cannot follow.
    """

    retriever: Any = Field(exclude=True, repr=False)
    _owned: bool = PrivateAttr(default=False)

    def __init__(
        self,
        retriever: Searcher,
        *,
        name: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **options: Unpack[SearchArguments],
    ) -> None:
        checked_arguments(checked_searcher(retriever), options)
        fields: dict[str, Any] = {"retriever": retriever, **options}
        super().__init__(name=name, tags=tags, metadata=metadata, **fields)

    @classmethod
    def from_collection(
        cls,
        collection: str = DEFAULT_COLLECTION,
        *,
        store: StoreLike = DEFAULT_STORE,
        api_key: str | None = None,
        encoder: str | Encoder | None = None,
        reranker: str | Reranker | None = "auto",
        model_options: Mapping[str, Any] | None = None,
        **options: Unpack[SearchArguments],
    ) -> Self:
        """Over a collection by name, from version to version; `close()` it, or use `with`.

        Args:
            collection, store, api_key, encoder, reranker: as for `retrieval.open`.
            model_options: `device`, `engine`, `threads` and so on, as for `retrieval.open`.
            options: defaults of the searches.

        Raises:
            As `retrieval.open`, and InvalidInput for an option of the searches.
        """
        opened = FollowingRetriever(
            collection,
            store=store,
            api_key=api_key,
            encoder=encoder,
            reranker=reranker,
            **(model_options or {}),
        )
        try:
            made = cls(opened, **options)
        except BaseException:
            opened.close()
            raise
        made._owned = True
        return made

    def close(self) -> None:
        """Close what `from_collection` opened; a retriever that was given stays open."""
        if self._owned:
            self.retriever.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        **options: Any,
    ) -> list[Document]:
        arguments = self._arguments(options)
        return _documents(search(self.retriever, query, arguments))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        **options: Any,
    ) -> list[Document]:
        arguments = self._arguments(options)
        return _documents(
            await beside_the_loop(
                lambda progress: search(self.retriever, query, arguments, progress)
            )
        )

    def _arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        # `verbose` is LangChain's own, and comes through with the options of a call
        given = {name: value for name, value in options.items() if name != "verbose"}
        own = {option.name: getattr(self, option.name) for option in search_options()}
        return checked_arguments(self.retriever, {**own, **given})


class RetrievalReranker(BaseDocumentCompressor):
    """A cross-encoder (or MaxSim) that re-orders documents of any LangChain retriever.

    The documents come back as copies in final order, with `relevance_score` (from 0 to 1) and
    `rerank_score` (the model's own, of any range) added to their metadata, and `rerank_truncated`
    where the model read only the beginning.

    Args:
        model: a name, folder or hub id, "starter", "auto", or a reranker such as
            `retriever.reranker`.
        top_n: how many documents at most; None for all.
        min_relevance: documents below this relevance, from 0 to 1, are left out.
        blend: "none" for the model's order, "rrf" to join it with the order the documents came
            in, "scores" with the `stage1_score` in their metadata ("rrf" where one has none); None
            or "auto" takes the model's measured default, as a search does.
        with_title: whether `title` and `headings` of the metadata are read before the text, as a
            search does.
        options: how a named model runs, as for `retrieval.open`.

    Raises:
        InvalidInput: a model or an argument that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    top_n: int | None = None
    min_relevance: float | None = None
    blend: BlendChoice | None = None
    with_title: bool = True
    _reranker: Reranker = PrivateAttr()
    _notices: tuple[str, ...] = PrivateAttr(default=())
    _owned: bool = PrivateAttr(default=False)

    def __init__(
        self,
        model: str | Reranker = "auto",
        *,
        top_n: int | None = None,
        min_relevance: float | None = None,
        blend: BlendChoice | None = None,
        with_title: bool = True,
        **options: Any,
    ) -> None:
        check_reranking(top_n, min_relevance, blend, with_title)
        loaded, notices, owned = reranker_from(model, options)
        fields: dict[str, Any] = {
            "top_n": top_n,
            "min_relevance": min_relevance,
            "blend": blend,
            "with_title": with_title,
        }
        super().__init__(**fields)
        self._reranker, self._notices, self._owned = loaded, notices, owned

    @property
    def reranker(self) -> Reranker:
        """The model."""
        return self._reranker

    @property
    def notices(self) -> tuple[str, ...]:
        """Why this model was chosen, where it was not named."""
        return self._notices

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The documents in final order, at most `top_n` of them, best first.

        Raises:
            InvalidQuery: the query is empty or not text.
        """
        return self._compressed(documents, query, None)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The same as `compress_documents`, in a thread."""
        return await beside_the_loop(lambda progress: self._compressed(documents, query, progress))

    def close(self) -> None:
        """End what a model that was loaded here keeps running; one that was given stays open."""
        if self._owned:
            close_models([self._reranker])

    def _compressed(
        self, documents: Sequence[Document], query: str, progress: ProgressCallback | None
    ) -> list[Document]:
        passages = [
            passage_of(row, one.page_content, one.metadata, with_title=self.with_title)
            for row, one in enumerate(documents)
        ]
        ordered = rerank(
            self._reranker,
            query,
            passages,
            top_n=self.top_n,
            min_relevance=self.min_relevance,
            blend=self.blend,
            first_scores=[one.metadata.get("stage1_score") for one in documents],
            progress=progress,
        )
        found = []
        for hit, truncated in ordered:
            document = documents[hit.passage.position]
            added = {
                "relevance_score": hit.relevance,
                "rerank_score": hit.stage2_score,
                **({"rerank_truncated": True} if truncated else {}),
            }
            kept = {k: v for k, v in document.metadata.items() if k != "rerank_truncated"}
            found.append(document.model_copy(update={"metadata": {**kept, **added}}))
        return found


def _documents(result: SearchResult) -> list[Document]:
    return [
        Document(
            id=hit.passage.id,
            page_content=hit.passage.text,
            metadata=metadata_of(hit, result.notices),
        )
        for hit in result.hits
    ]
