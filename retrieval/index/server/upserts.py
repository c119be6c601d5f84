"""Points as they go to a server: cut to what it takes, one call of the client for a batch.

Over REST the body is written here: a float32 has its own shortest digits, half as many as those of
the double that JSON encoders make of it, and no object is built for a number or a point. Over gRPC
messages are made of arrays at once. A server reads back the same bits as from the client's own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from retrieval.errors import StoreFault
from retrieval.index.point_store import DENSE, LEXICAL, SPARSE, TOKENS, PointData, SparseTerms
from retrieval.index.server.client import Connection, TooMuch
from retrieval.index.server.errors import OverLimit
from retrieval.index.server.journal import Journal
from retrieval.index.server.names import VectorNames
from retrieval.index.server.place import Place
from retrieval.index.upsert_checks import WRITE_BYTES, write_batches

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_REST_BYTES = WRITE_BYTES // 2
"""Numbers take about three times their bytes in JSON, and a server refuses more than 32 MiB."""

_AT_ONCE = 2
"""Requests of one write that are under way together."""


class Upserts:
    """`PointStore.write` of a server.

    Args:
        journal: where a write that failed is noted; None where there is one copy of each point.
    """

    def __init__(self, place: Place, journal: Journal | None) -> None:
        self._place = place
        self._journal = journal

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points; each request waits until it is applied.

        A request that is too large, is not answered in time or breaks off is cut in half, down to
        one point.
        """
        try:
            self._write(points)
        except Exception as error:
            if self._journal is not None:
                self._journal.note_write(error, [one.id for one in points], self._note)
            raise

    def _note(self, changes: dict[str, Any]) -> None:
        # as a read, whose patience is short: the write has had its own
        self._place.read(
            "note a failed write in",
            lambda client: client.update_collection(self._place.collection, metadata=changes),
        )

    def _write(self, points: Sequence[PointData]) -> None:
        most = WRITE_BYTES if self._place.connection.options.grpc else _REST_BYTES
        batches = write_batches(points, most)
        if len(batches) == 1 or self._place.connection.is_local:
            for batch in batches:
                self._write_batch(batch)
            return
        # while one batch is applied, the next is prepared and sent
        with ThreadPoolExecutor(_AT_ONCE, "retrieval-upsert") as pool:
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
            part, seen = waiting.pop(), self._place.limits.learned
            fitting = self._place.limits.parts(part)  # which another thread may have narrowed
            if len(fitting) > 1:
                waiting += fitting[::-1]
                continue
            # parts of one batch share a deadline until one of them succeeds
            since = self._place.connection.now() if since is None else since
            try:
                with self._place.there():
                    self._place.connection.attempt(
                        self._place.what("write to"), self._upsert(part), since
                    )
            except OverLimit as refusal:
                if not self._place.limits.learn(refusal, seen):
                    raise
                waiting.append(part)
                continue
            except TooMuch as trouble:
                if len(part) == 1:
                    self._write_one(part[0], trouble, since)
                elif self._place.connection.now() - since >= self._place.connection.options.retry_s:
                    what = self._place.what("write to")
                    raise self._place.connection.error(trouble.failure, what, since) from trouble
                else:
                    middle = len(part) // 2
                    waiting += [part[middle:], part[:middle]]
                    continue
            since = None

    def _upsert(self, part: Sequence[PointData]) -> Callable[[QdrantClient], object]:
        return _call(self._place.connection, self._place.collection, self._place.names, part)

    def _write_one(self, one: PointData, trouble: TooMuch, since: float) -> None:
        """Write the one passage that is left of a batch, or say which it is."""
        document, position = one.payload.get("document_id"), one.payload.get("position")
        which = f"the passage {one.id} (document {document!r}, position {position!r})"
        if trouble.failure.kind != "large":
            what = f"{self._place.what('write to')}: {which},"
            with self._place.there():
                self._place.connection.persist(what, self._upsert([one]), since)
            return
        raise StoreFault(
            f"{which} is too large for the Qdrant server at {self._place.connection.where}, at "
            f"about {one.size:,} bytes: {trouble.failure.text}",
            fix="Split its document into smaller passages, or let the server (and a proxy before "
            "it) take larger requests: service.max_request_size_mb.",
        ) from trouble


