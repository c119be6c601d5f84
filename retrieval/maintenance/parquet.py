"""Collections as Parquet files: one row per point, the manifest in the file's metadata."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import CorpusError, MissingExtra
from retrieval.index.manifest import manifest_from_dict, manifest_to_dict
from retrieval.index.point_store import PointData, SparseTerms
from retrieval.index.upsert_checks import point
from retrieval.types import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

_MANIFEST = b"retrieval_manifest"
_ROWS = 2_048


def write(path: Path, manifest: Manifest, points: Iterable[PointData]) -> None:
    """Write points in row groups, so that memory stays bounded.

    Raises:
        MissingExtra, OSError
    """
    pa, pq = _arrow()
    schema = _schema(manifest)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        rows = iter(points)
        while batch := list(itertools.islice(rows, _ROWS)):
            columns: dict[str, list[Any]] = {
                "id": [one.id for one in batch],
                "dense": [one.dense.tolist() for one in batch],
                "bm25_indices": [list(one.sparse.indices) for one in batch],
                "bm25_values": [list(one.sparse.values) for one in batch],
                "payload": [json.dumps(one.payload, ensure_ascii=False) for one in batch],
            }
            if manifest.layout.lexical:
                weights = [one.lexical or SparseTerms((), ()) for one in batch]
                columns["lexical_indices"] = [list(one.indices) for one in weights]
                columns["lexical_values"] = [list(one.values) for one in weights]
            if manifest.layout.token_dimension is not None:
                columns["tokens"] = [
                    [] if one.tokens is None else one.tokens.tolist() for one in batch
                ]
            writer.write_table(pa.table(columns, schema=schema))


def read(path: Path) -> tuple[Manifest, Iterator[PointData], int]:
    """The manifest, the points, one row group at a time, and how many there are.

    Raises:
        CorpusError: the file is not an export, or is damaged.
        MissingExtra, OSError
    """
    pa, pq = _arrow()
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise _damaged(path, str(error)) from error
    metadata = file.schema_arrow.metadata or {}
    if _MANIFEST not in metadata:
        file.close()
        raise _damaged(path, "it has no manifest")
    manifest = manifest_from_dict(json.loads(metadata[_MANIFEST]), origin=str(path))
    return manifest, _points(path, file), file.metadata.num_rows


def _points(path: Path, file: Any) -> Iterator[PointData]:
    pa, _ = _arrow()
    try:
        with file:
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield point(
                        row["id"],
                        np.array(row["dense"], dtype=np.float32),
                        SparseTerms(tuple(row["bm25_indices"]), tuple(row["bm25_values"])),
                        json.loads(row["payload"]),
                        SparseTerms(tuple(row["lexical_indices"]), tuple(row["lexical_values"]))
                        if "lexical_indices" in row
                        else None,
                        np.array(row["tokens"], dtype=np.float32) if "tokens" in row else None,
                    )
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _schema(manifest: Manifest) -> pa.Schema:
    pa, _ = _arrow()
    fields = [
        pa.field("id", pa.string()),
        pa.field("dense", pa.list_(pa.float32(), manifest.encoder.dimension)),
        pa.field("bm25_indices", pa.list_(pa.uint32())),
        pa.field("bm25_values", pa.list_(pa.float64())),
        pa.field("payload", pa.string()),
    ]
    if manifest.layout.lexical:
        fields += [
            pa.field("lexical_indices", pa.list_(pa.uint32())),
            pa.field("lexical_values", pa.list_(pa.float64())),
        ]
    if manifest.layout.token_dimension is not None:
        fields.append(pa.field("tokens", pa.list_(pa.list_(pa.float32()))))
    stored = json.dumps(manifest_to_dict(manifest), ensure_ascii=False).encode()
    return pa.schema(fields, metadata={_MANIFEST: stored})


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="parquet", purpose="a .parquet file") from error
    return pyarrow, pyarrow.parquet


def _damaged(path: Path, what: str) -> CorpusError:
    return CorpusError(
        f"{path}: {what}; expected what `retrieval export` writes",
        fix="Export the collection again. What was imported so far is not searched yet.",
    )
