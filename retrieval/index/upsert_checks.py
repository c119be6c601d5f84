"""What may be written: batches checked as a whole, and cut into writes of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieval.errors import InvalidBatch
from retrieval.index.bm25 import Bm25Terms
from retrieval.index.payload import canonical_id, passage_to_payload
from retrieval.index.point_store import PointData, SparseTerms
from retrieval.index.tenants import Tenancy
from retrieval.types import FloatArray, Layout, LexicalWeights, Passage

WRITE_BATCH = 256
"""Points a write: Edge holds the interpreter lock all through one, so batches stay small."""

WRITE_BYTES = 8 * 1024 * 1024
"""Estimated bytes a write, so that long passages do not make a request too large."""


class BatchCheck:
    """Makes points of passages and vectors as one collection keeps them."""

    def __init__(self, dimension: int, layout: Layout, bm25: Bm25Terms) -> None:
        self._dimension = dimension
        self._layout = layout
        self._tenancy = Tenancy(layout.tenants)
        self._bm25 = bm25

    def points(
        self,
        passages: Sequence[Passage],
        vectors: FloatArray,
        lexical: Sequence[LexicalWeights] | None,
        token_vectors: Sequence[FloatArray] | None,
        tenant: str | None,
    ) -> list[PointData]:
        """Points for a batch that was checked as a whole: Edge applies a bad batch in part.

        Args:
            vectors: float (n, dimension), one row per passage.
            lexical, token_vectors: one per passage where the layout has them, else None.
            tenant: the owner of the passages, checked by the caller.

        Raises:
            InvalidBatch: wrong shape, not finite, all zeros, a repeated id, or a passage that
                would not come back as it went in; the message names the passage.
        """
        rows = check_vectors(vectors, len(passages), self._dimension)
        _check_given(lexical, "lexical", self._layout.lexical, len(passages))
        width = self._layout.token_dimension
        _check_given(token_vectors, "token_vectors", width is not None, len(passages))
        points: list[PointData] = []
        seen: dict[str, int] = {}
        for number, (passage, row) in enumerate(zip(passages, rows, strict=True)):
            try:
                passage_id = canonical_id(passage.id)
                if passage_id in seen:
                    raise InvalidBatch(
                        f"the id {passage_id} is also that of passage {seen[passage_id]}",
                        fix="Give each passage of a batch its own id. Nothing was written.",
                    )
                payload = passage_to_payload(passage)
                terms = self._bm25.passage(passage.content)
                weights = None if lexical is None else _terms(lexical[number])
                tokens = (
                    None
                    if token_vectors is None or width is None
                    else _check_tokens(token_vectors[number], width)
                )
            except InvalidBatch as error:
                raise InvalidBatch(
                    f"passage {number} of {len(passages)} (document {passage.document_id!r}, "
                    f"position {passage.position!r}): {error.problem}",
                    fix=error.fix,
                ) from None
            seen[passage_id] = number
            stored_id = self._tenancy.mark(payload, passage_id, tenant)
            points.append(point(stored_id, row, terms, payload, weights, tokens))
        return points


def point(
    point_id: str,
    dense: FloatArray,
    sparse: SparseTerms,
    payload: dict[str, Any],
    lexical: SparseTerms | None = None,
    tokens: FloatArray | None = None,
) -> PointData:
    """A point with an estimate of its size."""
    size = dense.nbytes + 8 * len(sparse.indices) + _payload_size(payload)
    size += 0 if lexical is None else 8 * len(lexical.indices)
    size += 0 if tokens is None else tokens.nbytes
    return PointData(point_id, dense, sparse, payload, size, lexical, tokens)


def _check_given(values: Sequence[Any] | None, name: str, wanted: bool, count: int) -> None:
    if values is None and not wanted:
        return
    if values is None:
        raise InvalidBatch(
            f"the collection stores {name}, none were given",
            fix=f"Give {name}=encoder.encode_all(…).{name}. Nothing was written.",
        )
    if not wanted:
        raise InvalidBatch(
            f"{name} were given, but the collection was made without a place for them",
            fix="Leave them out, or make a collection whose layout has them. Nothing was written.",
        )
    if len(values) != count:
        raise InvalidBatch(
            f"{len(values)} {name} were given for {count} passages",
            fix="Give one for each passage. Nothing was written.",
        )


def _terms(weights: LexicalWeights) -> SparseTerms:
    return SparseTerms(tuple(weights.indices.tolist()), tuple(weights.values.tolist()))


def _check_tokens(vectors: FloatArray, width: int) -> FloatArray:
    rows = np.asarray(vectors)
    if rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise InvalidBatch(
            f"the token vectors have shape {rows.shape} and type {rows.dtype}, expected at least "
            f"one row of {width} floats",
            fix="Encode with the model that built the collection. Nothing was written.",
        )
    return check_vectors(rows, len(rows), width)


def check_vectors(vectors: FloatArray, count: int, dimension: int) -> FloatArray:
    """The vectors as float32 (count, dimension).

    Raises:
        InvalidBatch: another shape or kind, a NaN or infinity, or a row of zeros, which cosine
            similarity can never find.
    """
    array = np.asarray(vectors)
    if array.dtype.kind != "f" or array.shape != (count, dimension):
        raise InvalidBatch(
            f"vectors have shape {array.shape} and type {array.dtype}, expected "
            f"({count}, {dimension}) floats: one vector of the collection's dimension per passage",
            fix="Encode with the model that built the collection. Nothing was written.",
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise InvalidBatch(
            f"vector {int(np.argmax(bad))} of {count} has a NaN or an infinity "
            f"({int(bad.sum())} such vectors)",
            fix="The encoder failed on these texts: try fp32 on the CPU. Nothing was written.",
        )
    zero = ~rows.any(axis=1)
    if zero.any():
        raise InvalidBatch(
            f"vector {int(np.argmax(zero))} of {count} is all zeros ({int(zero.sum())} such "
            "vectors), which no search can find",
            fix="The encoder failed on these texts. Nothing was written.",
        )
    return rows


def write_batches(
    points: Sequence[PointData], max_bytes: int = WRITE_BYTES
) -> list[list[PointData]]:
    """Points cut into writes of at most WRITE_BATCH points and about `max_bytes` bytes."""
    batches: list[list[PointData]] = []
    size = 0
    for point in points:
        if not batches or len(batches[-1]) == WRITE_BATCH or size + point.size > max_bytes:
            batches.append([])
            size = 0
        batches[-1].append(point)
        size += point.size
    return batches


def _payload_size(value: Any) -> int:
    """Bytes of a value of JSON, about. One loop: every point that is read or written is sized."""
    size, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            size += 4 + (len(one) if one.isascii() else len(one.encode("utf-8")))
        elif isinstance(one, dict):
            size += 4 + 4 * len(one) + sum(map(len, one))
            waiting += one.values()
        elif isinstance(one, list):
            size += 4
            waiting += one
        else:
            size += 12
    return size
