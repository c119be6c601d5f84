"""The seam between what an index means and the engine that stores it.

`CollectionIndex` checks, ranks and converts; a `PointStore` (Qdrant Edge or a Qdrant server)
only keeps points and finds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from retrieval.errors import InvalidBatch
from retrieval.types import FloatArray, IndexStatus

if TYPE_CHECKING:
    from qdrant_client.models import Filter

DENSE: Final = "dense"
SPARSE: Final = "bm25"
LEXICAL: Final = "lexical"
TOKENS: Final = "tokens"
VectorName: TypeAlias = Literal["dense", "bm25", "lexical", "tokens"]
"""Named vectors of a point: the encoder's vector, BM25 terms, the encoder's own term weights and
its token vectors; the last two only where the collection's layout has them."""


@dataclass(frozen=True, slots=True)
class SparseTerms:
    """A sparse vector: term ids, each once, and a finite weight for each.

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
        if self.indices and not 0 <= min(self.indices) <= max(self.indices) < 2**32:
            raise InvalidBatch("a sparse vector has a term id outside 32 bits", fix=fix)
        if not all(map(math.isfinite, self.values)):
            raise InvalidBatch("a sparse vector has a weight that is not finite", fix=fix)


@dataclass(frozen=True, slots=True)
class PointData:
    """A checked point, ready to be written. `size` estimates its bytes before any overhead."""

    id: str
    dense: FloatArray
    sparse: SparseTerms
    payload: dict[str, Any]
    size: int
    lexical: SparseTerms | None = None
    tokens: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Nearest:
    """One nearest-neighbour request.

    query: float32 (dimension,) for dense, (tokens, d) for tokens, terms for the sparse vectors.
    exact: compare with every vector that the filter lets through.
    """

    using: VectorName
    query: FloatArray | SparseTerms
    limit: int
    where: Filter | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an engine takes in one request, where that is less than one might ask.

    results: of one search. values: of one condition. conditions: of one filter. unindexed: whether
    filters may use fields without an index.
    """

    results: int | None = None
    values: int | None = None
    conditions: int | None = None
    unindexed: bool = True


class Narrowed(Exception):
    """The bounds turned out narrower than they were: ask again by what they are now."""


class Copies(Protocol):
    """Several copies of each point, which may differ after a write that not all of them took.

    A server keeps what the living copies took of a write that it answered with an error, and
    nothing brings it to the others but the same write, or a deletion, once more.
    """

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses that are known, each of which may show other copies."""
        ...

    def seen(
        self, fields: list[str] | None, where: Filter | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Points that any of the nodes shows, in id order, each once."""
        ...

    def agreed(self, ids: Sequence[str], fields: list[str] | None) -> dict[str, dict[str, Any]]:
        """Of points whose payloads (these fields of them) are the same on all copies, those."""
        ...

    def points(self, ids: Sequence[str]) -> list[PointData]:
        """Whole points whose payloads are the same on all copies; others are left out."""
        ...

    def by_node(self, ids: Sequence[str]) -> list[list[PointData]]:
        """Whole points as each of `nodes` shows them."""
        ...

    def counts(self) -> list[int | None]:
        """How many points each of `nodes` counts; None where it does not answer."""
        ...

    def clear(self, where: Filter) -> None:
        """Delete what a filter matches and nobody was ever told to be stored."""
        ...

    def unfinished(self) -> int:
        """How many deletions were begun and not seen to their end, by what is noted now."""
        ...

    def resume(self) -> None:
        """Send deletions again that were begun, by any writer, and not seen to their end."""
        ...

    def settle(self) -> None:
        """Forget deletions that are done."""
        ...


class PointStore(Protocol):
    """An engine. Methods raise errors of `retrieval.errors` only; each may raise
    `CollectionReplaced`."""

    @property
    def bounds(self) -> Bounds:
        """What may be asked for in one request; `nearest` and filters have to keep to it."""
        ...

    @property
    def copies(self) -> Copies | None:
        """How the copies of a point are compared; None where there is one of each."""
        ...

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points; durable when it returns."""
        ...

    def nearest(
        self, requests: Sequence[Nearest], payloads: dict[str, dict[str, Any]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each request, (id, score) of the best `limit` points, ties in any order.

        Raises:
            Narrowed: requests are larger than the bounds that are known now.

        Args:
            payloads: where given, an engine that would need another request for them puts in the
                payloads of what it found.
        """
        ...

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id; ids that are not stored are left out."""
        ...

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Dense vectors (dimension,) by id; ids that are not stored are left out."""
        ...

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int, where: Filter | None = None
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """Points in id order from `after` on, and where the next page starts (None: the end)."""
        ...

    def points(self, limit: int) -> Iterator[list[PointData]]:
        """Pages of whole points with all their vectors, in id order; a missing dense vector is
        empty."""
        ...

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id; ids that are not stored are skipped."""
        ...

    def delete_matching(self, where: Filter) -> None:
        """Delete every point that a filter (never an empty one) matches."""
        ...

    def count(self, where: Filter | None) -> int:
        """The exact number of points that match."""
        ...

    def check(self) -> None:
        """Ask whether the collection is still the one that was opened.

        Every method refuses to write to another, and a search of one; what is read of one with a
        filter is nothing. So this is for those who would take "nothing" for an answer, and for who
        has read everything.

        Raises:
            CollectionReplaced: it was deleted, or deleted and made anew.
        """
        ...

    def optimize(self) -> None:
        """Build the approximate index over what has been written so far."""
        ...

    def status(self) -> IndexStatus:
        """How the collection is doing."""
        ...

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""
        ...
