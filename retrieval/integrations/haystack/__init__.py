"""Haystack: embedders, a retriever and a ranker (extra `haystack`).

    from haystack import Pipeline
    from retrieval.integrations.haystack import TwoStageHaystackRetriever

    pipeline = Pipeline()
    pipeline.add_component("retriever", TwoStageHaystackRetriever("docs", top_k=4))
    found = pipeline.run({"retriever": {"query": "how are invoices approved?"}})
    for document in found["retriever"]["documents"]:
        print(document.meta["relevance"], document.content)

Components that name their models and collections can be saved with their pipeline and loaded
again, with `Pipeline.loads(saved, allowed_modules=["retrieval.integrations.*"])`; those that were
given objects cannot. `warm_up` loads, `close` lets go; `run` warms up by
itself. Errors of the library pass through unchanged.
"""

from __future__ import annotations

from retrieval.integrations.haystack.components import RetrievalRanker, TwoStageHaystackRetriever
from retrieval.integrations.haystack.embedders import (
    RetrievalDocumentEmbedder,
    RetrievalTextEmbedder,
)

__all__ = [
    "RetrievalDocumentEmbedder",
    "RetrievalRanker",
    "RetrievalTextEmbedder",
    "TwoStageHaystackRetriever",
]
