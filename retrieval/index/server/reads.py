"""Points of a collection on a server, read by id and page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.errors import StoreFault
from retrieval.index.point_store import DENSE, PointData
from retrieval.index.server.conversion import dense_of, point_of
from retrieval.index.server.errors import OverLimit
from retrieval.index.server.place import Place
from retrieval.index.server.read_ahead import pages
from retrieval.types import FloatArray

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_COUNTED = 1_000
"""Ids of a page, where a server does not count them by a filter."""


class Reads:
    """What a `PointStore` reads, of one copy of each point."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id."""
        records = self._records(ids, True, False)
        return {str(record.id): record.payload or {} for record in records}

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Dense vectors (dimension,) by id."""
        records = self._records(ids, False, [self._place.names[DENSE]])
        found = {str(record.id): dense_of(record, self._place.names) for record in records}
        return {key: vector for key, vector in found.items() if vector.size}

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int, where: Any = None
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """A page of points in id order; with a filter, without those that have no dense vector."""
        payload = True if fields is None else fields
        # all points in order need no filter, and who reads to the end calls `check`
        chosen = None if where is None else self._place.own(where)
        records, following = self.page(after, limit, chosen, payload)
        page = [(str(record.id), record.payload or {}) for record in records]
        return page, following

    def points(self, limit: int) -> Iterator[list[PointData]]:
        """Pages of whole points in id order; the next is read while one is used."""
        names = self._place.names
        own = set(names.values())
        for records in pages(lambda after: self.page(after, limit, None, True, with_vectors=True)):
            for record in records:
                found = record.vector
                if isinstance(found, dict) and found and own.isdisjoint(found):
                    raise self._place.replaced("read", f"it has the vectors {sorted(found)}")
            yield [point_of(record, names) for record in records]

    def count(self, where: models.Filter | None) -> int:
        """The exact number of points that match."""

        chosen = None if where is None else self._place.own(where)

        def count() -> int | None:
            if not self._place.limits.exact:
                return None
            fitting = self._place.limits.filter(chosen)
            answer = self._place.read(
                "count",
                lambda client: client.count(
                    self._place.collection, count_filter=fitting, exact=True
                ),
            )
            return answer.count

        number = self._place.limits.ask(count)
        return self._counted(chosen) if number is None else number

    def page(
        self,
        after: str | None,
        limit: int,
        where: models.Filter | None,
        payload: bool | list[str],
        *,
        with_vectors: bool = False,
    ) -> tuple[list[models.Record], str | None]:
        """A page of records in id order, and where the next one starts."""
        # A page that asked for consistency would end early where copies differ: its points are
        # read again by id.
        reading = self._place.connection.reading
        again = reading["consistency"] is not None

        def page() -> tuple[list[models.Record], Any]:
            fitting, size = self._place.limits.filter(where), self._place.limits.page(limit)
            # Long runs read pages, and are to outlast an outage as their writes do.
            return self._place.persist(
                "read",
                lambda client: client.scroll(
                    self._place.collection, scroll_filter=fitting, limit=size, offset=after,
                    with_payload=False if again else payload,
                    with_vectors=False if again else with_vectors,
                ),
            )  # fmt: skip

        records, following = self._place.limits.ask(page)
        if again and records:
            ids = [record.id for record in records]
            records = self._place.persist(
                "read",
                lambda client: client.retrieve(
                    self._place.collection, ids, with_payload=payload, with_vectors=with_vectors,
                    **reading,
                ),
            )  # fmt: skip
            order = {key: number for number, key in enumerate(ids)}
            records.sort(key=lambda record: order[record.id])
        return records, None if following is None else str(following)

    def _records(
        self, ids: Sequence[str], payload: bool, vectors: bool | list[str]
    ) -> list[models.Record]:
        """Points by id, for as few tokens as it can be where reading is rationed."""
        wanted, reading = list(ids), self._place.connection.reading
        if not wanted:
            return []
        dear = len(wanted) > 2 and reading["consistency"] is None
        if not (dear and self._place.limits.rationed):
            try:
                return self._place.read(
                    "read",
                    lambda client: client.retrieve(
                        self._place.collection, wanted, with_payload=payload, with_vectors=vectors,
                        **reading,
                    ),
                )  # fmt: skip
            except StoreFault as refusal:
                limited = refusal.retry_after_s or isinstance(refusal, OverLimit)
                if not (dear and limited):
                    raise
                self._place.limits.rationed = True
        return self._place.limits.ask(lambda: self._records_by_filter(wanted, payload, vectors))

    def _records_by_filter(
        self, ids: list[str], payload: bool, vectors: bool | list[str]
    ) -> list[models.Record]:
        """As `_records`: two tokens for a page of them, in place of one an id."""
        from qdrant_client import models

        found: list[models.Record] = []
        size = self._place.limits.page(len(ids))
        for start in range(0, len(ids), size):
            some = list(ids[start : start + size])
            given = models.Filter(must=[models.HasIdCondition(has_id=list(some))])
            where = self._place.limits.filter(given)

            def page(
                client: QdrantClient, where: models.Filter | None = where, limit: int = len(some)
            ) -> list[models.Record]:
                return client.scroll(
                    self._place.collection, scroll_filter=where, limit=limit,
                    with_payload=payload, with_vectors=vectors, **self._place.connection.reading,
                )[0]  # fmt: skip

            found += self._place.read("read", page)
        return found

    def _counted(self, where: models.Filter | None) -> int:
        """How many points match, by reading their ids."""
        number, after = 0, None
        while True:
            page, after = self.page(after, _COUNTED, where, False)
            number += len(page)
            if after is None:
                return number
