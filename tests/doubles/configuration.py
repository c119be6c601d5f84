"""A collection's configuration as a server tells it: what was given, over the server's defaults."""

from __future__ import annotations

from typing import Any

from qdrant_client import models
from qdrant_client.local.local_collection import LocalCollection
from qdrant_client.local.payload_value_extractor import value_by_key

from .backend import Kept

_HNSW = models.HnswConfig(
    m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=0, on_disk=False
)
_WAL = models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0)
_OPTIMIZERS = models.OptimizersConfig(
    deleted_threshold=0.2,
    vacuum_min_vector_number=1000,
    default_segment_number=0,
    indexing_threshold=10_000,
    flush_interval_sec=5,
)


def described(collection: LocalCollection, kept: Kept) -> models.CollectionInfo:
    """What `GET /collections/{name}` answers."""
    given = kept.config
    points = [
        payload
        for payload, gone in zip(collection.payload, collection.deleted, strict=False)
        if not gone
    ]
    return models.CollectionInfo(
        status=kept.status,
        optimizer_status=models.OptimizersStatusOneOf.OK,
        indexed_vectors_count=0,
        points_count=len(points),
        segments_count=1,
        payload_schema={
            path: _index_info(path, schema, points) for path, schema in kept.indexes.items()
        },
        config=models.CollectionConfig(
            params=models.CollectionParams(
                vectors=given.vectors or {},
                sparse_vectors=given.sparse_vectors,
                shard_number=given.shard_number or 1,
                sharding_method=given.sharding_method,
                replication_factor=given.replication_factor or 1,
                write_consistency_factor=given.write_consistency_factor or 1,
                on_disk_payload=True if given.on_disk_payload is None else given.on_disk_payload,
            ),
            hnsw_config=_over(_HNSW, given.hnsw_config),
            optimizer_config=_over(_OPTIMIZERS, given.optimizers_config),
            wal_config=_over(_WAL, given.wal_config),
            quantization_config=given.quantization_config,
            strict_mode_config=_over(
                models.StrictModeConfigOutput(enabled=False), given.strict_mode_config
            ),
            metadata=collection.config.metadata,
        ),
    )


def apply_change(config: models.CreateCollection, change: models.UpdateCollection) -> None:
    """Bring what is kept of a collection up to date with a `PATCH`, in place."""
    for name, diff in (change.vectors or {}).items():
        target = config.vectors if name == "" else (config.vectors or {})[name]  # type: ignore[index]
        _assign(target, diff)
    for name, sparse in (change.sparse_vectors or {}).items():
        assert config.sparse_vectors is not None  # the engine has refused it otherwise
        config.sparse_vectors[name] = sparse
    if change.params is not None:
        _assign(config, change.params)
    for key in ("hnsw_config", "optimizers_config", "strict_mode_config"):
        if (diff := getattr(change, key)) is not None:
            before = getattr(config, key)
            setattr(config, key, diff if before is None else _over(before, diff))
    if change.quantization_config is not None:
        off = change.quantization_config == models.Disabled.DISABLED
        config.quantization_config = None if off else change.quantization_config  # type: ignore[assignment]


def _assign(target: Any, diff: Any) -> None:
    for key in diff.model_fields_set & set(type(target).model_fields):
        value = getattr(diff, key)
        before = getattr(target, key)
        if value == models.Disabled.DISABLED:
            value = None
        elif key == "hnsw_config" and before is not None:
            value = _over(before, value)
        if value is not None or key == "quantization_config":
            setattr(target, key, value)


def _over(defaults: Any, given: Any) -> Any:
    """`defaults` with the fields of `given` that are set and that it has."""
    if given is None:
        return defaults
    values = given.model_dump(exclude_none=True)
    known = set(type(defaults).model_fields)
    return defaults.model_copy(update={k: v for k, v in values.items() if k in known}, deep=True)


def _index_info(
    path: str, schema: models.PayloadFieldSchema, points: list[models.Payload]
) -> models.PayloadIndexInfo:
    if isinstance(schema, models.PayloadSchemaType):
        kind, params = schema, None
    else:
        kind, params = models.PayloadSchemaType(schema.type.value), schema
    return models.PayloadIndexInfo(
        data_type=kind,
        params=params,
        points=sum(1 for payload in points if value_by_key(payload, path)),
    )
