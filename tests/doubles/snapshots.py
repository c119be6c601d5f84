"""Snapshots of a double's collections: files that a collection can be made from again.

As on a server: they are tar archives; what is taken and what is uploaded lies in a folder of the
collection's name, which outlives the collection, and is told and deleted only while there is one of
that name. An upload stays there, whatever came of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from datetime import UTC, datetime
from typing import IO, Any, cast

import numpy as np
from pydantic import TypeAdapter
from qdrant_client import models

from .backend import Backend, Rejected

WAL = b"the write-ahead log of a Qdrant double, version 2"
"""What `0/wal/open-1` of a snapshot must hold."""

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
        data = backend.files.setdefault(name, {})[file] = _dump(backend, name)
        return _description(file, data, made)


def listed(backend: Backend, name: str) -> list[models.SnapshotDescription]:
    """The snapshots of a collection."""
    with backend.lock:
        return [_description(file, data) for file, data in _folder(backend, name).items()]


def read(backend: Backend, name: str, file: str) -> bytes:
    """The bytes of a snapshot."""
    with backend.lock:
        found = _folder(backend, name)
        if file not in found:
            raise Rejected(404, f"Not found: Snapshot {file} not found")
        return found[file]


def delete(backend: Backend, name: str, file: str) -> bool:
    """Forget a snapshot."""
    with backend.lock:
        read(backend, name, file)
        del _folder(backend, name)[file]
    return True


def _folder(backend: Backend, name: str) -> dict[str, bytes]:
    name, _ = backend.find(name)
    return backend.files.setdefault(name, {})


def recover(
    backend: Backend,
    name: str,
    data: bytes,
    checksum: str | None = None,
    file: str | None = None,
) -> bool:
    """Make the collection, or replace its points, from the bytes of a snapshot."""
    found = hashlib.sha256(data).hexdigest()
    with backend.lock:
        name = backend.engine.aliases.get(name, name)
        backend.files.setdefault(name, {})[file or f"{uuid.uuid4()}.snapshot"] = data
        if checksum and checksum != found:
            raise Rejected(
                400, f"Wrong input: Snapshot checksum mismatch: expected {checksum}, got {found}"
            )
        dump, wal = _parts(data)
        config = models.CreateCollection.model_validate(dump["create"])
        aliases: list[str] = []
        if name in backend.kept:
            kept = backend.kept[name]
            if (kept.config.vectors, kept.config.sparse_vectors) != (
                config.vectors,
                config.sparse_vectors,
            ):
                raise Rejected(
                    400, "Wrong input: Snapshot is not compatible with existing collection"
                )
            aliases = [alias for alias, at in backend.engine.aliases.items() if at == name]
            backend.delete_collection(name)
        backend.create_collection(name, config)
        backend.engine.aliases.update(dict.fromkeys(aliases, name))
        if wal != WAL:
            raise Rejected(500, "Service internal error: Can't init WAL: checksum mismatch")
        for path, schema in _INDEXES.validate_python(dump["indexes"]).items():
            backend.create_index(
                name, models.CreateFieldIndex(field_name=path, field_schema=schema)
            )
        _load(backend, name, dump["points"])
    return True


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """What is in a snapshot: the collection, and its log."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = {
                member.name: cast(IO[bytes], archive.extractfile(member)).read()
                for member in archive
            }
        dump = {**json.loads(members["config.json"]), **json.loads(members["0/points.json"])}
        return dump, members["0/wal/open-1"]
    except (tarfile.TarError, ValueError, KeyError) as error:
        raise Rejected(500, f"File IO error: {error}") from error


def _dump(backend: Backend, name: str) -> bytes:
    kept = backend.kept[name]
    points: list[models.Record] = []
    for part in backend.parts(name):
        if total := part.engine.count(name).count:
            points += part.engine.scroll(name, limit=total, with_payload=True, with_vectors=True)[0]
    kept.config.metadata = backend.engine.collections[name].config.metadata
    config = {
        "metadata": kept.config.metadata,
        "create": kept.config.model_dump(mode="json", exclude_none=True),
        "indexes": _INDEXES.dump_python(kept.indexes, mode="json", exclude_none=True),
    }
    held = {"points": [point.model_dump(mode="json", exclude_none=True) for point in points]}
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in (
            ("config.json", json.dumps(config).encode()),
            ("0/wal/open-1", WAL),
            ("0/points.json", json.dumps(held).encode()),
        ):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


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
