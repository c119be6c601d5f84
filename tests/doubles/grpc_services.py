"""The gRPC services of the Qdrant double: the client's own conversions onto the same backend."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qdrant_client import grpc as q
from qdrant_client import models
from qdrant_client.conversions.conversion import (
    GrpcToRest,
    RestToGrpc,
    grpc_field_type_to_payload_schema,
)

from . import snapshots
from .backend import Backend

Serve = Callable[[Any], Any]
"""From a request's message to the answer's message; raises `Rejected`."""


def services(backend: Backend, version: str) -> dict[str, tuple[str, str, Serve]]:
    """By full name of the call: the REST method and path it stands for, and what serves it."""
    calls: dict[str, tuple[str, str, Serve]] = {
        "/qdrant.Qdrant/HealthCheck": (
            "GET",
            "/",
            lambda _: q.HealthCheckReply(
                title="qdrant - vector search engine", version=version, commit="double"
            ),
        )
    }
    for service, methods in (
        ("Collections", _collections(backend)),
        ("Points", _points(backend) | _search(backend)),
        ("Snapshots", _snapshots(backend)),
    ):
        for name, call in methods.items():
            calls[f"/qdrant.{service}/{name}"] = call
    return calls


def _collections(b: Backend) -> dict[str, tuple[str, str, Serve]]:
    def create(m: Any) -> Any:
        given = models.CreateCollection(
            vectors=_if(m, "vectors_config", GrpcToRest.convert_vectors_config),
            sparse_vectors=_if(m, "sparse_vectors_config", GrpcToRest.convert_sparse_vector_config),
            shard_number=_if(m, "shard_number"),
            sharding_method=_if(m, "sharding_method", GrpcToRest.convert_sharding_method),
            replication_factor=_if(m, "replication_factor"),
            write_consistency_factor=_if(m, "write_consistency_factor"),
            on_disk_payload=_if(m, "on_disk_payload"),
            hnsw_config=_if(m, "hnsw_config", GrpcToRest.convert_hnsw_config_diff),
            wal_config=_if(m, "wal_config", GrpcToRest.convert_wal_config_diff),
            optimizers_config=_if(
                m, "optimizers_config", GrpcToRest.convert_optimizers_config_diff
            ),
            quantization_config=_if(
                m, "quantization_config", GrpcToRest.convert_quantization_config
            ),
            strict_mode_config=_if(m, "strict_mode_config", GrpcToRest.convert_strict_mode_config),
            metadata=GrpcToRest.convert_payload(m.metadata) if m.metadata else None,
        )
        return _operation(b.create_collection(m.collection_name, given))

    def exists(m: Any) -> Any:
        found = q.CollectionExists(exists=b.collection_exists(m.collection_name))
        return q.CollectionExistsResponse(result=found)

    def listed(_: Any) -> Any:
        found = [q.CollectionDescription(name=name) for name in b.collections()]
        return q.ListCollectionsResponse(collections=found)

    def aliases(m: Any) -> Any:
        found = b.aliases(getattr(m, "collection_name", None)).aliases
        return q.ListAliasesResponse(aliases=map(RestToGrpc.convert_alias_description, found))

    at = "/collections/{collection_name}"
    return {
        "Create": ("PUT", at, create),
        "Get": (
            "GET",
            at,
            lambda m: q.GetCollectionInfoResponse(
                result=RestToGrpc.convert_collection_info(b.collection(m.collection_name))
            ),
        ),
        "List": ("GET", "/collections", listed),
        "Update": (
            "PATCH",
            at,
            lambda m: _operation(
                b.update_collection(m.collection_name, GrpcToRest.convert_update_collection(m))
            ),
        ),
        "Delete": ("DELETE", at, lambda m: _operation(b.delete_collection(m.collection_name))),
        "CollectionExists": ("GET", f"{at}/exists", exists),
        "UpdateAliases": (
            "POST",
            "/collections/aliases",
            lambda m: _operation(
                b.change_aliases([GrpcToRest.convert_alias_operations(a) for a in m.actions])
            ),
        ),
        "ListCollectionAliases": ("GET", f"{at}/aliases", aliases),
        "ListAliases": ("GET", "/aliases", aliases),
        "CollectionClusterInfo": (
            "GET",
            f"{at}/cluster",
            lambda m: RestToGrpc.convert_collection_cluster_info(b.cluster(m.collection_name)),
        ),
    }


def _points(b: Backend) -> dict[str, tuple[str, str, Serve]]:
    def upsert(m: Any) -> models.UpdateResult:
        points = models.PointsList(
            points=[_point(point) for point in m.points],
            update_filter=_if(m, "update_filter", GrpcToRest.convert_filter),
            update_mode=_if(m, "update_mode", GrpcToRest.convert_update_mode),
        )
        return b.upsert(m.collection_name, points)

    def create_index(m: Any) -> models.UpdateResult:
        schema: models.PayloadFieldSchema
        if m.HasField("field_index_params"):
            schema = GrpcToRest.convert_payload_schema_params(m.field_index_params)
        else:
            schema = GrpcToRest.convert_payload_schema_type(
                grpc_field_type_to_payload_schema(m.field_type)
            )
        index = models.CreateFieldIndex(field_name=m.field_name, field_schema=schema)
        return b.create_index(m.collection_name, index)

    at = "/collections/{collection_name}"
    return {
        "Upsert": ("PUT", f"{at}/points", _written(upsert)),
        "Delete": (
            "POST",
            f"{at}/points/delete",
            _written(
                lambda m: b.delete(m.collection_name, GrpcToRest.convert_points_selector(m.points))
            ),
        ),
        "CreateFieldIndex": ("PUT", f"{at}/index", _written(create_index)),
        "DeleteFieldIndex": (
            "DELETE",
            f"{at}/index/{{field_name}}",
            _written(lambda m: b.delete_index(m.collection_name, m.field_name)),
        ),
    }


def _search(b: Backend) -> dict[str, tuple[str, str, Serve]]:
    def get(m: Any) -> Any:
        asked = models.PointRequest(
            ids=[GrpcToRest.convert_point_id(i) for i in m.ids],
            with_payload=_if(m, "with_payload", GrpcToRest.convert_with_payload_selector),
            with_vector=_if(m, "with_vectors", GrpcToRest.convert_with_vectors_selector),
        )
        return q.GetResponse(result=map(_record, b.retrieve(m.collection_name, asked)))

    def scroll(m: Any) -> Any:
        asked = models.ScrollRequest(
            filter=_if(m, "filter", GrpcToRest.convert_filter),
            offset=_if(m, "offset", GrpcToRest.convert_point_id),
            limit=_if(m, "limit"),
            with_payload=_if(m, "with_payload", GrpcToRest.convert_with_payload_selector),
            with_vector=_if(m, "with_vectors", GrpcToRest.convert_with_vectors_selector),
        )
        page = b.scroll(m.collection_name, asked)
        following = page.next_page_offset
        return q.ScrollResponse(
            result=map(_record, page.points),
            next_page_offset=None
            if following is None
            else RestToGrpc.convert_extended_point_id(following),
        )

    def count(m: Any) -> Any:
        asked = models.CountRequest(
            filter=_if(m, "filter", GrpcToRest.convert_filter), exact=_if(m, "exact")
        )
        found = b.count(m.collection_name, asked)
        return q.CountResponse(result=RestToGrpc.convert_count_result(found))

    def query(m: Any) -> Any:
        found = b.query(m.collection_name, GrpcToRest.convert_query_points(m))
        return q.QueryResponse(result=map(_scored, found.points))

    def query_batch(m: Any) -> Any:
        searches = [GrpcToRest.convert_query_points(asked) for asked in m.query_points]
        found = b.query_batch(m.collection_name, searches)
        return q.QueryBatchResponse(
            result=[q.BatchResult(result=map(_scored, one.points)) for one in found]
        )

    at = "/collections/{collection_name}"
    return {
        "Get": ("POST", f"{at}/points", get),
        "Scroll": ("POST", f"{at}/points/scroll", scroll),
        "Count": ("POST", f"{at}/points/count", count),
        "Query": ("POST", f"{at}/points/query", query),
        "QueryBatch": ("POST", f"{at}/points/query/batch", query_batch),
    }


def _snapshots(b: Backend) -> dict[str, tuple[str, str, Serve]]:
    def delete(m: Any) -> Any:
        snapshots.delete(b, m.collection_name, m.snapshot_name)
        return q.DeleteSnapshotResponse()

    described = RestToGrpc.convert_snapshot_description
    at = "/collections/{collection_name}/snapshots"
    return {
        "Create": (
            "POST",
            at,
            lambda m: q.CreateSnapshotResponse(
                snapshot_description=described(snapshots.create(b, m.collection_name))
            ),
        ),
        "List": (
            "GET",
            at,
            lambda m: q.ListSnapshotsResponse(
                snapshot_descriptions=map(described, snapshots.listed(b, m.collection_name))
            ),
        ),
        "Delete": ("DELETE", f"{at}/{{snapshot_name}}", delete),
    }


def parameters(message: Any) -> dict[str, str]:
    """What REST would have in the query of the URL."""
    known = message.DESCRIPTOR.fields_by_name
    found: dict[str, str] = {}
    if "wait" in known and message.HasField("wait"):
        found["wait"] = str(message.wait).lower()
    if "timeout" in known and message.HasField("timeout"):
        found["timeout"] = str(message.timeout)
    if "ordering" in known and message.HasField("ordering"):
        found["ordering"] = str(GrpcToRest.convert_write_ordering(message.ordering))
    if "read_consistency" in known and message.HasField("read_consistency"):
        wanted = GrpcToRest.convert_read_consistency(message.read_consistency)
        found["consistency"] = str(getattr(wanted, "value", wanted))
    return found


def _if(message: Any, name: str, convert: Callable[[Any], Any] | None = None) -> Any:
    """An optional field, converted; None where it is not set."""
    if not message.HasField(name):
        return None
    value = getattr(message, name)
    return value if convert is None else convert(value)


def _written(serve: Callable[[Any], models.UpdateResult]) -> Serve:
    def answer(message: Any) -> Any:
        start = time.perf_counter()
        result = RestToGrpc.convert_update_result(_acknowledged(serve(message), message))
        return q.PointsOperationResponse(result=result, time=time.perf_counter() - start)

    return answer


def _acknowledged(result: models.UpdateResult, message: Any) -> models.UpdateResult:
    if message.HasField("wait") and not message.wait:
        result.status = models.UpdateStatus.ACKNOWLEDGED
    return result


def _operation(result: bool) -> Any:
    return q.CollectionOperationResponse(result=result)


def _point(message: Any) -> models.PointStruct:
    return models.PointStruct(
        id=GrpcToRest.convert_point_id(message.id),
        payload=GrpcToRest.convert_payload(message.payload),
        vector=GrpcToRest.convert_vectors(message.vectors) if message.HasField("vectors") else {},
    )


def _record(record: models.Record) -> Any:
    # on this wire no payload and an empty one are the same
    return RestToGrpc.convert_record(
        record if record.payload is not None else record.model_copy(update={"payload": {}})
    )


def _scored(point: models.ScoredPoint) -> Any:
    return RestToGrpc.convert_scored_point(
        point if point.payload is not None else point.model_copy(update={"payload": {}})
    )
