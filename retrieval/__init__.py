"""Two-stage retrieval for RAG: find candidates with vectors and BM25, re-rank them, measure both.

    import retrieval

    retrieval.ingest("my-documents/", collection="docs")
    with retrieval.open("docs") as retriever:
        for hit in retriever.search("how are invoices approved?").hits:
            print(hit.rank, hit.relevance, hit.passage.source, hit.passage.text)

Names are imported on first use, so `import retrieval` stays cheap and pulls in no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.api.ingest import ingest
    from retrieval.api.live import FollowingRetriever
    from retrieval.api.open import open
    from retrieval.errors import RetrievalError
    from retrieval.evaluation.evaluate import evaluate
    from retrieval.index.filter_syntax import parse_where
    from retrieval.index.store import Store
    from retrieval.models.encoders.bi_encoder import BiEncoder
    from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
    from retrieval.models.rerankers.late_interaction import LateInteractionReranker
    from retrieval.readers.read import read as read_documents
    from retrieval.search.options import SearchOptions
    from retrieval.search.retriever import TwoStageRetriever
    from retrieval.serialization import result_as_dict
    from retrieval.types import Document, Hit, IngestProgress, IngestReport, Passage, SearchResult

__version__ = "0.1.0"

_HOME = {
    "BiEncoder": "retrieval.models.encoders.bi_encoder",
    "CrossEncoderReranker": "retrieval.models.rerankers.cross_encoder",
    "Document": "retrieval.types",
    "FollowingRetriever": "retrieval.api.live",
    "Hit": "retrieval.types",
    "IngestProgress": "retrieval.types",
    "IngestReport": "retrieval.types",
    "LateInteractionReranker": "retrieval.models.rerankers.late_interaction",
    "Passage": "retrieval.types",
    "RetrievalError": "retrieval.errors",
    "SearchOptions": "retrieval.search.options",
    "SearchResult": "retrieval.types",
    "Store": "retrieval.index.store",
    "TwoStageRetriever": "retrieval.search.retriever",
    "evaluate": "retrieval.evaluation.evaluate",
    "ingest": "retrieval.api.ingest",
    "open": "retrieval.api.open",
    "parse_where": "retrieval.index.filter_syntax",
    "read_documents": "retrieval.readers.read",
    "result_as_dict": "retrieval.serialization",
}
_RENAMED = {"read_documents": "read"}

__all__ = [
    "BiEncoder",
    "CrossEncoderReranker",
    "Document",
    "FollowingRetriever",
    "Hit",
    "IngestProgress",
    "IngestReport",
    "LateInteractionReranker",
    "Passage",
    "RetrievalError",
    "SearchOptions",
    "SearchResult",
    "Store",
    "TwoStageRetriever",
    "__version__",
    "evaluate",
    "ingest",
    "open",
    "parse_where",
    "read_documents",
    "result_as_dict",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    value = getattr(import_module(home), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
