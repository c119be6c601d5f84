"""Points in one collection of a Qdrant server, through qdrant-client.

`searches.py`, `reads.py`, `upserts.py`, `deletes.py` and `copies.py` have the work; `place.py` is
what they share: the collection as it was opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from retrieval.index.point_store import Bounds, Nearest, PointData
from retrieval.index.searcher import LEG_LIMIT
from retrieval.index.server.client import Connection
from retrieval.index.server.copies import ServerCopies
from retrieval.index.server.deletes import Deletes, may_be_applied
from retrieval.index.server.journal import Journal
from retrieval.index.server.limits import Limits
from retrieval.index.server.place import Place
from retrieval.index.server.reads import Reads
from retrieval.index.server.searches import Searches
from retrieval.index.server.upserts import Upserts
from retrieval.types import FloatArray, IndexStatus, Manifest

if TYPE_CHECKING:
    from qdrant_client import models


class ServerPoints:
    """A `PointStore` on one collection of a server; `collection` is its physical name.

    Args:
        copies: of each point, as the server has it.
        metadata: of the collection, as they were when it was opened.
    """

    def __init__(
        self,
        connection: Connection,
        collection: str,
        manifest: Manifest,
        limits: Limits | None = None,
        *,
        copies: int = 1,
        metadata: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        place = Place(connection, collection, manifest, Limits() if limits is None else limits)
        self._place = place
        self._searches = Searches(place)
        self._reads = Reads(place)
        journal: Journal | None = None
        if copies > 1 and not connection.is_local:
            journal = Journal(place.change_metadata, metadata, may_be_applied)
        self._upserts = Upserts(place, journal)
        self._deletes = Deletes(place, self._reads, journal)
        self._copies: ServerCopies | None = None
        if journal is not None:
            self._copies = ServerCopies(place, self._deletes, copies, journal)

    @property
    def copies(self) -> ServerCopies | None:
        """How the copies of a point are compared; None where there is one of each."""
        return self._copies

    @property
    def bounds(self) -> Bounds:
        """What the server allows in one request, as far as it is known."""
        return self._place.limits.bounds

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points; each request waits until it is applied."""
        self._upserts.write(points)

    def nearest(
        self, requests: Sequence[Nearest], payloads: dict[str, dict[str, Any]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each request, (id, score) of the best `limit` points; payloads by the same way."""
        return self._searches.nearest(requests, payloads)

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id."""
        return self._reads.payloads(ids)

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Dense vectors (dimension,) by id."""
        return self._reads.vectors(ids)

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int, where: Any = None
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """A page of points in id order; with a filter, without those that have no dense vector."""
        return self._reads.scroll(fields, after, limit, where)

    def points(self, limit: int) -> Iterator[list[PointData]]:
        """Pages of whole points in id order."""
        return self._reads.points(limit)

    def count(self, where: models.Filter | None) -> int:
        """The exact number of points that match."""
        return self._reads.count(where)

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id."""
        self._deletes.delete_ids(ids)

    def delete_matching(self, where: models.Filter) -> None:
        """Delete what a filter matches."""
        self._deletes.delete_matching(where)

    def check(self) -> None:
        """Ask whether the collection is still the one that was opened."""
        info = self._place.persist(
            "open", lambda client: client.get_collection(self._place.collection)
        )
        self._place.same(info)

    def optimize(self) -> None:
        """Nothing but `check`: a server builds its indexes by itself, in the background."""
        self.check()

    def status(self) -> IndexStatus:
        """How the collection is doing.

        `indexed` is worked out from the server's count over all named vectors, and so about right.
        """
        info = self._place.read(
            "open", lambda client: client.get_collection(self._place.collection)
        )
        self._place.same(info)
        self._place.limits.read(info)
        points = self.count(None)
        named = 3 if self._place.manifest.layout.lexical else 2
        state: Literal["ok", "optimizing", "failed"] = "ok"
        notes = [str(warning.message) for warning in info.warnings or []]
        notes += self._place.limits.notes(self._place.manifest.storage, LEG_LIMIT)
        if info.status.value == "red":
            state = "failed"
            notes.append("The server says that the collection has failed (status red).")
        elif info.status.value in ("yellow", "grey"):
            state = "optimizing"
        if info.status.value == "grey":
            notes.append("The server was restarted; it goes on optimising with the next write.")
        trouble = getattr(info.optimizer_status, "error", None)
        if trouble:
            state = "failed"
            notes.append(f"The server's optimiser failed: {trouble}")
        return IndexStatus(
            points=points,
            indexed=min(points, -(-(info.indexed_vectors_count or 0) // named)),
            segments=info.segments_count,
            state=state,
            fields=tuple(sorted(info.payload_schema)),
            notes=tuple(notes),
        )

    def close(self) -> None:
        """Close the connection, unless the client was given."""
        self._place.close()
