"""How a collection's Edge shard is made and set up, and what its errors mean."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import DiskFull, InvalidInput, RetrievalError, StoreDenied, StoreFault
from retrieval.index.embedded.disk_space import require_space
from retrieval.index.embedded.lock import locked
from retrieval.index.payload_fields import IndexKind, index_paths
from retrieval.index.point_store import DENSE, LEXICAL, SPARSE, TOKENS
from retrieval.types import Manifest, Storage

if TYPE_CHECKING:
    import qdrant_edge as edge

OPEN_BYTES = 4 * 1024 * 1024
"""Disk space that opening takes: small files, and what replaying the log may write."""

EXACT_KB = 64 * 1024
"""Vectors of a segment, in KiB, up to which a scan is exact and takes a few milliseconds (43k
vectors of 384 dimensions): below it no approximate index is built."""

_FULL_SCAN_KB = 10_000
_QUANTILE = 0.99


def create_shard(
    path: Path, manifest: Manifest, min_free_bytes: int, free_space: Callable[[Path], int]
) -> None:
    """Make an empty shard in the new folder `path`, with its payload indexes, and close it.

    Raises:
        DiskFull, StoreDenied, StoreFault
    """
    import qdrant_edge as edge

    need = OPEN_BYTES + min_free_bytes  # so that something can be written, too
    require_space(path.parent, need, 0, free_space, "create the collection")
    path.mkdir()
    with edge_errors("create", path.parent):
        shard = edge.EdgeShard.create(str(path), shard_config(manifest))
        for field, schema in payload_indexes(manifest).items():
            shard.update(edge.UpdateOperation.create_field_index(field, schema))
        shard.flush()
        shard.close()


def count_shard(path: Path, manifest: Manifest) -> int:
    """How many points are in a shard that nobody has open.

    Raises:
        StoreFault: the engine cannot open it.
    """
    import qdrant_edge as edge

    with edge_errors("open", path.parent):
        shard = edge.EdgeShard.load(str(path), shard_config(manifest))
        try:
            return shard.count(edge.CountRequest(exact=True))
        finally:
            shard.close()


def check_embedded(manifest: Manifest) -> None:
    """Refuse what only a server can do.

    Raises:
        InvalidInput: shards, replicas or write consistency are given.
    """
    storage = manifest.storage
    for name in ("shards", "replicas", "write_consistency"):
        if getattr(storage, name) is not None:
            raise InvalidInput(
                f"{name}={getattr(storage, name)} was given, but the embedded engine keeps "
                "one copy of a collection in one folder",
                fix="Leave it out, or use a Qdrant server: --store http://HOST:6333.",
            )


def shard_config(manifest: Manifest) -> edge.EdgeConfig:
    """The vectors of a collection and how they are kept, as its layout and storage say."""
    import qdrant_edge as edge

    layout, storage = manifest.layout, manifest.storage
    memory = _memory(storage)
    vectors = {
        DENSE: edge.EdgeVectorParams(
            size=manifest.encoder.dimension,
            distance=edge.Distance.Cosine,
            quantization_config=_quantization(storage),
            memory=memory,
        )
    }
    sparse = {SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf, memory=memory)}
    if layout.lexical:
        sparse[LEXICAL] = edge.EdgeSparseVectorParams(memory=memory)
    if layout.token_dimension is not None:
        vectors[TOKENS] = edge.EdgeVectorParams(
            size=layout.token_dimension,
            distance=edge.Distance.Cosine,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            # m=0: only ever compared with chosen points, so a graph would be built for nothing
            hnsw_config=edge.HnswIndexConfig(
                m=0, ef_construct=4, full_scan_threshold=_FULL_SCAN_KB
            ),
            memory=memory,
        )
    return edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors=sparse,
        hnsw_config=edge.HnswIndexConfig(
            # no search crosses tenants: only the graphs within each are worth building
            m=0 if layout.tenants else storage.hnsw_m,
            payload_m=storage.hnsw_m if layout.tenants else None,
            ef_construct=storage.hnsw_ef_construct,
            full_scan_threshold=_FULL_SCAN_KB,
            memory=memory,
        ),
        optimizers=edge.EdgeOptimizersConfig(
            # one searched thread gains nothing from many segments; 2 leaves one to append to
            default_segment_number=2,
            indexing_threshold=EXACT_KB,
        ),
        max_search_threads=1,
    )


def payload_indexes(manifest: Manifest) -> dict[str, Any]:
    """Edge's index parameters by payload path."""
    import qdrant_edge as edge

    memory = _memory(manifest.storage)
    made: dict[IndexKind, Callable[[], Any]] = {
        "keyword": lambda: edge.KeywordIndexParams(memory=memory),
        "tenant": lambda: edge.KeywordIndexParams(is_tenant=True, memory=memory),
        "integer": lambda: edge.IntegerIndexParams(lookup=True, range=True, memory=memory),
        "float": lambda: edge.FloatIndexParams(memory=memory),
        "datetime": lambda: edge.DatetimeIndexParams(memory=memory),
    }
    paths = index_paths(manifest.layout, manifest.storage)
    return {path: made[kind]() for path, kind in paths.items()}


def _memory(storage: Storage) -> edge.Memory | None:
    import qdrant_edge as edge

    return edge.Memory.Cold if storage.on_disk else None


def _quantization(storage: Storage) -> Any:
    import qdrant_edge as edge

    if storage.quantization == "int8":
        return edge.ScalarQuantizationConfig(
            edge.ScalarType.Int8, quantile=_QUANTILE, memory=edge.Memory.Pinned
        )
    if storage.quantization == "binary":
        return edge.BinaryQuantizationConfig(memory=edge.Memory.Pinned)
    return None


def is_panic(error: BaseException) -> bool:
    """Whether Edge panicked; it exports no name for that, and it derives from BaseException."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def edge_errors(action: str, path: Path) -> Iterator[None]:
    """The one place where Edge's errors become the library's."""
    try:
        yield
    except RetrievalError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise  # KeyboardInterrupt, SystemExit
        text = str(error)
        if "WouldBlock" in text:
            raise locked(path) from error
        if "No space left" in text or "os error 28" in text:
            raise DiskFull(
                f"no space left to {action} the collection {path.name!r} in {path.parent}",
                fix="Free some space on that disk; what was acknowledged before is kept.",
            ) from error
        if "ermission denied" in text or "Read-only file system" in text:
            raise StoreDenied(
                f"no permission to {action} the collection {path.name!r} in {path.parent}",
                fix="Give this user read and write access to the store.",
            ) from error
        what = "panicked" if is_panic(error) else "failed"
        raise StoreFault(
            f"the embedded engine {what} on {action} of the collection {path.name!r} in "
            f"{path.parent}: {text}",
            fix="If opening fails too, files are damaged: restore the folder from a backup, or "
            "delete the collection and index again."
            if action in ("open", "create")
            else "Close the collection, open it again and repeat; what was acknowledged before "
            "is kept.",
        ) from error
