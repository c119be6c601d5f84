"""Points in one Qdrant Edge shard, with the engine's sharp edges walled off.

Edge is fast and young. It holds the interpreter lock in every call and is not meant for two
threads at once (one lock here), nor for a forked child (refused), nor for two processes
(`StoreLocked`); a full disk would end the process (checked before each write); a panic would go
past `except Exception` (translated, and the shard is not used again); an empty filter would
delete everything (refused in filters.py); bad points would be applied in part (checked as a
whole in batch.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import CollectionReplaced, StoreFault
from retrieval.index import upsert_checks as batch
from retrieval.index.embedded.conversion import from_edge_point, query_requests, to_edge_point
from retrieval.index.embedded.disk_space import folder_bytes, hole_bytes, require_space
from retrieval.index.embedded.filters import to_edge_filter
from retrieval.index.embedded.folder import SHARD
from retrieval.index.embedded.lock import CollectionLock
from retrieval.index.embedded.shard import EXACT_KB, OPEN_BYTES, edge_errors, is_panic, shard_config
from retrieval.index.payload_paths import payload_path
from retrieval.index.point_store import (
    DENSE,
    Bounds,
    Nearest,
    PointData,
)
from retrieval.types import FloatArray, IndexStatus, Manifest

if TYPE_CHECKING:
    import qdrant_edge as edge
    from qdrant_client.models import Filter

MIN_FREE_BYTES = 64 * 1024 * 1024
"""Disk space that writing never touches; opening again may need most of it, see `EdgePoints`."""

_GROWTH = 3  # bytes on disk per byte of a point: the log, the segment and its indexes (1.8 seen)
_SEGMENT_BYTES = 40 * 1024 * 1024
_TOGETHER = 16
"""Searches in one call of the engine, which lets no other thread run meanwhile. Exact ones share
a pass over the vectors: 8 take 31 ms together and 59 ms one by one (100k x 384)."""


class EdgePoints:
    """A `PointStore` on one Edge shard."""

    def __init__(
        self,
        path: Path,
        lock: CollectionLock,
        manifest: Manifest,
        min_free_bytes: int,
        free_space: Callable[[Path], int],
    ) -> None:
        import qdrant_edge as edge

        self._path = path
        self._lock = lock
        self._manifest = manifest
        self._min_free = min_free_bytes
        self._free_space = free_space
        self._pid = os.getpid()
        self._guard = threading.RLock()
        self._broken = ""
        self._unflushed = False
        shard = path / SHARD
        # Edge makes an empty shard of a missing one, and the loss would never be noticed
        if not any(shard.glob("segments/*/segment.json")):
            raise StoreFault(
                f"the collection {path.name!r} in {path.parent} has lost its data files (no "
                f"segments below {shard})",
                fix="Restore the folder from a backup, or delete the collection and index again.",
            )
        # Edge maps the files that vectors are appended to whole, which on tmpfs takes their holes
        need = OPEN_BYTES + hole_bytes(shard.glob("segments/*/vector_storage-*/*/*.mmap"))
        require_space(path, need, 0, free_space, "open the collection")
        with edge_errors("open", path):
            self._shard: edge.EdgeShard | None = edge.EdgeShard.load(
                str(shard), shard_config(manifest)
            )
        _OPEN.add(self)

    @property
    def bounds(self) -> Bounds:
        """None: the engine takes what it is given."""
        return Bounds()

    @property
    def copies(self) -> None:
        """None: there is one copy of each point."""

    def write(self, points: Sequence[PointData]) -> None:
        """Insert or replace points, a few hundred at a time, and flush them to the disk."""
        import qdrant_edge as edge

        batches = batch.write_batches(points)
        self.check()
        self._require(_GROWTH * sum(p.size for p in points), f"write {len(points)} passages")
        for some in batches:
            # others write to the same disk meanwhile
            self._require(_GROWTH * sum(p.size for p in some), f"write {len(some)} passages")
            with self._use("write") as shard:
                self._unflushed = True
                shard.update(edge.UpdateOperation.upsert_points([to_edge_point(p) for p in some]))
        with self._use("flush") as shard:
            self._flush(shard)
        self.check()  # what was written to files that are gone is not acknowledged

    def nearest(
        self, requests: Sequence[Nearest], payloads: dict[str, dict[str, Any]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each request, (id, score) of the best `limit` points; payloads are read apart."""
        import qdrant_edge as edge

        queries = query_requests(requests, self._manifest.storage)
        found: list[list[tuple[str, float]]] = []
        for start in range(0, len(queries), _TOGETHER):
            some = queries[start : start + _TOGETHER]
            with self._use("search") as shard:
                if len(some) == 1:
                    answers = [shard.query(some[0])]
                else:
                    answers = shard.query_batch(edge.QueryBatchRequest(some))
                found += [[(str(point.id), point.score) for point in best] for best in answers]
        return found

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Payloads by id."""
        with self._use("read") as shard:
            records = shard.retrieve(list(ids), True, False)
            return {str(record.id): record.payload or {} for record in records}

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Dense vectors by id."""
        with self._use("read") as shard:
            records = shard.retrieve(list(ids), False, [DENSE])
            return {
                str(record.id): np.asarray(record.vector[DENSE], dtype=np.float32)
                for record in records
                if isinstance(record.vector, dict) and DENSE in record.vector
            }

    def scroll(
        self, fields: list[str] | None, after: str | None, limit: int, where: Filter | None = None
    ) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
        """A page of points in id order."""
        import qdrant_edge as edge

        request = edge.ScrollRequest(
            offset=after,
            limit=limit,
            filter=to_edge_filter(where),
            with_payload=True if fields is None else fields,
        )
        with self._use("read") as shard:
            records, following = shard.scroll(request)
            page = [(str(record.id), record.payload or {}) for record in records]
        return page, None if following is None else str(following)

    def points(self, limit: int) -> Iterator[list[PointData]]:
        """Pages of whole points in id order."""
        import qdrant_edge as edge

        following: Any = None
        while True:
            request = edge.ScrollRequest(
                offset=following, limit=limit, with_payload=True, with_vector=True
            )
            with self._use("read") as shard:
                records, following = shard.scroll(request)
                page = [from_edge_point(record) for record in records]
            yield page
            if following is None:
                return
            following = str(following)

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points by id."""
        import qdrant_edge as edge

        self._update("delete", edge.UpdateOperation.delete_points(list(ids)))

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

    def check(self) -> None:
        """Ask whether the folder is still the one that was opened."""
        # a closed index, and one in a forked child, say so themselves
        if os.getpid() != self._pid or self._shard is None or self._lock.is_of(self._path):
            return
        raise CollectionReplaced(
            f"the folder {self._path} was removed or replaced since the collection was opened; "
            "nothing that is there now was changed",
            fix="Open it again, or restore it and then open it.",
        )

    def optimize(self) -> None:
        """Merge segments and build HNSW graphs; blocks every thread of the process meanwhile."""
        self.check()
        with self._use("optimize") as shard:
            # segments are rewritten beside the old ones, and one to append to begins anew
            kinds = 1 if self._manifest.layout.token_dimension is None else 3
            need = folder_bytes(self._path) * 3 // 2 + kinds * _SEGMENT_BYTES
            self._require(need, "rewrite the collection")
            self._unflushed = True
            shard.optimize()
            self._flush(shard)

    def status(self) -> IndexStatus:
        """How the shard is doing; also of one that a panic broke."""
        if self._broken:
            note = f"The embedded engine failed earlier ({self._broken}); close it and open again."
            return IndexStatus(points=0, indexed=0, segments=0, state="failed", notes=(note,))
        with self._use("look into") as shard:
            info = shard.info()
            points, segments = info.points_count, info.segments_count
            fields = tuple(sorted(info.payload_schema))
            indexed = min(points, self._indexed())
        notes: list[str] = []
        named = self._manifest.storage.fields
        lost = ", ".join(repr(name) for name in named if payload_path(name) not in fields)
        if lost:
            notes.append(f"There is no payload index on {lost}: filters on it read every passage.")
        scanned = points - indexed
        if scanned * self._manifest.encoder.dimension * 4 > 2 * EXACT_KB * 1024:
            notes.append(
                f"{scanned:,} of {points:,} vectors are not in the approximate index and are "
                "compared one by one; optimize() builds it."
            )
        return IndexStatus(
            points=points,
            indexed=indexed,
            segments=segments,
            state="ok",
            fields=fields,
            disk_bytes=folder_bytes(self._path),
            free_bytes=self._free_space(self._path),
            notes=tuple(notes),
        )

    def _indexed(self) -> int:
        """Dense vectors in HNSW graphs: Edge's own count adds up the vectors of all names."""
        total = 0
        for file in (self._path / SHARD).glob(f"segments/*/vector_index-{DENSE}/hnsw_config.json"):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                total += int(json.loads(file.read_text())["indexed_vector_count"])
        return total

    def close(self) -> None:
        """Flush, let go of the shard and free the lock."""
        if os.getpid() != self._pid:
            return  # the parent's: see _after_fork
        with self._guard:
            shard, self._shard = self._shard, None
            if shard is None:
                return
            _OPEN.discard(self)
            there = self._lock.is_of(self._path)
            try:
                with edge_errors("close", self._path):
                    # it opens files by their paths
                    if self._unflushed and not self._broken and there:
                        self._flush(shard)
                    shard.close()
            except StoreFault:
                if there:
                    raise
            finally:
                del shard
                self._lock.release()

    def _flush(self, shard: edge.EdgeShard) -> None:
        shard.flush()
        self._unflushed = False

    def _update(self, action: str, operation: edge.UpdateOperation) -> None:
        self.check()
        self._require(0, f"{action} passages")
        with self._use(action) as shard:
            self._unflushed = True
            shard.update(operation)
            self._flush(shard)
        self.check()

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
                with edge_errors(action, self._path):
                    yield self._shard
            except StoreFault as fault:
                if fault.__cause__ is not None and is_panic(fault.__cause__):
                    self._broken = str(fault.__cause__)
                self.check()
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