def _call(
    connection: Connection, collection: str, names: VectorNames, points: Sequence[PointData]
) -> Callable[[QdrantClient], object]:
    """The call that inserts or replaces points, and returns when they are applied."""
    if connection.is_local:
        return _by_the_client(connection, collection, names, points)
    if connection.options.grpc:
        return _by_grpc(connection, collection, names, points)
    return _by_rest(connection, collection, names, points)


def _by_the_client(
    connection: Connection, collection: str, names: VectorNames, points: Sequence[PointData]
) -> Callable[[QdrantClient], object]:
    from qdrant_client import models

    structs = [
        models.PointStruct(id=one.id, vector=_lists(one, names), payload=one.payload)
        for one in points
    ]
    return lambda client: client.upsert(collection, structs, **connection.writing)


def _by_rest(
    connection: Connection, collection: str, names: VectorNames, points: Sequence[PointData]
) -> Callable[[QdrantClient], object]:
    import orjson
    from qdrant_client import models

    rows = [{"id": one.id, "vector": _plain(one, names), "payload": one.payload} for one in points]
    body = orjson.dumps({"points": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    ordering = connection.writing["ordering"]
    params = {"wait": "true"} | ({} if ordering is None else {"ordering": ordering.value})

    def put(client: QdrantClient) -> object:
        return client.http.client.request(
            type_=models.InlineResponse2008,
            method="PUT",
            url="/collections/{collection_name}/points",
            path_params={"collection_name": collection},
            params=params,
            headers={"Content-Type": "application/json"},
            content=body,
        )

    return put


def _by_grpc(
    connection: Connection, collection: str, names: VectorNames, points: Sequence[PointData]
) -> Callable[[QdrantClient], object]:
    from qdrant_client import grpc
    from qdrant_client.conversions.conversion import RestToGrpc, payload_to_grpc

    messages: list[Any] = [
        grpc.PointStruct(
            id=grpc.PointId(uuid=one.id),
            vectors=grpc.Vectors(vectors=grpc.NamedVectors(vectors=_messages(one, names))),
            payload=payload_to_grpc(one.payload),
        )
        for one in points
    ]
    ordering = connection.writing["ordering"]
    asked = grpc.UpsertPoints(
        collection_name=collection,
        wait=True,
        points=messages,
        ordering=None if ordering is None else RestToGrpc.convert_write_ordering(ordering),
    )
    # the client's own method would warn that it has been given messages
    seconds = math.ceil(connection.options.timeout_s)
    return lambda client: client.grpc_points.Upsert(asked, timeout=seconds)


def _plain(one: PointData, names: VectorNames) -> dict[str, Any]:
    """The named vectors of a point as they stand in JSON."""
    vectors: dict[str, Any] = {}
    if one.sparse.indices:
        # a text without terms does not count towards how rare they are, on any engine
        vectors[names[SPARSE]] = _terms(one.sparse)
    if one.dense.size:
        vectors[names[DENSE]] = one.dense
    if one.lexical is not None:
        vectors[names[LEXICAL]] = _terms(one.lexical)
    if one.tokens is not None:
        vectors[names[TOKENS]] = one.tokens
    return vectors


def _terms(terms: SparseTerms) -> dict[str, Any]:
    return {"indices": terms.indices, "values": terms.values}


def _lists(one: PointData, names: VectorNames) -> dict[str, Any]:
    """The named vectors of a point as the client's models take them."""
    from qdrant_client import models

    return {
        name: models.SparseVector(**{key: list(part) for key, part in vector.items()})
        if isinstance(vector, dict)
        else vector.tolist()
        for name, vector in _plain(one, names).items()
    }


def _messages(one: PointData, names: VectorNames) -> dict[str, Any]:
    """The named vectors of a point as messages of gRPC."""
    from qdrant_client import grpc

    def dense(row: Any) -> Any:
        return grpc.DenseVector(data=row.tolist())

    messages: dict[str, Any] = {}
    for name, vector in _plain(one, names).items():
        if isinstance(vector, dict):
            messages[name] = grpc.Vector(sparse=grpc.SparseVector(**vector))
        elif vector.ndim == 1:
            messages[name] = grpc.Vector(dense=dense(vector))
        else:
            rows = grpc.MultiDenseVector(vectors=[dense(row) for row in vector])
            messages[name] = grpc.Vector(multi_dense=rows)
    return messages
