"""LlamaIndex: both models alone; import them from `retrieval.integrations.llama_index`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from retrieval._validate import one_of
from retrieval.errors import InvalidInput
from retrieval.integrations._models import (
    check_fingerprint,
    check_reranking,
    encoder_from,
    passage_of,
    passage_vectors,
    query_vector,
    rerank,
    reranker_from,
)
from retrieval.integrations._search import beside_the_loop, missing

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise missing("llama-index-core", "llama-index", "llama_index") from error

from retrieval.search.retriever import close_models
from retrieval.types import BlendChoice, Encoder, Hit, ProgressCallback, Reranker

ScoreKind: TypeAlias = Literal["order", "relevance"]
"""What `NodeWithScore.score` is: what the order follows, or the relevance from 0 to 1."""

_RERANKED = ("relevance_score", "rerank_score", "rerank_truncated", "retrieval_score")


class RetrievalReranker(BaseNodePostprocessor):
    """A cross-encoder (or MaxSim) that re-orders the nodes of any LlamaIndex retriever.

    The nodes come back as copies in final order; their metadata gets `relevance_score` (from 0 to
    1), `rerank_score` (the model's own, of any range) and `retrieval_score` (the score they came
    with), and `rerank_truncated` where the model read only the beginning. `to_dict` and
    `from_dict` keep the model by name and refuse other weights.

    Args:
        model: a name, folder or hub id, "starter", "auto", or a reranker such as
            `retriever.reranker`.
        top_n: how many nodes at most; None for all.
        min_relevance: nodes below this relevance, from 0 to 1, are left out.
        blend: "none" for the model's order, "rrf" to join it with the order the nodes came in,
            "scores" with the scores they came with ("rrf" where one has none); None or "auto"
            takes the model's measured default, as a search does.
        with_title: whether `title` and `headings` of the metadata are read before the text, as a
            search does; other metadata is not read.
        score: what a node's `score` is, see `TwoStageLlamaIndexRetriever`.
        options: how a named model runs, as for `retrieval.open`.
        fingerprint: of the weights; others are refused.
        callback_manager: LlamaIndex's own.

    Raises:
        InvalidInput: a model or an argument that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    model: str = Field(description="Name of the reranker.")
    top_n: int | None = None
    min_relevance: float | None = None
    blend: BlendChoice | None = None
    with_title: bool = True
    score: ScoreKind = "order"
    options: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str = ""
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
        score: ScoreKind = "order",
        options: Mapping[str, Any] | None = None,
        fingerprint: str = "",
        callback_manager: CallbackManager | None = None,
    ) -> None:
        check_reranking(top_n, min_relevance, blend, with_title)
        one_of(score, ScoreKind, "score")
        loaded, notices, owned = reranker_from(model, options or {})
        info = loaded.info
        check_fingerprint("reranker", info.model, info.fingerprint, fingerprint)
        fields: dict[str, Any] = {
            "model": _name_of(model, info.model),
            "top_n": top_n,
            "min_relevance": min_relevance,
            "blend": blend,
            "with_title": with_title,
            "score": score,
            "options": dict(options or {}),
            "fingerprint": info.fingerprint,
        }
        super().__init__(callback_manager=callback_manager or CallbackManager(), **fields)
        self._reranker, self._notices, self._owned = loaded, notices, owned

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name of the class."""
        return "RetrievalReranker"

    @property
    def reranker(self) -> Reranker:
        """The model itself."""
        return self._reranker

    @property
    def notices(self) -> tuple[str, ...]:
        """Why this model was chosen, where it was not named."""
        return self._notices

    def close(self) -> None:
        """End what a model that was loaded here keeps running; one that was given stays open."""
        if self._owned:
            close_models([self._reranker])

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._reordered(nodes, query_bundle, None)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await beside_the_loop(
            lambda progress: self._reordered(nodes, query_bundle, progress)
        )

    def _reordered(
        self,
        nodes: Sequence[NodeWithScore],
        query_bundle: QueryBundle | None,
        progress: ProgressCallback | None,
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InvalidInput(
                "nodes were to be re-ranked without a query",
                fix="Call postprocess_nodes(nodes, query_str=…), or with a query bundle.",
            )
        payload: dict[str, Any] = {
            EventPayload.NODES: list(nodes),
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            passages = [
                passage_of(
                    row,
                    one.node.get_content(metadata_mode=MetadataMode.NONE),
                    one.node.metadata,
                    with_title=self.with_title,
                )
                for row, one in enumerate(nodes)
            ]
            ordered = rerank(
                self._reranker,
                query_bundle.query_str,
                passages,
                top_n=self.top_n,
                min_relevance=self.min_relevance,
                blend=self.blend,
                first_scores=[one.score for one in nodes],
                progress=progress,
            )
            found = [
                self._with_scores(nodes[hit.passage.position], hit, truncated)
                for hit, truncated in ordered
            ]
            event.on_end(payload={EventPayload.NODES: found})
        return found

    def _with_scores(self, given: NodeWithScore, hit: Hit, truncated: bool) -> NodeWithScore:
        node = given.node
        added = {
            "relevance_score": hit.relevance,
            "rerank_score": hit.stage2_score,
            "retrieval_score": given.score,
            **({"rerank_truncated": True} if truncated else {}),
        }
        kept = {key: value for key, value in node.metadata.items() if key not in _RERANKED}
        copied = node.model_copy(
            update={
                "metadata": {**kept, **added},
                "excluded_llm_metadata_keys": _joined(node.excluded_llm_metadata_keys),
                "excluded_embed_metadata_keys": _joined(node.excluded_embed_metadata_keys),
            }
        )
        return NodeWithScore(
            node=copied, score=hit.score if self.score == "order" else hit.relevance
        )


class RetrievalEmbedding(BaseEmbedding):
    """A bi-encoder as a LlamaIndex embedding: queries get the model's instruction, texts none.

    Vectors are L2-normalised. Texts that are longer than the model reads are cut, and a warning
    logged. `to_dict` and `from_dict` keep the model by name and refuse other
    weights.

    Args:
        model_name: a name, folder or hub id, "starter", "auto", or an encoder such as
            `retriever.encoder`.
        options: how a named model runs, and `pooling`, `query_instruction`, `passage_instruction`,
            `max_length` where they should replace what it declares, see `retrieval.ingest`.
        fingerprint: of the weights; others are refused.
        embed_batch_size: how many texts LlamaIndex hands over at a time; they are sorted by
            length and batched by tokens here, so more is faster.
        others: `BaseEmbedding`'s own. Its `embeddings_cache` keeps texts and queries under one
            key and is refused where the two are encoded differently.

    Raises:
        InvalidInput: a model or an argument that cannot be used.
        ModelNotFound: it is not on this machine and no hub answers.
    """

    options: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str = ""
    _encoder: Encoder = PrivateAttr()
    _notices: tuple[str, ...] = PrivateAttr(default=())
    _owned: bool = PrivateAttr(default=False)

    def __init__(
        self,
        model_name: str | Encoder = "auto",
        *,
        options: Mapping[str, Any] | None = None,
        fingerprint: str = "",
        embed_batch_size: int = 512,
        **others: Any,
    ) -> None:
        loaded, notices, owned = encoder_from(model_name, options or {})
        info = loaded.info
        check_fingerprint("encoder", info.model, info.fingerprint, fingerprint)
        cache = others.get("embeddings_cache")
        if cache is not None and info.query_instruction != info.passage_instruction:
            raise InvalidInput(
                f"embeddings_cache was given with {info.model!r}, which encodes queries otherwise "
                "than texts; that cache would give one for the other",
                fix="Leave it out, or cache texts with LlamaIndex's IngestionPipeline.",
            )
        fields: dict[str, Any] = {
            "model_name": _name_of(model_name, info.model),
            "options": dict(options or {}),
            "fingerprint": info.fingerprint,
            "embed_batch_size": embed_batch_size,
        }
        super().__init__(**fields, **others)
        self._encoder, self._notices, self._owned = loaded, notices, owned

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name of the class."""
        return "RetrievalEmbedding"

    @property
    def encoder(self) -> Encoder:
        """The model itself."""
        return self._encoder

    @property
    def notices(self) -> tuple[str, ...]:
        """Why this model was chosen, where it was not named."""
        return self._notices

    def close(self) -> None:
        """End what a model that was loaded here keeps running; one that was given stays open."""
        if self._owned:
            close_models([self._encoder])

    def _get_query_embedding(self, query: str) -> list[float]:
        return query_vector(self._encoder, query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await beside_the_loop(lambda progress: query_vector(self._encoder, query, progress))

    def _get_text_embedding(self, text: str) -> list[float]:
        return passage_vectors(self._encoder, [text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return passage_vectors(self._encoder, texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await beside_the_loop(
            lambda progress: passage_vectors(self._encoder, texts, progress)
        )


def _joined(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*keys, *_RERANKED]))


def _name_of(given: object, name: str) -> str:
    """The name to save; of "auto", the model it came to: elsewhere the choice might be another."""
    return given if isinstance(given, str) and given != "auto" else name
