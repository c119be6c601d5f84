"""Points in one collection of a Qdrant server, through qdrant-client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from retrieval.errors import CollectionNotFound, CollectionReplaced, StoreFault
from retrieval.index.manifest import MANIFEST_KEY
from retrieval.index.point_store import DENSE, Nearest, PointData
from retrieval.index.server.client import Connection, TooMuch
from retrieval.index.server.conversion import dense_of, point_of, vectors_of
from retrieval.index.server.errors import replaced
from retrieval.index.server.names import vector_names
from retrieval.index.server.schema import query_request, search_params
from retrieval.index.upsert_checks import WRITE_BYTES, write_batches
from retrieval.types import FloatArray, IndexStatus, Manifest

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_REST_BYTES = WRITE_BYTES // 2
"""Numbers take about five times their bytes in JSON, and a server refuses more than 32 MiB."""

_QUERIES = 64
"""Requests in one search call, so that a large batch is not one long wait."""

_T = TypeVar("_T")


class ServerPoints:
    """A `PointStore` on one collection of a server; `collection` is its physical name.

    What it asks for by name (`names.py`) or by filter (`_own`) is of the collection that was
    opened: of another that has its place now nothing is found, written or deleted.
    """

    def __init__(self, connection: Connection, collection: str, manifest: Manifest) -> None:
        self._connection = connection
        self._collection = collection
        self._manifest = manifest
        self._names = vector_names(manifest)
        self._closed = False

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points; each request waits until it is applied.

        A request that is too large, is not answered in time or breaks off is cut in half, down to
        one point.
        """
        most = WRITE_BYTES if self._connection.options.grpc else _REST_BYTES
        for batch in write_batches(points, most):
            waiting = [batch]
            since: float | None = None
            while waiting:
                part = waiting.pop()
                # parts of one batch share a deadline until one of them succeeds
                since = self._connection.now() if since is None else since
                try:
                    with self._there():
                        self._connection.attempt(self._what("write to"), self._upsert(part), since)
                except TooMuch as trouble:
                    if len(part) == 1:
                        self._write_one(part[0], trouble, since)
                    elif self._connection.now() - since >= self._connection.options.retry_s:
                        what = self._what("write to")
                        raise self._connection.error(trouble.failure, what, since) from trouble
                    else:
                        middle = len(part) // 2
                        waiting += [part[middle:], part[:middle]]
                        continue
                since = None

    def nearest(
        self, requests: Sequence[Nearest], payloads: dict[str, dict[str, Any]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each request, (id, score) of the best `limit` points; payloads by the same way."""
        storage = self._manifest.storage
        local = self._connection.is_local  # which scans everything, and warns of parameters
        asked = [
            query_request(
                request,
                self._names,
                None if local else search_params(request, storage),
                with_payload=payloads is not None,
            )
            for request in requests
        ]
        found: list[list[tuple[str, float]]] = []
        for start in range(0, len(asked), _QUERIES):
            part = asked[start : start + _QUERIES]
            answers = self._read("search", self._search(part))
            found += [[(str(hit.id), hit.score) for hit in one.points] for one in answers]
            if payloads is not None:
                payloads.update(
                    (str(hit.id), hit.payload or {}) for one in answers for hit in one.points
                )
        return found

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id."""
        if not ids:
            return {}
        records = self._read(
            "read",
            lambda client: client.retrieve(
                self._collection, list(ids), with_payload=True, with_vectors=False,
                **self._connection.reading,
            ),
        )  # fmt: skip
        return {str(record.id): record.payload or {} for record in records}

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Dense vectors (dimension,) by id."""
        if not ids:
            return {}
        records = self._read(
            "read",
            lambda client: client.retrieve(
                self._collection, list(ids), with_payload=False,
                with_vectors=[self._names[DENSE]], **self._connection.reading,
            ),
        )  # fmt: skip
        found = {str(record.id): dense_of(record, self._names) for record in records}
        return {key: vector for key, vector in found.items() if vector.size}

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int, where: Any = None
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """A page of points in id order; those without a dense vector are left out."""
        payload = True if fields is None else fields
        records, following = self._page(after, limit, self._own(where), payload)
        page = [(str(record.id), record.payload or {}) for record in records]
        return page, following

    def points(self, after: str | None, limit: int) -> tuple[list[PointData], str | None]:
        """A page of whole points in id order."""
        records, following = self._page(after, limit, None, True, with_vectors=True)
        own = set(self._names.values())
        for record in records:
            if isinstance(record.vector, dict) and record.vector and own.isdisjoint(record.vector):
                raise self._replaced("read", f"it has the vectors {sorted(record.vector)}")
        return [point_of(record, self._names) for record in records], following

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id."""
        from qdrant_client import models

        if ids:
            self.delete_matching(models.Filter(must=[models.HasIdCondition(has_id=list(ids))]))

    def delete_matching(self, where: models.Filter) -> None:
        """Delete what a filter matches."""
        from qdrant_client import models

        self._delete(models.FilterSelector(filter=self._own(where) or where))

    def count(self, where: models.Filter | None) -> int:
        """The exact number of points that match."""
        chosen = None if where is None else self._own(where)
        answer = self._read(
            "count",
            lambda client: client.count(self._collection, count_filter=chosen, exact=True),
        )
        return answer.count

    def check(self) -> None:
        """Ask whether the collection is still the one that was opened."""
        info = self._persist("open", lambda client: client.get_collection(self._collection))
        self._same(info)

    def optimize(self) -> None:
        """Nothing but `check`: a server builds its indexes by itself, in the background."""
        self.check()

    def status(self) -> IndexStatus:
        """How the collection is doing.

        `indexed` is worked out from the server's count over all named vectors, and so about right.
        """
        info = self._read("open", lambda client: client.get_collection(self._collection))
        self._same(info)
        points = self.count(None)
        named = 3 if self._manifest.layout.lexical else 2
        state: Literal["ok", "optimizing", "failed"] = "ok"
        notes = [str(warning.message) for warning in info.warnings or []]
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
        self._closed = True
        self._connection.close()

    def _upsert(self, part: Sequence[PointData]) -> Callable[[QdrantClient], object]:
        from qdrant_client import models

        structs = [
            models.PointStruct(id=one.id, vector=vectors_of(one, self._names), payload=one.payload)
            for one in part
        ]
        return lambda client: client.upsert(self._collection, structs, **self._connection.writing)

    def _write_one(self, one: PointData, trouble: TooMuch, since: float) -> None:
        """Write the one passage that is left of a batch, or say which it is."""
        document, position = one.payload.get("document_id"), one.payload.get("position")
        which = f"the passage {one.id} (document {document!r}, position {position!r})"
        if trouble.failure.kind != "large":
            what = f"{self._what('write to')}: {which},"
            with self._there():
                self._connection.persist(what, self._upsert([one]), since)
            return
        raise StoreFault(
            f"{which} is too large for the Qdrant server at {self._connection.where}, at about "
            f"{one.size:,} bytes: {trouble.failure.text}",
            fix="Split its document into smaller passages, or let the server (and a proxy before "
            "it) take larger requests: service.max_request_size_mb.",
        ) from trouble

    def _search(
        self, requests: list[models.QueryRequest]
    ) -> Callable[[QdrantClient], list[models.QueryResponse]]:
        def search(client: QdrantClient) -> list[models.QueryResponse]:
            # what the client's own method adds is a deep copy of every request
            remote = client._client
            return remote.query_batch_points(
                self._collection, requests=requests, **self._connection.reading
            )

        return search

    def _page(
        self,
        after: str | None,
        limit: int,
        where: models.Filter | None,
        payload: bool | list[str],
        *,
        with_vectors: bool = False,
    ) -> tuple[list[models.Record], str | None]:
        # Long runs read pages, and are to outlast an outage as their writes do.
        records, following = self._persist(
            "read",
            lambda client: client.scroll(
                self._collection, scroll_filter=where, limit=limit, offset=after,
                with_payload=payload, with_vectors=with_vectors, **self._connection.reading,
            ),
        )  # fmt: skip
        return records, None if following is None else str(following)

    def _delete(self, selector: Any) -> None:
        self._persist(
            "delete from",
            lambda client: client.delete(
                self._collection, points_selector=selector, **self._connection.writing
            ),
        )

    def _read(self, action: str, call: Callable[[QdrantClient], _T]) -> _T:
        with self._there():
            return self._connection.read(self._what(action), call)

    def _persist(self, action: str, call: Callable[[QdrantClient], _T]) -> _T:
        with self._there():
            return self._connection.persist(self._what(action), call)

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        """What is not found inside of the block was there when it was opened."""
        try:
            yield
        except CollectionNotFound as error:
            raise CollectionReplaced(
                f"{error.problem}; it was when it was opened",
                fix="Open it again; what has its name now was neither read nor changed.",
            ) from error

    def _own(self, where: models.Filter | None) -> models.Filter | None:
        """A filter that, besides, only points of the collection that was opened match."""
        from qdrant_client import models

        if not self._manifest.id:
            return where
        own = models.HasVectorCondition(has_vector=self._names[DENSE])
        if where is None:
            return models.Filter(must=[own])
        given = where.must
        conditions = [] if given is None else given if isinstance(given, list) else [given]
        return where.model_copy(update={"must": [*conditions, own]})

    def _same(self, info: models.CollectionInfo) -> None:
        """Refuse a collection whose manifest is not the one that was opened."""
        found = (getattr(info.config, "metadata", None) or {}).get(MANIFEST_KEY)
        if not isinstance(found, Mapping) or found.get("id", "") != self._manifest.id:
            raise self._replaced("go on with", "its manifest is another")

    def _replaced(self, action: str, text: str) -> CollectionReplaced:
        return replaced(
            f"{self._what(action)} on the Qdrant server at {self._connection.where}", text
        )

    def _what(self, action: str) -> str:
        if self._closed:
            raise StoreFault(
                f"the connection to the collection {self._collection!r} is closed",
                fix="Open it again.",
            )
        return f"{action} the collection {self._collection!r}"
