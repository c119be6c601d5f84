"""Snapshots of a double's collections: files that a collection can be made from again."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from qdrant_client import models

from .backend import Backend, Rejected

_FORMAT = "a snapshot of a Qdrant double, version 1"
_INDEXES: TypeAdapter[dict[str, models.PayloadFieldSchema]] = TypeAdapter(
    dict[str, models.PayloadFieldSchema]
)


def create(backend: Backend, name: str) -> models.SnapshotDescription:
    """Keep a snapshot of the collection as it is now."""
    with backend.lock:
        name, kept = backend.find(name)
        kept.snapshots_made += 1
        made = datetime.now(UTC)
        file = f"{name}-1-{made:%Y-%m-%d-%H-%M-%S}-{kept.snapshots_made}.snapshot"
        kept.snapshots[file] = _dump(backend, name)
        return _description(file, kept.snapshots[file], made)


def listed(backend: Backend, name: str) -> list[models.SnapshotDescription]:
    """The snapshots of a collection."""
    with backend.lock:
        _, kept = backend.find(name)
        return [_description(file, data) for file, data in kept.snapshots.items()]


def read(backend: Backend, name: str, file: str) -> bytes:
    """The bytes of a snapshot."""
    with backend.lock:
        _, kept = backend.find(name)
        if file not in kept.snapshots:
            raise Rejected(404, f"Not found: Snapshot {file} not found")
        return kept.snapshots[file]


def delete(backend: Backend, name: str, file: str) -> bool:
    """Forget a snapshot."""
    with backend.lock:
        read(backend, name, file)
        _, kept = backend.find(name)
        del kept.snapshots[file]
    return True


def recover(backend: Backend, name: str, data: bytes, checksum: str | None = None) -> bool:
    """Make the collection, or replace its points, from the bytes of a snapshot."""
    found = hashlib.sha256(data).hexdigest()
    if checksum and checksum != found:
        raise Rejected(
            400, f"Wrong input: Snapshot checksum mismatch: expected {checksum}, got {found}"
        )
    try:
        dump = json.loads(data)
        if dump["format"] != _FORMAT:
            raise ValueError(dump["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(400, f"Wrong input: Failed to read the snapshot: {error}") from error
    config = models.CreateCollection.model_validate(dump["config"])
    with backend.lock:
        snapshots: dict[str, bytes] = {}
        if name in backend.engine.aliases or name in backend.kept:
            name, kept = backend.find(name)
            if (kept.config.vectors, kept.config.sparse_vectors) != (
                config.vectors,
                config.sparse_vectors,
            ):
                raise Rejected(
                    400, "Wrong input: Snapshot is not compatible with existing collection"
                )
            snapshots = kept.snapshots
            aliases = [alias for alias, at in backend.engine.aliases.items() if at == name]
            backend.delete_collection(name)
        else:
            aliases = []
        backend.create_collection(name, config)
        backend.engine.aliases.update(dict.fromkeys(aliases, name))
        backend.kept[name].snapshots = snapshots
        for path, schema in _INDEXES.validate_python(dump["indexes"]).items():
            backend.create_index(
                name, models.CreateFieldIndex(field_name=path, field_schema=schema)
            )
        _load(backend, name, dump["points"])
    return True


def _dump(backend: Backend, name: str) -> bytes:
    kept = backend.kept[name]
    points: list[models.Record] = []
    for part in backend.parts(name):
        if total := part.engine.count(name).count:
            points += part.engine.scroll(name, limit=total, with_payload=True, with_vectors=True)[0]
    kept.config.metadata = backend.engine.collections[name].config.metadata
    dump = {
        "format": _FORMAT,
        "config": kept.config.model_dump(mode="json", exclude_none=True),
        "indexes": _INDEXES.dump_python(kept.indexes, mode="json", exclude_none=True),
        "points": [point.model_dump(mode="json", exclude_none=True) for point in points],
    }
    return json.dumps(dump).encode()


def _load(backend: Backend, name: str, points: list[dict[str, Any]]) -> None:
    held: dict[int, tuple[Backend, list[dict[str, Any]]]] = {}
    for point, parts in zip(
        points, backend.parts_of(name, [point["id"] for point in points]), strict=True
    ):
        for part in parts:
            held.setdefault(id(part), (part, []))[1].append(point)
    for part, of_it in held.values():
        _fill(part, name, of_it)


def _fill(backend: Backend, name: str, points: list[dict[str, Any]]) -> None:
    structs = [
        models.PointStruct(id=p["id"], vector=p.get("vector", {}), payload=p.get("payload"))
        for p in points
    ]
    backend.upsert(name, models.PointsList(points=structs))
    # Writing normalises vectors of a cosine collection, these are normalised: another pass may
    # turn a last bit, and a snapshot gives back what was there.
    collection = backend.engine.collections[name]
    for point in points:
        at = collection.ids[point["id"]]
        vectors = point.get("vector", {})
        for key, vector in (vectors if isinstance(vectors, dict) else {"": vectors}).items():
            if key in collection.vectors:
                collection.vectors[key][at] = np.asarray(vector, dtype=np.float32)
            elif key in collection.multivectors:
                collection.multivectors[key][at] = np.asarray(vector, dtype=np.float32)


def _description(
    file: str, data: bytes, made: datetime | None = None
) -> models.SnapshotDescription:
    return models.SnapshotDescription(
        name=file,
        creation_time=(made or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S"),
        size=len(data),
        checksum=hashlib.sha256(data).hexdigest(),
    )
