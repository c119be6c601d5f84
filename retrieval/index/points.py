"""The seam between what an index means and the engine that stores it.

`CollectionIndex` checks, ranks and converts; a `PointStore` (Qdrant Edge or a Qdrant server)
only keeps points and finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import numpy as np

from retrieval.errors import InvalidBatch
from retrieval.types import FloatArray, Passage

from .payload import canonical_id, passage_to_payload

if TYPE_CHECKING:
    from qdrant_client.models import Filter

    from .sparse import Bm25Terms

DENSE: Final = "dense"
SPARSE: Final = "bm25"
VectorName: TypeAlias = Literal["dense", "bm25"]

WRITE_BATCH = 256
"""Points a write: Edge holds the interpreter lock all through one, so batches stay small."""

WRITE_BYTES = 8 * 1024 * 1024
"""Estimated bytes a write, so that long passages do not make a request too large."""


@dataclass(frozen=True, slots=True)
class SparseTerms:
    """A sparse vector: term ids, each once, and as many finite weights.

    Raises:
        InvalidBatch: lengths differ, an id repeats or a weight is not finite. Edge panics on
            unequal lengths and its shard is unusable from then on.
    """

    indices: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        fix = "This is a fault in how terms were made; nothing was written."
        if len(self.indices) != len(self.values):
            raise InvalidBatch(
                f"a sparse vector has {len(self.indices)} term ids and {len(self.values)} weights",
                fix=fix,
            )
        if len(set(self.indices)) != len(self.indices):
            raise InvalidBatch("a sparse vector has a term id twice", fix=fix)
        if not all(0 <= index < 2**32 for index in self.indices):
            raise InvalidBatch("a sparse vector has a term id outside 32 bits", fix=fix)
        if not np.isfinite(self.values).all():
            raise InvalidBatch("a sparse vector has a weight that is not finite", fix=fix)


@dataclass(frozen=True, slots=True)
class PointData:
    """A checked point, ready to be written. `size` estimates its bytes before any overhead."""

    id: str
    dense: FloatArray
    sparse: SparseTerms
    payload: dict[str, Any]
    size: int


class PointStore(Protocol):
    """An engine. Methods raise errors of `retrieval.errors` only."""

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points; durable when it returns."""
        ...

    def nearest(
        self, using: VectorName, query: FloatArray | SparseTerms, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        """(id, score) of the best `limit` points, ties in any order."""
        ...

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id; ids that are not stored are left out."""
        ...

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """Points in id order from `after` on, and where the next page starts (None: the end)."""
        ...

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id; ids that are not stored are passed over."""
        ...

    def delete_by_document(self, document_ids: Sequence[str]) -> None:
        """Delete the points of documents; `document_ids` is not empty."""
        ...

    def delete_matching(self, where: Filter) -> None:
        """Delete every point that a filter (never an empty one) matches."""
        ...

    def count(self, where: Filter | None) -> int:
        """The exact number of points that match."""
        ...

    def optimize(self) -> None:
        """Merge segments and build approximate indexes where they pay."""
        ...

    def close(self) -> None:
        """Let go of the engine; a second call does nothing."""
        ...


def check_batch(
    passages: Sequence[Passage], vectors: FloatArray, dimension: int, bm25: Bm25Terms
) -> list[PointData]:
    """Points for a batch that was checked as a whole: Edge applies a bad batch in part.

    Args:
        vectors: float (n, dimension), one row a passage.

    Raises:
        InvalidBatch: wrong shape, not finite, all zeros, a repeated id, or a passage that would
            not come back as it went in; the message names the passage.
    """
    rows = check_vectors(vectors, len(passages), dimension)
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
            terms = bm25.passage(passage.content)
        except InvalidBatch as error:
            raise InvalidBatch(
                f"passage {number} of {len(passages)} (document {passage.document_id!r}, position "
                f"{passage.position!r}): {error.problem}",
                fix=error.fix,
            ) from None
        seen[passage_id] = number
        size = row.nbytes + 8 * len(terms.indices) + _payload_size(payload)
        points.append(PointData(passage_id, row, terms, payload, size))
    return points


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


def write_batches(points: Sequence[PointData]) -> list[list[PointData]]:
    """Points cut into writes of at most WRITE_BATCH points and about WRITE_BYTES bytes."""
    batches: list[list[PointData]] = []
    size = 0
    for point in points:
        if not batches or len(batches[-1]) == WRITE_BATCH or size + point.size > WRITE_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(point)
        size += point.size
    return batches


def _payload_size(value: Any) -> int:
    if isinstance(value, str):
        return 4 + (len(value) if value.isascii() else len(value.encode("utf-8")))
    if isinstance(value, Mapping):
        return 4 + sum(4 + len(key) + _payload_size(item) for key, item in value.items())
    if isinstance(value, list):
        return 4 + sum(map(_payload_size, value))
    return 12
