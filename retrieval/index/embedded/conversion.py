"""Points and nearest-neighbour requests in the types of Qdrant Edge, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.index.embedded.filters import to_edge_filter
from retrieval.index.point_store import (
    DENSE,
    LEXICAL,
    SPARSE,
    TOKENS,
    Nearest,
    PointData,
    SparseTerms,
)
from retrieval.index.upsert_checks import point as make_point
from retrieval.types import Storage

if TYPE_CHECKING:
    import qdrant_edge as edge


def query_requests(requests: Sequence[Nearest], storage: Storage) -> list[edge.QueryRequest]:
    """Nearest-neighbour requests as Edge takes them."""
    import qdrant_edge as edge

    filters: dict[int, edge.Filter | None] = {}  # most requests share one
    queries: list[edge.QueryRequest] = []
    for request in requests:
        if id(request.where) not in filters:
            filters[id(request.where)] = to_edge_filter(request.where)
        vector: Any = request.query
        if isinstance(vector, SparseTerms):
            vector = edge.SparseVector(list(vector.indices), list(vector.values))
        elif vector.ndim == 2:
            vector = vector.tolist()
        quantization = None
        if storage.quantization != "none" and request.using == DENSE:
            quantization = edge.QuantizationSearchParams(
                ignore=request.exact, rescore=True, oversampling=storage.oversampling
            )
        queries.append(
            edge.QueryRequest(
                limit=request.limit,
                query=edge.Query.Nearest(vector, using=request.using),
                filter=filters[id(request.where)],
                params=edge.SearchParams(
                    hnsw_ef=storage.search_ef or max(256, 2 * request.limit),
                    exact=request.exact,
                    quantization=quantization,
                ),
            )
        )
    return queries


def to_edge_point(point: PointData) -> edge.Point:
    """A point as Edge stores it."""
    import qdrant_edge as edge

    vectors: dict[str, Any] = {}
    if point.dense.size:
        vectors[DENSE] = point.dense.tolist()
    if point.sparse.indices:
        # a text without terms does not count towards how rare they are, on any engine
        vectors[SPARSE] = edge.SparseVector(list(point.sparse.indices), list(point.sparse.values))
    if point.lexical is not None:
        terms = point.lexical
        vectors[LEXICAL] = edge.SparseVector(list(terms.indices), list(terms.values))
    if point.tokens is not None:
        vectors[TOKENS] = point.tokens.tolist()
    return edge.Point(point.id, vectors, point.payload)


def from_edge_point(record: edge.Record) -> PointData:
    """A point that Edge returned with all its vectors."""
    stored: dict[str, Any] = record.vector if isinstance(record.vector, dict) else {}
    tokens = stored.get(TOKENS)
    return make_point(
        str(record.id),
        np.asarray(stored.get(DENSE, ()), dtype=np.float32),
        _terms(stored.get(SPARSE)) or SparseTerms((), ()),
        record.payload or {},
        _terms(stored.get(LEXICAL)),
        None if tokens is None else np.asarray(tokens, dtype=np.float32),
    )


def _terms(vector: edge.SparseVector | None) -> SparseTerms | None:
    return None if vector is None else SparseTerms(tuple(vector.indices), tuple(vector.values))
