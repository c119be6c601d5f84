"""LlamaIndex: a retriever, a reranking postprocessor and an embedding (extra `llama-index`).

    from llama_index.core.query_engine import RetrieverQueryEngine
    from retrieval.integrations.llama_index import TwoStageLlamaIndexRetriever

    with TwoStageLlamaIndexRetriever.from_collection("docs", top_k=4) as retriever:
        for node in retriever.retrieve("how are invoices approved?"):
            print(node.score, node.metadata["relevance"], node.text)

Errors of the library pass through unchanged. The asynchronous methods work in a thread; where
their task is cancelled, it goes on at once and the search ends at the next batch of its model.
"""

from __future__ import annotations

from retrieval.integrations.llama_index.models import (
    RetrievalEmbedding,
    RetrievalReranker,
    ScoreKind,
)
from retrieval.integrations.llama_index.retriever import TwoStageLlamaIndexRetriever

__all__ = ["RetrievalEmbedding", "RetrievalReranker", "ScoreKind", "TwoStageLlamaIndexRetriever"]
