"""The retriever and the reranking postprocessor of LlamaIndex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from retrieval._validate import one_of
from retrieval.errors import InvalidInput
from retrieval.integrations._search import (
    STAGES,
    Searcher,
    beside_the_loop,
    checked_arguments,
    checked_searcher,
    metadata_of,
    missing,
    search,
)

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import (
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )
except ImportError as error:
    raise missing("llama-index-core", "llama-index", "llama_index") from error

from retrieval.api.live import FollowingRetriever
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, StoreLike
from retrieval.integrations.llama_index.models import (
    ScoreKind,
)
from retrieval.search.options import SearchArguments
from retrieval.types import Encoder, Hit, Reranker, SearchResult

# For programs, not for models: neither the language model nor an embedding reads them.
_FOR_PROGRAMS = (
    *STAGES,
    "document_id",
    "passage_id",
    "position",
    "start",
    "end",
    "best_span",
    "before",
    "after",
    "notices",
    "metadata",
)


class TwoStageLlamaIndexRetriever(BaseRetriever):
    """Both stages as a LlamaIndex retriever: `TextNode`s in final order, with their scores.

    A node's `id_` is the passage's, `ref_doc_id` (its source relationship) the document's, and
    `start_char_idx`, `end_char_idx` are offsets in characters of that document. `metadata` is as
    `retrieval.integrations.langchain.TwoStageLangChainRetriever` describes it; of what is said
    there, a language model is shown title, headings, source and the document's own metadata.

    Args:
        retriever: an open `TwoStageRetriever` or `FollowingRetriever`; stays the caller's to close.
        score: what a node's `score` is. "order": what the order follows (the reranker's logit, a
            fused or a first-stage score), so that sorting by it keeps the order. "relevance": from
            0 to 1, for cut-offs such as `SimilarityPostprocessor`; None where no stage has one.
        callback_manager, verbose: LlamaIndex's own.
        options: of the searches, as for `TwoStageRetriever.search`.

    Raises:
        InvalidInput: an option that does not exist, or that this retriever cannot follow.
    """

    def __init__(
        self,
        retriever: Searcher,
        *,
        score: ScoreKind = "order",
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
        **options: Unpack[SearchArguments],
    ) -> None:
        self._searcher = checked_searcher(retriever)
        self._arguments = checked_arguments(self._searcher, options)
        self._score: ScoreKind = one_of(score, ScoreKind, "score")
        self._owned = False
        super().__init__(callback_manager=callback_manager, verbose=verbose)

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
        score: ScoreKind = "order",
        callback_manager: CallbackManager | None = None,
        **options: Unpack[SearchArguments],
    ) -> Self:
        """Over a collection by name, from version to version; `close()` it, or use `with`.

        Args:
            collection, store, api_key, encoder, reranker: as for `retrieval.open`.
            model_options: `device`, `engine`, `threads` and so on, as for `retrieval.open`.
            score, callback_manager, options: as for the class.

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
            made = cls(opened, score=score, callback_manager=callback_manager, **options)
        except BaseException:
            opened.close()
            raise
        made._owned = True
        return made

    @property
    def retriever(self) -> Searcher:
        """What answers."""
        return self._searcher

    def close(self) -> None:
        """Close what `from_collection` opened; a retriever that was given stays open."""
        if self._owned:
            self._searcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        return self._nodes(search(self._searcher, query, self._arguments))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        return self._nodes(
            await beside_the_loop(
                lambda progress: search(self._searcher, query, self._arguments, progress)
            )
        )

    def _nodes(self, result: SearchResult) -> list[NodeWithScore]:
        return [
            NodeWithScore(
                node=_node(hit, result.notices),
                score=hit.score if self._score == "order" else hit.relevance,
            )
            for hit in result.hits
        ]


def _query_of(bundle: QueryBundle) -> str:
    """The question of a bundle; a vector in it is another retriever's, and is not read."""
    others = [text for text in bundle.custom_embedding_strs or [] if text != bundle.query_str]
    if others:
        raise InvalidInput(
            "the query bundle has custom_embedding_strs (as HyDE makes them), and both stages "
            "read the question itself",
            fix="Retrieve with the question, or with the other text as the question.",
        )
    return bundle.query_str


def _node(hit: Hit, notices: Sequence[str]) -> TextNode:
    passage = hit.passage
    relationships: dict[NodeRelationship, Any] = {
        NodeRelationship.SOURCE: RelatedNodeInfo(
            node_id=passage.document_id,
            metadata={"source": passage.source, "title": passage.title},
            hash=passage.document_hash or None,
        )
    }
    if hit.before:
        relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(node_id=hit.before[-1].id)
    if hit.after:
        relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=hit.after[0].id)
    return TextNode(
        id_=passage.id,
        text=passage.text,
        start_char_idx=passage.start,
        end_char_idx=passage.end,
        metadata=metadata_of(hit, notices),
        excluded_llm_metadata_keys=list(_FOR_PROGRAMS),
        excluded_embed_metadata_keys=[*_FOR_PROGRAMS, "source"],
        relationships=relationships,
    )
