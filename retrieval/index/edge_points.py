"""Points in one Qdrant Edge shard, with the engine's sharp edges walled off.

Edge is fast and young. It holds the interpreter lock in every call and is not meant for two
threads at once (one lock here), nor for a forked child (refused), nor for two processes
(`StoreLocked`); a full disk would end the process (checked before each write); a panic would go
past `except Exception` (translated, and the shard is not used again); an empty filter would
delete everything (refused in filters.py); bad points would be applied in part (checked as a
whole in points.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import DiskFull, RetrievalError, StoreDenied, StoreFault
from retrieval.types import FloatArray

from .edge_convert import to_edge_filter
from .lock import CollectionLock, locked
from .points import DENSE, SPARSE, PointData, SparseTerms, VectorName, write_batches
from .store import SHARD, folder_bytes, hole_bytes, require_space

if TYPE_CHECKING:
    import qdrant_edge as edge
    from qdrant_client.models import Filter

MIN_FREE_BYTES = 64 * 1024 * 1024
"""Disk space that writing never touches; opening again may need most of it, see `EdgePoints`."""

_GROWTH = 3  # bytes on disk per byte of a point: the log, the segment and its indexes (1.8 seen)
_OPEN_BYTES = 4 * 1024 * 1024  # small files, and what replaying the log may write
_SEGMENT_BYTES = 40 * 1024 * 1024
_FULL_SCAN_KB = 10_000
_EXACT_KB = 64 * 1024
"""Vectors of a segment, in KiB, up to which a scan is exact and takes a few milliseconds (43k
vectors of 384 dimensions): below it no approximate index is built."""


def create_shard(
    path: Path, dimension: int, min_free_bytes: int, free_space: Callable[[Path], int]
) -> None:
    """Make an empty shard in the new folder `path`, flushed and closed.

    Raises:
        DiskFull, StoreDenied, StoreFault
    """
    import qdrant_edge as edge

    need = _OPEN_BYTES + min_free_bytes  # so that something can be written, too
    require_space(path.parent, need, 0, free_space, "create the collection")
    path.mkdir()
    with _edge_errors("create", path.parent):
        shard = edge.EdgeShard.create(str(path), _config(dimension))
        shard.update(
            edge.UpdateOperation.create_field_index("document_id", edge.PayloadSchemaType.Keyword)
        )
        shard.flush()
        shard.close()


class EdgePoints:
    """A `PointStore` on one Edge shard."""

    def __init__(
        self,
        path: Path,
        lock: CollectionLock,
        dimension: int,
        min_free_bytes: int,
        free_space: Callable[[Path], int],
    ) -> None:
        import qdrant_edge as edge

        self._path = path
        self._lock = lock
        self._min_free = min_free_bytes
        self._free_space = free_space
        self._pid = os.getpid()
        self._guard = threading.RLock()
        self._broken = ""
        shard = path / SHARD
        # Edge makes an empty shard of a missing one, and the loss would never be noticed
        if not any(shard.glob("segments/*/segment.json")):
            raise StoreFault(
                f"the collection {path.name!r} in {path.parent} has lost its data files (no "
                f"segments below {shard})",
                fix="Restore the folder from a backup, or delete the collection and index again.",
            )
        # Edge maps the files that vectors are appended to whole, which on tmpfs takes their holes
        need = _OPEN_BYTES + hole_bytes(shard.glob("segments/*/vector_storage-*/vectors/*.mmap"))
        require_space(path, need, 0, free_space, "open the collection")
        with _edge_errors("open", path):
            self._shard: edge.EdgeShard | None = edge.EdgeShard.load(str(shard), _config(dimension))
        _OPEN.add(self)

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points, a few hundred at a time, and flush them to the disk."""
        import qdrant_edge as edge

        batches = write_batches(points)
        self._require(_GROWTH * sum(p.size for p in points), f"write {len(points)} passages")
        for batch in batches:
            # others write to the same disk meanwhile
            self._require(_GROWTH * sum(p.size for p in batch), f"write {len(batch)} passages")
            with self._use("write") as shard:
                shard.update(
                    edge.UpdateOperation.upsert_points(
                        [
                            edge.Point(
                                point.id,
                                {
                                    DENSE: point.dense.tolist(),
                                    SPARSE: edge.SparseVector(
                                        list(point.sparse.indices), list(point.sparse.values)
                                    ),
                                },
                                point.payload,
                            )
                            for point in batch
                        ]
                    )
                )
        with self._use("flush") as shard:
            shard.flush()

    def nearest(
        self, using: VectorName, query: FloatArray | SparseTerms, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        """(id, score) of the best `limit` points."""
        import qdrant_edge as edge

        vector: Any
        if isinstance(query, SparseTerms):
            vector = edge.SparseVector(list(query.indices), list(query.values))
        else:
            vector = query.tolist()
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector, using=using),
            filter=to_edge_filter(where),
            params=edge.SearchParams(hnsw_ef=max(256, 2 * limit)),
        )
        with self._use("search") as shard:
            return [(str(point.id), point.score) for point in shard.query(request)]

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id."""
        with self._use("read") as shard:
            records = shard.retrieve(list(ids), True, False)
            return {str(record.id): record.payload or {} for record in records}

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """A page of points in id order."""
        import qdrant_edge as edge

        request = edge.ScrollRequest(
            offset=after, limit=limit, with_payload=True if fields is None else fields
        )
        with self._use("read") as shard:
            records, following = shard.scroll(request)
            page = [(str(record.id), record.payload or {}) for record in records]
        return page, None if following is None else str(following)

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id."""
        import qdrant_edge as edge

        self._update("delete", edge.UpdateOperation.delete_points(list(ids)))

    def delete_by_document(self, document_ids: Sequence[str]) -> None:
        """Delete the points of documents."""
        import qdrant_edge as edge

        match = edge.FieldCondition("document_id", match=edge.MatchAny(list(document_ids)))
        self._update(
            "delete", edge.UpdateOperation.delete_points_by_filter(edge.Filter(must=[match]))
        )

    def delete_matching(self, where: Filter) -> None:
        """Delete what a filter matches."""
        import qdrant_edge as edge

        chosen = to_edge_filter(where)
        assert chosen is not None
        self._update("delete", edge.UpdateOperation.delete_points_by_filter(chosen))

    def count(self, where: Filter | None) -> int:
        """The exact number of points that match."""
        import qdrant_edge as edge

        request = edge.CountRequest(exact=True, filter=to_edge_filter(where))
        with self._use("count") as shard:
            return shard.count(request)

    def optimize(self) -> None:
        """Merge segments and build HNSW graphs; blocks every thread of the process meanwhile."""
        with self._use("optimize") as shard:
            # segments are rewritten beside the old ones, and one to append to begins anew
            need = folder_bytes(self._path) * 3 // 2 + _SEGMENT_BYTES
            self._require(need, "rewrite the collection")
            shard.optimize()
            shard.flush()

    def close(self) -> None:
        """Flush, let go of the shard and free the lock."""
        if os.getpid() != self._pid:
            return  # the parent's: see _after_fork
        with self._guard:
            shard, self._shard = self._shard, None
            if shard is None:
                return
            _OPEN.discard(self)
            try:
                with _edge_errors("close", self._path):
                    if not self._broken:
                        shard.flush()
                    shard.close()
            finally:
                del shard
                self._lock.release()

    def _update(self, action: str, operation: edge.UpdateOperation) -> None:
        self._require(0, f"{action} passages")
        with self._use(action) as shard:
            shard.update(operation)
            shard.flush()

    def _require(self, need: int, action: str) -> None:
        require_space(self._path, need, self._min_free, self._free_space, action)

    @contextlib.contextmanager
    def _use(self, action: str) -> Iterator[edge.EdgeShard]:
        """The shard, for one thread at a time, with Edge's errors translated."""
        if os.getpid() != self._pid:
            # before the lock: another thread of the parent may have held it at the fork
            raise StoreFault(
                f"the collection {self._path.name!r} was opened before this process was forked "
                "from its parent, and cannot be used in both",
                fix="Open it in the process that uses it, or start workers with the "
                "multiprocessing method 'spawn'.",
            )
        with self._guard:
            if self._shard is None:
                raise StoreFault(
                    f"the collection {self._path.name!r} in {self._path.parent} is closed",
                    fix="Open it again.",
                )
            if self._broken:
                raise StoreFault(
                    f"the embedded engine failed earlier ({self._broken}) and the collection "
                    f"{self._path.name!r} cannot be used as it is",
                    fix="Close it and open it again; what was acknowledged before is kept.",
                )
            try:
                with _edge_errors(action, self._path):
                    yield self._shard
            except StoreFault as fault:
                if fault.__cause__ is not None and _is_panic(fault.__cause__):
                    self._broken = str(fault.__cause__)
                raise


