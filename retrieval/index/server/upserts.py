"""Points as they go to a server: one call of the client for a batch.

Over REST the body is written here: a float32 has its own shortest digits, half as many as those of
the double that JSON encoders make of it, and no object is built for a number or a point. Over gRPC
messages are made of arrays at once. A server reads back the same bits as from the client's own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.index.point_store import DENSE, LEXICAL, SPARSE, TOKENS, PointData, SparseTerms
from retrieval.index.server.client import Connection
from retrieval.index.server.names import VectorNames

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


def upsert_call(
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
