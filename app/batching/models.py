"""Models whose callers share batches, in front of the real ones and with their results."""

from __future__ import annotations

from app.batching.encoding import BatchedEncoder
from app.batching.rows import QueryCache, query_cache
from app.batching.scoring import BatchedReranker, ScoreCache, score_cache

__all__ = [
    "BatchedEncoder",
    "BatchedReranker",
    "QueryCache",
    "ScoreCache",
    "query_cache",
    "score_cache",
]