_OPEN: weakref.WeakSet[EdgePoints] = weakref.WeakSet()
_LEFT_ALONE: list[object] = []


def _after_fork() -> None:
    """In a forked child: never run the shard's destructor, which would write to the files that
    the parent uses, and do not hold the lock beyond the parent's life."""
    for points in list(_OPEN):
        _LEFT_ALONE.append(points._shard)
        points._lock.release()


os.register_at_fork(after_in_child=_after_fork)


def _config(dimension: int) -> edge.EdgeConfig:
    import qdrant_edge as edge

    return edge.EdgeConfig(
        vectors={DENSE: edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)},
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=_FULL_SCAN_KB),
        optimizers=edge.EdgeOptimizersConfig(
            # one searched thread gains nothing from many segments; 2 leaves one to append to
            default_segment_number=2,
            indexing_threshold=_EXACT_KB,
        ),
        max_search_threads=1,
    )


def _is_panic(error: BaseException) -> bool:
    # Edge exports no name for it; it derives from BaseException
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def _edge_errors(action: str, path: Path) -> Iterator[None]:
    """The one place where Edge's errors become the library's."""
    try:
        yield
    except RetrievalError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
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
        what = "panicked" if _is_panic(error) else "failed"
        raise StoreFault(
            f"the embedded engine {what} on {action} of the collection {path.name!r} in "
            f"{path.parent}: {text}",
            fix="If opening fails too, files are damaged: restore the folder from a backup, or "
            "delete the collection and index again."
            if action in ("open", "create")
            else "Close the collection, open it again and repeat; what was acknowledged before "
            "is kept.",
        ) from error
