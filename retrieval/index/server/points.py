"""Points in one collection of a Qdrant server, through qdrant-client."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from retrieval.errors import (
    CollectionNotFound,
    CollectionReplaced,
    InvalidInput,
    RetrievalError,
    StoreFault,
)
from retrieval.index.manifest import MANIFEST_KEY
from retrieval.index.point_store import (
    DENSE,
    TOKENS,
    Bounds,
    Narrowed,
    Nearest,
    PointData,
)
from retrieval.index.searcher import LEG_LIMIT
from retrieval.index.server.client import Connection, TooMuch
from retrieval.index.server.conversion import dense_of, point_of
from retrieval.index.server.copies import Points, ServerCopies
from retrieval.index.server.errors import OverLimit, failure_of, replaced
from retrieval.index.server.journal import Journal
from retrieval.index.server.limits import Limits
from retrieval.index.server.names import named_filter, vector_names
from retrieval.index.server.schema import query_request, search_params
from retrieval.index.server.upserts import upsert_call
from retrieval.index.upsert_checks import WRITE_BYTES, write_batches
from retrieval.types import FloatArray, IndexStatus, Manifest

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_REST_BYTES = WRITE_BYTES // 2
"""Numbers take about three times their bytes in JSON, and a server refuses more than 32 MiB."""

_WRITES_AT_ONCE = 2

_QUERIES = 64
"""Requests in one search call, so that a large batch is not one long wait."""

_COUNTED = 1_000
_DELETED = 500
"""Points of a page of ids, where a server neither counts nor deletes them by a filter."""

_T = TypeVar("_T")


class ServerPoints:
    """A `PointStore` on one collection of a server; `collection` is its physical name.

    What it asks for by name (`names.py`) or by filter (`_own`) is of the collection that was
    opened: of another that has its place now nothing is found, written or deleted.

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
        self._connection = connection
        self._collection = collection
        self._manifest = manifest
        self._names = vector_names(manifest)
        self._limits = Limits() if limits is None else limits
        self._closed = False
        self._journal = Journal(self._change_metadata, metadata, _may_be_applied)
        self._copies: ServerCopies | None = None
        if copies > 1 and not connection.is_local:
            points = Points(
                connection,
                collection,
                ask=self._persist,
                own=self._own,
                whole=lambda record: point_of(record, self._names),
                delete=lambda where: self._send_delete(self._own(where) or where),
                metadata=self._metadata,
                limits=self._limits,
            )
            self._copies = ServerCopies(points, copies, self._journal)

    @property
    def copies(self) -> ServerCopies | None:
        """How the copies of a point are compared; None where there is one of each."""
        return self._copies

    @property
    def bounds(self) -> Bounds:
        """What the server allows in one request, as far as it is known."""
        return self._limits.bounds

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points; each request waits until it is applied.

        A request that is too large, is not answered in time or breaks off is cut in half, down to
        one point.
        """
        most = WRITE_BYTES if self._connection.options.grpc else _REST_BYTES
        batches = write_batches(points, most)
        if len(batches) == 1 or self._connection.is_local:
            for batch in batches:
                self._write_batch(batch)
            return
        # while one batch is applied, the next is prepared and sent
        with ThreadPoolExecutor(_WRITES_AT_ONCE, "retrieval-upsert") as pool:
            under_way = [pool.submit(self._write_batch, batch) for batch in batches]
            try:
                for one in under_way:
                    one.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _write_batch(self, batch: Sequence[PointData]) -> None:
        waiting = [batch]
        since: float | None = None
        while waiting:
            part, seen = waiting.pop(), self._limits.learned
            if len(pieces := self._limits.parts(part)) > 1:
                waiting += pieces[::-1]
                continue
            # parts of one batch share a deadline until one of them succeeds
            since = self._connection.now() if since is None else since
            try:
                with self._there():
                    self._connection.attempt(self._what("write to"), self._upsert(part), since)
            except OverLimit as refusal:
                if not self._limits.learn(refusal, seen):
                    raise
                waiting.append(part)
                continue
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
        return self._limits.ask(lambda: self._nearest(requests, payloads))

    def _nearest(
        self, requests: Sequence[Nearest], payloads: dict[str, dict[str, Any]] | None
    ) -> list[list[tuple[str, float]]]:
        limits = self._limits
        if limits.results is not None and any(one.limit > limits.results for one in requests):
            raise Narrowed
        asked = [self._query(request, payloads is not None) for request in requests]
        found: list[list[tuple[str, float]]] = []
        size = _QUERIES if limits.searches is None else min(_QUERIES, limits.searches)
        for start in range(0, len(asked), size):
            answers = self._answers(asked[start : start + size])
            found += [[(str(hit.id), hit.score) for hit in one.points] for one in answers]
            if payloads is not None:
                payloads.update(
                    (str(hit.id), hit.payload or {}) for one in answers for hit in one.points
                )
        return found

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id."""
        records = self._records(ids, True, False)
        return {str(record.id): record.payload or {} for record in records}

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Dense vectors (dimension,) by id."""
        records = self._records(ids, False, [self._names[DENSE]])
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

        if not ids:
            return
        try:
            self._delete(models.Filter(must=[models.HasIdCondition(has_id=list(ids))]))
        except OverLimit as refusal:
            if refusal.most is not None or len(ids) == 1:
                raise
            # more than a minute's tokens
            middle = len(ids) // 2
            self.delete_ids(ids[:middle])
            self.delete_ids(ids[middle:])

    def delete_matching(self, where: models.Filter) -> None:
        """Delete what a filter matches."""
        try:
            self._delete(where)
        except OverLimit as refusal:
            if refusal.most is not None:
                raise
            # more than a minute's tokens: one page of ids after the other
            while page := self._page(None, _DELETED, self._own(where), False)[0]:
                self.delete_ids([str(record.id) for record in page])

    def count(self, where: models.Filter | None) -> int:
        """The exact number of points that match."""

        chosen = None if where is None else self._own(where)

        def count() -> int | None:
            if not self._limits.exact:
                return None
            fitting = self._limits.filter(chosen)
            answer = self._read(
                "count",
                lambda client: client.count(self._collection, count_filter=fitting, exact=True),
            )
            return answer.count

        number = self._limits.ask(count)
        return self._counted(chosen) if number is None else number

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
        self._limits.read(info)
        points = self.count(None)
        named = 3 if self._manifest.layout.lexical else 2
        state: Literal["ok", "optimizing", "failed"] = "ok"
        notes = [str(warning.message) for warning in info.warnings or []]
        notes += self._limits.notes(self._manifest.storage, LEG_LIMIT)
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
        return upsert_call(self._connection, self._collection, self._names, part)

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

    def _query(self, request: Nearest, with_payload: bool) -> models.QueryRequest:
        limits = self._limits
        if request.exact and not limits.exact and request.using != TOKENS:
            raise InvalidInput(
                "exact is true, and the server does not allow exact searches of the collection "
                f"{self._manifest.collection!r} (search_allow_exact of its strict mode)",
                fix="Leave exact out, or let the server allow it.",
            )
        if self._connection.is_local:  # which scans everything, and warns of parameters
            params = None
        else:
            params = search_params(request, self._manifest.storage, limits)
        fitting = dataclasses.replace(request, where=limits.filter(request.where))
        return query_request(fitting, self._names, params, limits, with_payload=with_payload)

    def _answers(self, requests: list[models.QueryRequest]) -> list[models.QueryResponse]:
        try:
            return self._read("search", self._search(requests))
        except OverLimit as refusal:
            if refusal.most is not None or len(requests) == 1:
                raise
            # together they cost more than a minute's tokens
            middle = len(requests) // 2
            return self._answers(requests[:middle]) + self._answers(requests[middle:])

    def _records(
        self, ids: Sequence[str], payload: bool, vectors: bool | list[str]
    ) -> list[models.Record]:
        """Points by id, for as few tokens as it can be where reading is rationed."""
        wanted, reading = list(ids), self._connection.reading
        if not wanted:
            return []
        dear = len(wanted) > 2 and reading["consistency"] is None
        if not (dear and self._limits.rationed):
            try:
                return self._read(
                    "read",
                    lambda client: client.retrieve(
                        self._collection, wanted, with_payload=payload, with_vectors=vectors,
                        **reading,
                    ),
                )  # fmt: skip
            except StoreFault as refusal:
                limited = refusal.retry_after_s or isinstance(refusal, OverLimit)
                if not (dear and limited):
                    raise
                self._limits.rationed = True
        return self._limits.ask(lambda: self._records_by_filter(wanted, payload, vectors))

    def _records_by_filter(
        self, ids: list[str], payload: bool, vectors: bool | list[str]
    ) -> list[models.Record]:
        """As `_records`: two tokens for a page of them, in place of one an id."""
        from qdrant_client import models

        found: list[models.Record] = []
        size = self._limits.page(len(ids))
        for start in range(0, len(ids), size):
            some = list(ids[start : start + size])
            given = models.Filter(must=[models.HasIdCondition(has_id=list(some))])
            where = self._limits.filter(given)

            def page(
                client: QdrantClient, where: models.Filter | None = where, limit: int = len(some)
            ) -> list[models.Record]:
                return client.scroll(
                    self._collection, scroll_filter=where, limit=limit,
                    with_payload=payload, with_vectors=vectors, **self._connection.reading,
                )[0]  # fmt: skip

            found += self._read("read", page)
        return found

    def _counted(self, where: models.Filter | None) -> int:
        """How many points match, by reading their ids."""
        number, after = 0, None
        while True:
            page, after = self._page(after, _COUNTED, where, False)
            number += len(page)
            if after is None:
                return number

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
        # A page that asked for consistency would end early where copies differ: its points are
        # read again by id.
        reading = self._connection.reading
        again = reading["consistency"] is not None

        def page() -> tuple[list[models.Record], Any]:
            fitting, size = self._limits.filter(where), self._limits.page(limit)
            # Long runs read pages, and are to outlast an outage as their writes do.
            return self._persist(
                "read",
                lambda client: client.scroll(
                    self._collection, scroll_filter=fitting, limit=size, offset=after,
                    with_payload=False if again else payload,
                    with_vectors=False if again else with_vectors,
                ),
            )  # fmt: skip

        records, following = self._limits.ask(page)
        if again and records:
            ids = [record.id for record in records]
            records = self._persist(
                "read",
                lambda client: client.retrieve(
                    self._collection, ids, with_payload=payload, with_vectors=with_vectors,
                    **reading,
                ),
            )  # fmt: skip
            order = {key: number for number, key in enumerate(ids)}
            records.sort(key=lambda record: order[record.id])
        return records, None if following is None else str(following)

    def _delete(self, where: models.Filter) -> None:
        own = self._own(where) or where
        if self._copies is None:
            self._send_delete(own)
            return
        with self._journal.noted(own):
            self._send_delete(own)

    def _send_delete(self, where: models.Filter) -> None:
        from qdrant_client import models

        def delete() -> None:
            fitting = self._limits.filter(where)
            assert fitting is not None
            selector = models.FilterSelector(filter=fitting)
            self._persist(
                "delete from",
                lambda client: client.delete(
                    self._collection, points_selector=selector, **self._connection.writing
                ),
            )

        self._limits.ask(delete)

    def _change_metadata(self, changes: dict[str, Any]) -> None:
        self._persist(
            "note a deletion in",
            lambda client: client.update_collection(self._collection, metadata=changes),
        )

    def _metadata(self) -> Mapping[str, Any]:
        info = self._persist("open", lambda client: client.get_collection(self._collection))
        self._same(info)
        return getattr(info.config, "metadata", None) or {}

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
        where = named_filter(where, self._names)
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


def _may_be_applied(error: BaseException) -> bool:
    """Whether some copies may have done what a failed call asked; a refused one did nothing."""
    cause = error.__cause__
    if isinstance(error, OverLimit):
        return False
    if not isinstance(error, RetrievalError) or not isinstance(cause, Exception):
        return True
    if isinstance(cause, RetrievalError):
        return False
    return failure_of(cause).kind in ("away", "cut", "slow", "busy", "full")
