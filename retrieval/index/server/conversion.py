"""Points as they were read through qdrant-client, as the library has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.index.point_store import DENSE, LEXICAL, SPARSE, TOKENS, PointData, SparseTerms
from retrieval.index.server.names import VectorNames
from retrieval.index.upsert_checks import point
from retrieval.types import FloatArray

if TYPE_CHECKING:
    from qdrant_client import models


def point_of(record: models.Record, names: VectorNames) -> PointData:
    """A point as it was read, with all its vectors."""
    stored: Any = record.vector if isinstance(record.vector, dict) else {}
    vectors = {name: stored[named] for name, named in names.items() if named in stored}
    lexical, tokens = vectors.get(LEXICAL), vectors.get(TOKENS)
    return point(
        str(record.id),
        dense_of(record, names),
        _sparse(vectors.get(SPARSE)),
        dict(record.payload or {}),
        None if lexical is None else _sparse(lexical),
        None if tokens is None else np.asarray(tokens, dtype=np.float32),
    )


def dense_of(record: models.Record, names: VectorNames) -> FloatArray:
    """The dense vector (dimension,) of a point as it was read; empty where it has none."""
    stored: Any = record.vector
    found = stored.get(names[DENSE]) if isinstance(stored, dict) else None
    return np.asarray([] if found is None else found, dtype=np.float32)


def _sparse(vector: Any) -> SparseTerms:
    if vector is None:
        return SparseTerms((), ())
    return SparseTerms(tuple(vector.indices), tuple(vector.values))
